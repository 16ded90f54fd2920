"""Does a bare-metal kernel find what a PC loader promises? Small 32-bit multiboot kernels, assembled here and run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit import GuestError, Machine, UsageError
from labkit.abi import GUEST_IMAGES, PAGE_BYTES
from labkit.native import lib

Boot = Callable[..., Machine]
Assemble = Callable[[str], Path]

HEADER = """
    .section .text
    .globl _start
    .long 0x1BADB002, 3, -(0x1BADB002 + 3)
_start:
    movl $stack, %esp
"""
LIBRARY = """
say:                            # text at %esi to the console, as one string instruction
    pushl %esi
    xorl %ecx, %ecx
1:  cmpb $0, (%esi,%ecx)
    je 2f
    incl %ecx
    jmp 1b
2:  movl $0xe9, %edx
    rep outsb
    popl %esi
    ret
finish:                         # exit code (%al << 1) | 1
    movl $0xf4, %edx
    outb %al, %dx
    jmp finish
    .bss
    .skip 4096
stack:
"""


@pytest.fixture
def assemble(tmp_path: Path) -> Assemble:
    """A kernel from the body of its _start."""

    def build(body: str) -> Path:
        source, elf = tmp_path / "kernel.s", tmp_path / "kernel.elf"
        source.write_text(HEADER + body + LIBRARY)
        link = ["-m32", "-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x100000,--build-id=none", source, "-o", elf]
        subprocess.run(["gcc", *map(str, link)], check=True, capture_output=True)
        return elf

    return build


def run(boot: Boot, kernel: Path, **options: object) -> Machine:
    """Boot it and wait for its end."""
    vm = boot("blk", kernel=kernel, **options)
    vm.wait(timeout_s=60)
    return vm


def test_the_entry_is_as_multiboot_says(boot: Boot, assemble: Assemble) -> None:
    """EAX holds the magic, paging is off, protected mode on; the exit code is (v << 1) | 1."""
    kernel = assemble("""
        movl %eax, %edx
        movl %cr0, %ecx
        movb $1, %al
        cmpl $0x2BADB002, %edx
        jne finish
        movb $2, %al
        andl $0x80000001, %ecx
        cmpl $1, %ecx
        jne finish
        movb $21, %al
        jmp finish
    """)
    vm = run(boot, kernel)
    assert (vm.exit_code, vm.state) == (43, "exited")


def test_the_command_line_begins_with_the_file_name(boot: Boot, assemble: Assemble) -> None:
    """The information structure has the command line at 16: "<file name> <cmdline>"; rep outsb reaches the console."""
    kernel = assemble("""
        movb $1, %al
        testl $4, (%ebx)
        jz finish
        movl 16(%ebx), %esi
        call say
        movb $0, %al
        jmp finish
    """)
    vm = run(boot, kernel, cmdline="one two")
    assert (vm.console, vm.exit_code) == (f"{kernel} one two", 1)


def test_memory_is_told_as_it_is(boot: Boot, assemble: Assemble) -> None:
    """mem_lower is 640 KiB, mem_upper what lies above 1 MiB, the map's last entry ends where memory ends."""
    kernel = assemble("""
        movb $1, %al
        cmpl $640, 4(%ebx)
        jne finish
        movb $2, %al
        cmpl $31 * 1024, 8(%ebx)
        jne finish
        movb $3, %al
        movl 44(%ebx), %ecx
        addl 48(%ebx), %ecx
        movl -20(%ecx), %edx         # base of the last entry ...
        addl -12(%ecx), %edx         # ... and its length
        cmpl $32 << 20, %edx
        jne finish
        movb $0, %al
        jmp finish
    """)
    assert run(boot, kernel, memory_mib=32).exit_code == 1


def test_the_clock_goes_on(boot: Boot, assemble: Assemble) -> None:
    """rdtsc works and grows."""
    kernel = assemble("""
        rdtsc
        movl %eax, %ecx
        movl %edx, %ebx
        rdtsc
        subl %ecx, %eax
        sbbl %ebx, %edx
        orl %edx, %eax
        setz %al
        jmp finish
    """)
    assert run(boot, kernel).exit_code == 1


def test_a_pci_scan_finds_bridge_and_device(boot: Boot, assemble: Assemble) -> None:
    """Mechanism #1: an i440FX at slot 0; a virtio-blk whose I/O ports are assigned and decoded, and answer."""
    kernel = assemble("""
        call config                  # slot 0, register 0
        movb $1, %bl
        cmpl $0x12378086, %eax
        jne bad
        movb $2, %bl
        movl $0x80000000, %edi
1:  addl $0x800, %edi
        cmpl $0x80010000, %edi
        je bad
        movl %edi, %eax
        call config_at
        cmpl $0x10011af4, %eax
        jne 1b
        movb $3, %bl
        leal 0x10(%edi), %eax        # BAR0
        call config_at
        testb $1, %al
        jz bad
        andl $0xfffc, %eax
        movl %eax, %ebp
        movb $4, %bl
        leal 4(%edi), %eax           # COMMAND: I/O decoded
        call config_at
        testb $1, %al
        jz bad
        movb $5, %bl
        leal 12(%ebp), %edx          # QUEUE_NUM of queue 0
        inw %dx, %ax
        cmpw $128, %ax
        jne bad
        movb $6, %bl
        leal 20(%ebp), %edx          # capacity of the RAM disk
        inl %dx, %eax
        cmpl $32768, %eax
        jne bad
        movb $0, %bl
bad:    movb %bl, %al
        jmp finish
config: movl $0x80000000, %eax
config_at:
        movl $0xcf8, %edx
        outl %eax, %dx
        movl $0xcfc, %edx
        inl %dx, %eax
        ret
    """)
    assert run(boot, kernel).exit_code == 1


def test_a_console_is_there(boot: Boot, assemble: Assemble) -> None:
    """Port 0xe9 reads 0xe9."""
    kernel = assemble("""
        movl $0xe9, %edx
        inb %dx, %al
        jmp finish
    """)
    assert run(boot, kernel).exit_code == 0xE9 << 1 | 1


def test_a_console_without_end_is_cut(boot: Boot) -> None:
    """A guest that prints for ever does not eat the host: the first MiB is kept."""
    vm, text = boot("null"), b"0123456789abcdef" * 4096
    for _ in range(20):
        with vm._board.locked():
            lib.lk_console_put(vm.memory.native, text, len(text))
    assert len(vm.console) == 1 << 20


def test_a_kernel_that_crashes_says_where(boot: Boot, assemble: Assemble) -> None:
    """A triple fault in a kernel of one's own: GuestError from wait(), state "crashed"."""
    vm = boot("blk", kernel=assemble("ud2"))
    with pytest.raises(GuestError, match=r"rip=0x1000\w\w: triple fault"):
        vm.wait(timeout_s=60)
    assert vm.state == "crashed"


def test_a_kernel_that_spins_can_be_stopped(boot: Boot, assemble: Assemble) -> None:
    """wait() gives up with None; the machine can be paused, looked at, reset and closed."""
    vm = boot("blk", kernel=assemble("1: jmp 1b"))
    assert vm.wait(timeout_s=0.05) is None
    assert 0x100000 <= vm.registers()["rip"] < 0x100000 + PAGE_BYTES
    vm.pause()
    vm.reset()
    vm.resume()
    assert vm.state == "running"


def test_a_reset_runs_the_kernel_again(boot: Boot, assemble: Assemble) -> None:
    """An exited machine starts again at its entry, with an empty console."""
    vm = run(
        boot,
        assemble("""
        movl $text, %esi
        call say
        movb $0, %al
        jmp finish
text:   .asciz "again"
    """),
    )
    vm.reset()
    assert (vm.wait(timeout_s=60), vm.console) == (1, "again")


def test_a_kernel_has_no_agent(boot: Boot, assemble: Assemble) -> None:
    """vm.guest is for the lab's own guest, and says so."""
    vm = boot("blk", kernel=assemble("1: jmp 1b"))
    with pytest.raises(UsageError, match="kernel of your own"):
        vm.guest.read(0)


@pytest.mark.parametrize("irq", ["poll", "msix"])
@pytest.mark.parametrize("ioeventfd", [True, False])
def test_the_load_generator_runs_as_a_kernel(boot: Boot, irq: str, ioeventfd: bool) -> None:
    """storm.elf by its multiboot entry, as any other loader boots it: every request completes."""
    vm = run(
        boot,
        GUEST_IMAGES / "storm.elf",
        ioeventfd=ioeventfd,
        cmdline=f"requests=50 depth=4 batches=2 kicks=10 irq={irq}",
    )
    assert vm.exit_code == 1
    assert "requests=50 depth=4" in vm.console
    assert "errors=0" in vm.console
    assert vm.console.count("kicks=10 ticks=") == 2


def test_the_agent_parks_as_a_kernel_too(boot: Boot) -> None:
    """Booted as a kernel the agent still finds the park port, for the port belongs to the machine; it waits there."""
    vm = boot("blk", kernel=GUEST_IMAGES / "agent.elf")
    assert vm.wait(timeout_s=0.05) is None
    assert vm.state == "running"
