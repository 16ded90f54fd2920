"""How does a guest begin? The two entries of the boot contract, as plain data that any back end can load."""

from __future__ import annotations

import struct
from functools import cache
from typing import NamedTuple

from labkit import abi

CR0_PE = 1 << 0
CR0_ET = 1 << 4
CR0_PG = 1 << 31
CR4_PAE = 1 << 5
EFER_LME = 1 << 8
EFER_LMA = 1 << 10

PTE_PRESENT = 1 << 0
PTE_WRITABLE = 1 << 1
PTE_LARGE = 1 << 7
LARGE_PAGE_BYTES = 2 << 20
GIB = 1 << 30
ENTRIES = 512

CODE_SELECTOR = 0x08
DATA_SELECTOR = 0x10


class Entry(NamedTuple):
    """Registers at the first instruction. `long_mode`: 64-bit with paging on, else 32-bit protected, paging off.

    `waits_for_sipi`: an application processor that a PC guest has to start itself.
    """

    rip: int
    long_mode: bool
    registers: dict[str, int]
    waits_for_sipi: bool = False

    @property
    def control(self) -> dict[str, int]:
        """CR0, CR3, CR4 and EFER that go with the mode."""
        if not self.long_mode:
            return {"cr0": CR0_PE | CR0_ET, "cr3": 0, "cr4": 0, "efer": 0}
        return {
            "cr0": CR0_PE | CR0_ET | CR0_PG,
            "cr3": abi.GPA_PAGE_TABLES,
            "cr4": CR4_PAE,
            "efer": EFER_LME | EFER_LMA,
        }


def lab_entry(rip: int, index: int, vcpus: int, info_gpa: int) -> Entry:
    """Entry of the lab's own guests: straight into 64-bit mode (guests/README.md)."""
    return Entry(rip, True, {"rdi": index, "rsi": vcpus, "rdx": info_gpa})


def multiboot_entry(rip: int, index: int, info_gpa: int) -> Entry:
    """Entry of a multiboot kernel: the magic in EAX, the information structure in EBX."""
    registers = {"rax": abi.NUMBERS["MULTIBOOT_ENTRY_MAGIC"], "rbx": info_gpa}
    return Entry(rip, False, registers, waits_for_sipi=index > 0)


@cache
def page_tables() -> bytes:
    """PML4, PDPT and four PDs at GPA_PAGE_TABLES: the first 4 GiB one to one, in 2 MiB pages."""
    base, table = abi.GPA_PAGE_TABLES, PTE_PRESENT | PTE_WRITABLE
    directories = [base + (2 + n) * abi.PAGE_BYTES for n in range(4)]
    pml4 = [(base + abi.PAGE_BYTES) | table]
    pdpt = [gpa | table for gpa in directories]
    pages = [n * LARGE_PAGE_BYTES | table | PTE_LARGE for n in range(4 * GIB // LARGE_PAGE_BYTES)]
    entries = pml4 + [0] * (ENTRIES - len(pml4)) + pdpt + [0] * (ENTRIES - len(pdpt)) + pages
    return struct.pack(f"<{len(entries)}Q", *entries)
