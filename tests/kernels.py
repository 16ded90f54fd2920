"""How does a test get a kernel of its own? A few lines of assembly on the guests' own start, in 64-bit mode."""

from __future__ import annotations

import subprocess
from pathlib import Path

GUESTS = Path(__file__).resolve().parent.parent / "guests"
HEAD = """
#include "abi.h"
    .code64
    .globl guest_main, line_isr, device_interrupts, timer_interrupts
    .bss
line_isr: device_interrupts: timer_interrupts:
    .skip 8
    .text
"""
LIBRARY = """
finish:                         # exit code (%al << 1) | 1
    movl $PORT_EXIT, %edx
    outb %al, %dx
    jmp finish
gate:                           # vector %edi goes to %rsi
    shll $4, %edi
    movw %si, idt(%rdi)
    movl $0x8e000008, idt + 2(%rdi)
    shrl $16, %esi
    movw %si, idt + 6(%rdi)
    ret
interrupts:                     # the table is loaded, the local APIC takes interrupts; still cli
    lidt idt_pointer
    movl $GPA_LAPIC, %ebp
    movl $0x1ff, 0xf0(%rbp)
    ret
    .data
    .balign 16
idt_pointer:
    .word idt_end - idt - 1
    .quad idt
    .bss
    .balign 16
idt:
    .skip 256 * 16
idt_end:
"""


def run(*command: object) -> None:
    """A tool, which must succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def assemble(where: Path, body: str) -> Path:
    """A multiboot kernel whose vCPU 0 begins at `guest_main` in `body`, with 4 GiB mapped one to one and a stack."""
    source, script, wide, elf = (where / f"kernel.{suffix}" for suffix in ("S", "ld", "elf64", "elf"))
    source.write_text(HEAD + body + LIBRARY)
    include, objects = f"-I{GUESTS / 'include'}", [where / "kernel.o", where / "start.o"]
    run("gcc", "-E", "-P", "-x", "c", include, GUESTS / "guest.ld", "-o", script)
    for one, made in zip((source, GUESTS / "lib" / "start.S"), objects, strict=True):
        run("gcc", "-c", include, one, "-o", made)
    link = ("-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,-z,noexecstack,--no-warn-rwx-segments")
    run("gcc", *link, "-T", script, *objects, "-o", wide)
    run("objcopy", "-O", "elf32-i386", wide, elf)
    return elf
