"""Which files are kernels, and is every other file refused with a reason? Kernels of a few bytes, made by gcc here."""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit import abi
from labkit.abi import NUMBERS
from labkit.errors import HostError, UsageError
from labkit.loader import Image, lab_guest, load_kernel

MAGIC, FLAGS = 0x1BADB002, 0x3
SEARCHED = NUMBERS["MULTIBOOT_SEARCH_BYTES"]
HOME = 0x200000
LIMIT = abi.MEMORY_MAX_MIB << 20
LAB_MAGIC = NUMBERS["LAB_MAGIC"]

KERNEL = """
        .section .text
        .org {before}
        .align 4
header: .long {magic}
        .long {flags}
        .long {checksum}
        .global start
start:  hlt
        jmp start
        .bss
        .skip 0x1234
"""
SCRIPT = """
ENTRY(start)
PHDRS {{ all PT_LOAD; }}
SECTIONS {{ . = {virtual:#x}; .all : AT({physical:#x}) {{ *(.text) *(.data) *(.bss) }} :all /DISCARD/ : {{ *(*) }} }}
"""

# field of the ELF32 header or of its first program header -> (offset, format)
EHDR, PHDR = 0, 52
ELF32 = {
    "e_ident_class": (EHDR + 4, "B"),
    "e_ident_data": (EHDR + 5, "B"),
    "e_machine": (EHDR + 18, "<H"),
    "e_entry": (EHDR + 24, "<I"),
    "e_phoff": (EHDR + 28, "<I"),
    "e_shoff": (EHDR + 32, "<I"),
    "e_phentsize": (EHDR + 42, "<H"),
    "e_phnum": (EHDR + 44, "<H"),
    "e_shentsize": (EHDR + 46, "<H"),
    "e_shnum": (EHDR + 48, "<H"),
    "p_type": (PHDR, "<I"),
    "p_offset": (PHDR + 4, "<I"),
    "p_paddr": (PHDR + 12, "<I"),
    "p_filesz": (PHDR + 16, "<I"),
    "p_memsz": (PHDR + 20, "<I"),
}
EM_ARM = 40


def build(
    folder: Path,
    *,
    bits: int = 32,
    before: int = 0,
    flags: int = FLAGS,
    magic: int = MAGIC,
    physical: int = HOME,
    virtual: int | None = None,
) -> Path:
    """A kernel of a few bytes; `before` bytes stand between the start of its segment and its multiboot header."""
    checksum = -(MAGIC + flags) & 0xFFFFFFFF
    source, script, kernel = folder / "kernel.S", folder / "kernel.ld", folder / f"kernel{bits}-{before}.elf"
    source.write_text(KERNEL.format(before=before, magic=magic, flags=flags, checksum=checksum))
    script.write_text(SCRIPT.format(physical=physical, virtual=physical if virtual is None else virtual))
    link = ["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,-z,noexecstack,-z,max-page-size=64"]
    link += ["-Wl,--no-warn-rwx-segments"]
    subprocess.run(["gcc", f"-m{bits}", *link, "-T", script, source, "-o", kernel], check=True, capture_output=True)
    return kernel


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a good 32-bit kernel."""
    return build(tmp_path_factory.mktemp("kernel")).read_bytes()


def patched(elf: bytes, **fields: int) -> bytes:
    """The same ELF32 with other values in its headers."""
    changed = bytearray(elf)
    for name, value in fields.items():
        offset, form = ELF32[name]
        struct.pack_into(form, changed, offset, value)
    return bytes(changed)


def field(elf: bytes, name: str) -> int:
    """A field of the headers."""
    offset, form = ELF32[name]
    value: int = struct.unpack_from(form, elf, offset)[0]
    return value


def load(folder: Path, elf: bytes, name: str = "kernel.elf") -> Image:
    """Load these bytes as a kernel."""
    path = folder / name
    path.write_bytes(elf)
    return load_kernel(path)


# -- kernels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 64])
def test_a_multiboot_kernel_is_loaded(tmp_path: Path, bits: int) -> None:
    """Segment, entry and name; an ELF of either class, since the entry is 32-bit code in both."""
    image = load_kernel(build(tmp_path, bits=bits))
    (segment,) = image.segments
    assert image.lab is False
    assert image.entry == HOME + 12
    assert (segment.gpa, segment.data[:4]) == (HOME, struct.pack("<I", MAGIC))
    assert segment.size >= len(segment.data)
    assert image.name == f"kernel{bits}-0.elf"


def test_the_part_beyond_the_file_is_zero(good: bytes, tmp_path: Path) -> None:
    """p_memsz says how much memory the segment takes; the file gives the first part of it."""
    size = field(good, "p_filesz")
    (segment,) = load(tmp_path, patched(good, p_memsz=size + 0x5000)).segments
    assert (len(segment.data), segment.size) == (size, size + 0x5000)


def test_a_kernel_linked_high_is_entered_at_its_physical_address(tmp_path: Path) -> None:
    """A multiboot loader loads by physical address and jumps with paging off: a virtual entry is translated."""
    image = load_kernel(build(tmp_path, virtual=0xC0200000))
    assert image.segments[0].gpa == HOME
    assert image.entry == HOME + 12


@pytest.mark.parametrize("at", [0, 4, SEARCHED - 12])
def test_the_header_may_stand_anywhere_in_the_first_8_kib(good: bytes, tmp_path: Path, at: int) -> None:
    """On any 4-byte boundary of the file, as long as all 12 bytes of it lie within 8,192."""
    header = struct.pack("<III", MAGIC, FLAGS, -(MAGIC + FLAGS) & 0xFFFFFFFF)
    blank = good.replace(struct.pack("<I", MAGIC), bytes(4)).ljust(2 * SEARCHED, b"\0")
    at = max(at, len(good) + 3 & ~3) if at < SEARCHED - 12 else at
    assert load(tmp_path, blank[:at] + header + blank[at + 12 :]).entry == HOME + 12


def test_optional_flags_are_no_obstacle(tmp_path: Path) -> None:
    """Flags 16 and above are offers: an ELF's own headers say where it is loaded."""
    assert load_kernel(build(tmp_path, flags=FLAGS | 0x10000)).entry == HOME + 12


def test_a_changed_file_is_read_again(good: bytes, tmp_path: Path) -> None:
    """What was parsed is kept for an unchanged file only."""
    assert load(tmp_path, good).segments[0].gpa == HOME
    path = tmp_path / "kernel.elf"
    stat = path.stat()
    path.write_bytes(patched(good, p_paddr=HOME + 0x1000, e_entry=HOME + 12))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert load_kernel(path).segments[0].gpa == HOME + 0x1000


# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(folder: Path, elf: bytes, why: str) -> None:
    """It is a UsageError that names the file and says why."""
    with pytest.raises(UsageError, match=rf"kernel\.elf.*{why}"):
        load(folder, elf)


def test_a_header_beyond_8_kib_is_not_found(tmp_path: Path) -> None:
    """The specification looks no further, and neither do other loaders."""
    with pytest.raises(UsageError, match="no multiboot 1 header in its first 8192 bytes"):
        load_kernel(build(tmp_path, before=SEARCHED))


@pytest.mark.parametrize("at", [SEARCHED - 8, SEARCHED - 4])
def test_a_header_across_8_kib_is_not_found(good: bytes, tmp_path: Path, at: int) -> None:
    """All 12 bytes have to lie within."""
    header = struct.pack("<III", MAGIC, FLAGS, -(MAGIC + FLAGS) & 0xFFFFFFFF)
    blank = good.replace(struct.pack("<I", MAGIC), bytes(4)).ljust(2 * SEARCHED, b"\0")
    refused(tmp_path, blank[:at] + header + blank[at + 12 :], "no multiboot 1 header")


def test_a_header_off_its_boundary_is_not_found(good: bytes, tmp_path: Path) -> None:
    """A magic at an odd address is a coincidence."""
    header = struct.pack("<III", MAGIC, FLAGS, -(MAGIC + FLAGS) & 0xFFFFFFFF)
    blank = good.replace(struct.pack("<I", MAGIC), bytes(4))
    refused(tmp_path, blank + bytes(-len(blank) % 4 + 2) + header, "no multiboot 1 header")


@pytest.mark.parametrize("flag", [0x4, 0x8, 0x8000])
def test_required_flags_it_does_not_know_are_refused(tmp_path: Path, flag: int) -> None:
    """Flags 0 to 15 are demands: a video mode is not set, so a kernel that wants one is not started."""
    with pytest.raises(UsageError, match=rf"multiboot flags {FLAGS | flag:#x} ask for something"):
        load_kernel(build(tmp_path, flags=FLAGS | flag))


def test_no_header_is_refused(good: bytes, tmp_path: Path) -> None:
    """An ELF without multiboot is a program, not a kernel."""
    refused(tmp_path, good.replace(struct.pack("<I", MAGIC), bytes(4)), "no multiboot 1 header")


def test_a_bad_checksum_is_refused(good: bytes, tmp_path: Path) -> None:
    """Magic, flags and checksum add up to zero, or it is no header."""
    refused(tmp_path, good.replace(struct.pack("<II", MAGIC, FLAGS), struct.pack("<II", MAGIC, 1)), "no multiboot 1")


def test_another_machine_is_refused(good: bytes, tmp_path: Path) -> None:
    """An ELF for ARM is named as one."""
    refused(tmp_path, patched(good, e_machine=EM_ARM), "an ELF for EM_ARM, not for x86")
    refused(tmp_path, patched(good, e_ident_data=2), "")


@pytest.mark.parametrize("content", [b"", b"\x7f", b"\x7fELF", b"#!/bin/sh\n", bytes(4096), b"\x7fELF\1\1\1".ljust(51)])
def test_what_is_no_elf_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, cut off in its header, a script, zeros."""
    refused(tmp_path, content, "")


def test_a_truncated_kernel_is_refused_wherever_it_was_cut(good: bytes, tmp_path: Path) -> None:
    """A download that broke off: cut anywhere before the end of its segment, it is no kernel."""
    end = field(good, "p_offset") + field(good, "p_filesz")
    for size in [*range(0, end, 61), end - 1]:
        refused(tmp_path, good[:size], "")


@pytest.mark.parametrize(
    "gpa",
    [0, abi.GPA_PAGE_TABLES, abi.GPA_MULTIBOOT_INFO, abi.GPA_MULTIBOOT_INFO + abi.MULTIBOOT_INFO_BYTES - 1],
)
def test_a_segment_over_the_firmwares_own_memory_is_refused(good: bytes, tmp_path: Path, gpa: int) -> None:
    """The information the kernel is about to read must not be the kernel."""
    refused(tmp_path, patched(good, p_paddr=gpa), "does not fit in memory")


@pytest.mark.parametrize(("gpa", "size"), [(LIMIT, 0x100), (LIMIT - 0xFF, 0x100), (HOME, LIMIT), (0xFFFFFF00, 0x1000)])
def test_a_segment_beyond_the_most_memory_is_refused(good: bytes, tmp_path: Path, gpa: int, size: int) -> None:
    """No machine could hold it, and nothing of that size is allocated to find out."""
    size = max(size, field(good, "p_filesz"))
    refused(tmp_path, patched(good, p_paddr=gpa, p_memsz=size), "does not fit in memory")


@pytest.mark.parametrize("entry", [0, HOME - 1, HOME + 0x100000, 0xFFFFFFFF])
def test_an_entry_outside_the_segments_is_refused(good: bytes, tmp_path: Path, entry: int) -> None:
    """The first instruction has to be in the image."""
    refused(tmp_path, patched(good, e_entry=entry), "is in no segment")


def test_more_file_than_memory_is_refused(good: bytes, tmp_path: Path) -> None:
    """A segment that says it has more bytes in the file than in memory contradicts itself."""
    refused(tmp_path, patched(good, p_memsz=field(good, "p_filesz") - 1), "larger than the file or than its memory")


def test_no_loadable_segment_is_refused(good: bytes, tmp_path: Path) -> None:
    """Nothing to load is nothing to run."""
    refused(tmp_path, patched(good, p_type=0), "no loadable segment")
    refused(tmp_path, patched(good, e_phnum=0), "no loadable segment")


def test_more_program_headers_than_the_file_holds_are_refused_at_once(good: bytes, tmp_path: Path) -> None:
    """A count in the billions, or headers of no size, are not believed, let alone walked."""
    section = struct.pack("<10I", *[0] * 7, 0xFFFFFFFF, 0, 0)  # PN_XNUM: the count stands in sh_info of section 0
    at = len(good)
    many = patched(good + section, e_phnum=0xFFFF, e_shoff=at, e_shnum=1, e_shentsize=len(section))
    refused(tmp_path, many, "")
    refused(tmp_path, patched(many, e_phentsize=0), "")


def test_a_file_that_is_missing_or_no_file_is_refused(tmp_path: Path) -> None:
    """Missing, a directory, a FIFO nobody writes to, a device without end: refused, and nobody waits."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(UsageError, match=path.name):
            load_kernel(path)


# -- the lab's own guests ----------------------------------------------------------------------------------------------


def lab_bytes(
    *, magic: int = LAB_MAGIC, version: int = abi.ABI_VERSION, entry: int = abi.GPA_IMAGE + 0x50, size: int = 0x2000
) -> bytes:
    """A page that holds the header of a lab guest of `size` bytes."""
    page = bytearray(0x1000)
    struct.pack_into("<IIQQ", page, NUMBERS["LAB_HEADER"], magic, version, entry, abi.GPA_IMAGE + size)
    return bytes(page)


@pytest.fixture
def as_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where "agent" is looked for in this test."""
    monkeypatch.setattr(abi, "GUEST_IMAGES", tmp_path)
    return tmp_path / "agent.bin"


def test_a_lab_guest_is_entered_where_its_header_says(as_agent: Path) -> None:
    """The 64-bit entry and the end stand in the header; the file is memory from GPA_IMAGE on."""
    as_agent.write_bytes(lab_bytes())
    image = lab_guest("agent")
    (segment,) = image.segments
    assert (image.lab, image.entry) == (True, abi.GPA_IMAGE + 0x50)
    assert (segment.gpa, len(segment.data), segment.size) == (abi.GPA_IMAGE, 0x1000, 0x2000)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lab_bytes(version=abi.ABI_VERSION + 1), r"built for ABI .* build it again"),
        (lab_bytes(magic=0), "no header of a lab guest"),
        (b"short", "no header of a lab guest"),
        (b"", "no header of a lab guest"),
        (lab_bytes(entry=0), "is in no segment"),
        (lab_bytes(entry=abi.GPA_IMAGE - 1), "is in no segment"),
        (lab_bytes(entry=abi.GPA_IMAGE + 0x2000), "is in no segment"),
        (lab_bytes(entry=(1 << 64) - 1), "is in no segment"),
        (lab_bytes(size=0xFFF), "its header says"),
        (lab_bytes(size=NUMBERS["IMAGE_MAX_BYTES"] + 1), "its header says"),
        (lab_bytes(size=-1), "its header says"),
    ],
)
def test_a_lab_guest_that_is_none_is_refused(as_agent: Path, content: bytes, told: str) -> None:
    """Another version, no header, an entry or an end elsewhere: a UsageError that says which."""
    as_agent.write_bytes(content)
    with pytest.raises(UsageError, match=told):
        lab_guest("agent")


def test_a_missing_lab_guest_is_told(as_agent: Path) -> None:
    """An installation without its guests says which file is missing."""
    assert not as_agent.exists()
    with pytest.raises(HostError, match=r"agent\.bin"):
        lab_guest("agent")


# -- anything at all ---------------------------------------------------------------------------------------------------

TICKS = itertools.count()
WORDS = st.one_of(
    st.sampled_from([0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF)
)


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    fields=st.dictionaries(st.sampled_from(sorted(ELF32)), WORDS, max_size=4),
    flips=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=4),
    cut=st.one_of(st.none(), st.integers(0, 400)),
)
def test_a_damaged_kernel_is_an_image_or_a_usage_error(
    good: bytes, tmp_path: Path, fields: dict[str, int], flips: list[tuple[int, int]], cut: int | None
) -> None:
    """Whatever stands in the headers: either it is loaded, and then it fits in memory, or it is a UsageError."""
    elf = bytearray(good)
    for name, value in fields.items():
        offset, form = ELF32[name]
        struct.pack_into(form, elf, offset, value & (1 << 8 * struct.calcsize(form)) - 1)
    for at, byte in flips:
        elf[at] = byte
    path = tmp_path / "damaged.elf"
    path.write_bytes(elf[:cut])
    os.utime(path, ns=(0, next(TICKS)))  # a content of its own, however fast the clock of the file system
    try:
        image = load_kernel(path)
    except UsageError:
        return
    assert any(segment.gpa <= image.entry < segment.gpa + segment.size for segment in image.segments)
    assert all(len(segment.data) <= segment.size and segment.gpa + segment.size <= LIMIT for segment in image.segments)
