"""What does a PC's firmware leave behind? BARs assigned, and for a kernel the multiboot information."""

from __future__ import annotations

import os
import struct

from labkit import abi
from labkit.abi import NUMBERS, PciCommand
from labkit.cpu.entry import page_tables
from labkit.errors import UsageError
from labkit.memory import GuestMemory
from labkit.pc.pci import BAR_BYTES, COMMAND, PciFunction

LOADER_NAME = b"labkit\0"
LOW_MEMORY_KIB = 640
HIGH_MEMORY = 1 << 20
MMAP_ENTRY = struct.Struct("<IQQI")  # size of the rest, base, length, type
MMAP_AVAILABLE, MMAP_RESERVED = 1, 2
INFO_BYTES = 120


def assign_bars(function: PciFunction) -> None:
    """BAR0 at BAR0_FIRST, BAR1 at GPA_MSIX_BAR, both decoded; bus-master is left to the driver.

    PCI_INTERRUPT_LINE says where INTA leads: pin INTX_PIN of the I/O APIC.
    """
    homes = {True: NUMBERS["BAR0_FIRST"], False: abi.GPA_MSIX_BAR}
    for bar in function.bars:
        function.put(bar.register, BAR_BYTES, homes[bar.io] | function.get(bar.register, BAR_BYTES))
    function.put(COMMAND, 2, PciCommand.IO | PciCommand.MEMORY)
    function.put(NUMBERS["PCI_INTERRUPT_LINE"], 1, NUMBERS["INTX_PIN"])
    function.map_bars()
    function.remember_power_on()


def write_page_tables(memory: GuestMemory) -> None:
    """The identity map the 64-bit entry promises."""
    memory.write(abi.GPA_PAGE_TABLES, page_tables())


def write_multiboot_info(memory: GuestMemory, command_line: str) -> None:
    """The multiboot 1 information structure: memory, command line, memory map, loader name; at GPA_MULTIBOOT_INFO."""
    base = abi.GPA_MULTIBOOT_INFO
    text = os.fsencode(command_line) + b"\0"
    mmap = _memory_map(memory.size_bytes)
    name_at = base + INFO_BYTES
    mmap_at = name_at + len(LOADER_NAME)
    text_at = mmap_at + len(mmap)
    if text_at + len(text) > base + abi.MULTIBOOT_INFO_BYTES:
        raise UsageError(f"cmdline of {len(text) - 1} bytes is too long")
    flags = sum(NUMBERS[f"MULTIBOOT_INFO_{part}"] for part in ("MEMORY", "CMDLINE", "MMAP", "LOADER"))
    upper_kib = (memory.size_bytes - HIGH_MEMORY) >> 10
    info = struct.pack("<5I", flags, LOW_MEMORY_KIB, upper_kib, 0, text_at)
    info = info.ljust(44, b"\0") + struct.pack("<2I", len(mmap), mmap_at)
    info = info.ljust(64, b"\0") + struct.pack("<I", name_at)
    memory.write(base, info.ljust(INFO_BYTES, b"\0") + LOADER_NAME + mmap + text)


def _memory_map(size_bytes: int) -> bytes:
    low = LOW_MEMORY_KIB << 10
    regions = (
        (0, low, MMAP_AVAILABLE),
        (low, HIGH_MEMORY - low, MMAP_RESERVED),
        (HIGH_MEMORY, size_bytes - HIGH_MEMORY, MMAP_AVAILABLE),
    )
    return b"".join(MMAP_ENTRY.pack(MMAP_ENTRY.size - 4, *region) for region in regions)
