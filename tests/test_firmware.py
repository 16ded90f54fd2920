"""What does a guest find in memory and on the bus when it begins? Re-read as a guest would, byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing

import pytest

from labkit import abi
from labkit.abi import NUMBERS
from labkit.cpu.entry import Entry, lab_entry, multiboot_entry, page_tables
from labkit.errors import UsageError
from labkit.memory import GuestMemory
from labkit.pc import firmware

INFO = abi.GPA_MULTIBOOT_INFO
MIB = 1 << 20


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """The least memory a machine has."""
    with closing(GuestMemory(abi.MEMORY_MIN_MIB)) as memory:
        yield memory


def word(memory: GuestMemory, gpa: int) -> int:
    """A 32-bit word."""
    return int.from_bytes(memory.read(gpa, 4), "little")


def text(memory: GuestMemory, gpa: int) -> bytes:
    """A string up to its NUL."""
    return memory.read(gpa, INFO + abi.MULTIBOOT_INFO_BYTES - gpa).split(b"\0", 1)[0]


# -- multiboot information ---------------------------------------------------------------------------------------------


def test_the_information_says_which_of_its_fields_are_valid(memory: GuestMemory) -> None:
    """Memory, command line, memory map and loader name, and no other: bits 0, 2, 6 and 9."""
    firmware.write_multiboot_info(memory, "")
    assert word(memory, INFO) == 1 << 0 | 1 << 2 | 1 << 6 | 1 << 9


def test_the_information_tells_the_memory(memory: GuestMemory) -> None:
    """640 KiB below, and all above the first MiB, in KiB."""
    firmware.write_multiboot_info(memory, "")
    assert (word(memory, INFO + 4), word(memory, INFO + 8)) == (640, (abi.MEMORY_MIN_MIB - 1) * 1024)


@pytest.mark.parametrize("line", ["", "kernel.elf", "kernel.elf root=vda quiet", "größe=1"])
def test_the_command_line_and_the_name_are_strings(memory: GuestMemory, line: str) -> None:
    """Both end with a NUL and lie inside the information's own region."""
    firmware.write_multiboot_info(memory, line)
    assert text(memory, word(memory, INFO + 16)) == line.encode()
    assert text(memory, word(memory, INFO + 64)) == b"labkit"


def test_a_command_line_need_not_be_text(memory: GuestMemory) -> None:
    """A kernel's path may hold bytes that are no UTF-8; they reach the guest as they are."""
    firmware.write_multiboot_info(memory, b"\xff\xfe.elf".decode(errors="surrogateescape"))
    assert text(memory, word(memory, INFO + 16)) == b"\xff\xfe.elf"


def test_the_memory_map_covers_all_of_memory_once(memory: GuestMemory) -> None:
    """Walked by its own size fields, as a guest walks it: no gap, no overlap, and the hole at 640 KiB is reserved."""
    firmware.write_multiboot_info(memory, "")
    length, at = word(memory, INFO + 44), word(memory, INFO + 48)
    end, regions = at + length, []
    while at < end:
        size, base, bytes_, kind = struct.unpack("<IQQI", memory.read(at, 24))
        regions.append((base, bytes_, kind))
        at += size + 4
    assert at == end
    assert regions == [(0, 640 << 10, 1), (640 << 10, 384 << 10, 2), (MIB, (abi.MEMORY_MIN_MIB - 1) * MIB, 1)]


def test_the_longest_command_line_fits_and_one_more_byte_does_not(memory: GuestMemory) -> None:
    """The region of the information is never left: what does not fit is a UsageError, and nothing is written beyond."""
    firmware.write_multiboot_info(memory, "")
    room = INFO + abi.MULTIBOOT_INFO_BYTES - word(memory, INFO + 16) - 1
    firmware.write_multiboot_info(memory, "x" * room)
    assert text(memory, word(memory, INFO + 16)) == b"x" * room
    with pytest.raises(UsageError, match="too long"):
        firmware.write_multiboot_info(memory, "x" * (room + 1))
    with pytest.raises(UsageError, match="too long"):
        firmware.write_multiboot_info(memory, "ö" * (room // 2 + 1))
    assert memory.read(INFO + abi.MULTIBOOT_INFO_BYTES, 4096) == bytes(4096)


# -- page tables -------------------------------------------------------------------------------------------------------


def translate(tables: bytes, virtual: int) -> int | None:
    """Walk the tables at GPA_PAGE_TABLES as a CPU in long mode does: the physical address, or None."""
    present, writable, large = 1, 2, 0x80
    table = abi.GPA_PAGE_TABLES
    for shift in (39, 30, 21, 12):
        at = table - abi.GPA_PAGE_TABLES + 8 * (virtual >> shift & 511)
        entry = int.from_bytes(tables[at : at + 8], "little")
        if not entry & present:
            return None
        assert entry & writable
        address = entry & 0x000FFFFFFFFFF000
        if shift == 21:
            assert entry & large
            return address | virtual & (1 << 21) - 1
        assert not entry & large
        table = address
    raise AssertionError("not reached: every leaf is a 2 MiB page")


def test_the_first_four_gigabytes_are_mapped_one_to_one() -> None:
    """Every 2 MiB page below 4 GiB translates to itself, and nothing above is mapped."""
    tables = page_tables()
    assert len(tables) == abi.PAGE_TABLES_BYTES
    for virtual in range(0, 4 << 30, 2 * MIB):
        assert translate(tables, virtual) == virtual
    for virtual in (abi.GPA_MSIX_BAR, NUMBERS["GPA_LAPIC"], 0x123456, (4 << 30) - 1):
        assert translate(tables, virtual) == virtual
    for virtual in (4 << 30, 5 << 30, 512 << 30, 1 << 46):
        assert translate(tables, virtual) is None


def test_the_page_tables_stand_where_cr3_points(memory: GuestMemory) -> None:
    """They are written to GPA_PAGE_TABLES and nowhere else."""
    firmware.write_page_tables(memory)
    assert lab_entry(0x100000, 0, 1, INFO).control["cr3"] == abi.GPA_PAGE_TABLES
    assert memory.read(abi.GPA_PAGE_TABLES, abi.PAGE_TABLES_BYTES) == page_tables()
    assert memory.read(0, abi.GPA_PAGE_TABLES) == bytes(abi.GPA_PAGE_TABLES)
    after = abi.GPA_PAGE_TABLES + abi.PAGE_TABLES_BYTES
    assert memory.read(after, 4096) == bytes(4096)


# -- entries -----------------------------------------------------------------------------------------------------------


def test_a_multiboot_kernel_is_entered_as_the_specification_says() -> None:
    """32-bit protected mode, paging off, the magic in EAX, the information in EBX; other CPUs wait to be started."""
    entry = multiboot_entry(0x100010, 0, INFO)
    assert (entry.rip, entry.long_mode, entry.waits_for_sipi) == (0x100010, False, False)
    assert entry.registers == {"rax": 0x2BADB002, "rbx": INFO}
    assert entry.control["cr0"] & 1, "protected mode"
    assert not entry.control["cr0"] >> 31, "paging off"
    assert multiboot_entry(0x100010, 1, INFO).waits_for_sipi


@pytest.mark.parametrize("index", [0, 3])
def test_a_lab_guest_is_entered_in_long_mode(index: int) -> None:
    """Every CPU at once, with its index, their number, and the information, as a function's arguments."""
    entry: Entry = lab_entry(0x100100, index, 4, INFO)
    assert (entry.rip, entry.long_mode, entry.waits_for_sipi) == (0x100100, True, False)
    assert entry.registers == {"rdi": index, "rsi": 4, "rdx": INFO}
    paging, pae, long_mode = entry.control["cr0"] >> 31, entry.control["cr4"] >> 5, entry.control["efer"] >> 8
    assert (paging, pae, long_mode & 5) == (1, 1, 5)
