"""Is the emulated CPU a CPU? What KVM and hardware do of themselves: faults, gates, windows, halts, other processors.

What every back end must do is tested on all of them, by every test that boots a machine; this is about what the
library behind this one leaves to us.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from backends import KVM_DEVICE
from kernels import assemble

import labkit
from labkit import GuestError, HostError, Machine, UsageError
from labkit.cpu import CHOSEN_BY, emulated, kvm
from labkit.doctor import EMULATED_NS, probe_instruction_ns
from labkit.native import ffi, lib
from labkit.trace.events import Event

Boot = Callable[..., Machine]


@pytest.fixture(scope="module")
def kvm_emulates() -> bool:
    """Does the KVM of this machine emulate guest code? Such a one lacks some instructions and misses short windows."""
    return KVM_DEVICE.exists() and probe_instruction_ns() > EMULATED_NS


@pytest.fixture
def whole_cpu(cpu: str, kvm_emulates: bool) -> None:
    """Skip on a back end that is known not to do all that a CPU does."""
    if cpu == "kvm" and kvm_emulates:
        pytest.skip("this KVM emulates guest code, and not all of it")


def ends_with(boot: Boot, kernel: Path, **options: Any) -> int:
    """What the kernel wrote to the exit port."""
    vm = boot("null", kernel=kernel, **options)
    code = vm.wait(timeout_s=60)
    assert code is not None, f"it is at {vm.registers()['rip']:#x}"
    return code >> 1


# -- exceptions -------------------------------------------------------------------------------------------------------

FAULTS = """
guest_main:
    movl $VECTOR, %edi
    movl $handler, %esi
    call gate
    call interrupts
    xorl %ebx, %ebx
again:
    CAUSE
after:
    cmpl $3, %ebx               # as often as it was caused
    jne again
    movb $7, %al
    jmp finish
handler:
    WITH_CODE
    incl %ebx
    CHECK
    movq $after, (%rsp)
    iretq
wrong:
    movb $99, %al
    jmp finish
"""
POP_CODE = "popq %rcx"
FAULTING: dict[str, tuple[int, str, str, str]] = {  # vector, what causes it, is there an error code, what to check
    "divide": (0, "xorl %ecx, %ecx; divl %ecx", "", "cmpq $again + 2, (%rsp); jne wrong"),
    "breakpoint": (3, "int3", "", "cmpq $after, (%rsp); jne wrong"),
    "undefined": (6, "ud2", "", "cmpq $again, (%rsp); jne wrong"),
    "selector": (13, "movl $0x1230, %eax; movl %eax, %ds", POP_CODE, "cmpl $0x1230, %ecx; jne wrong"),
    "write to no page": (
        14,
        "movabsq $0x1234567890, %rax; movb $1, (%rax)",
        POP_CODE,
        "cmpl $2, %ecx; jne wrong; movq %cr2, %rcx; cmpq %rax, %rcx; jne wrong",
    ),
    "read of no page": (14, "movabsq $0x1234567890, %rax; movb (%rax), %cl", POP_CODE, "testl %ecx, %ecx; jnz wrong"),
    "interrupt instruction": (0x80, "int $0x80", "", "cmpq $after, (%rsp); jne wrong"),
}


@pytest.mark.usefixtures("whole_cpu")
@pytest.mark.parametrize("what", FAULTING)
def test_a_fault_goes_to_the_guests_handler(boot: Boot, tmp_path: Path, what: str) -> None:
    """By its own gate, with its error code and address, each time anew; iretq leads back."""
    vector, cause, code, check = FAULTING[what]
    text = FAULTS.replace("VECTOR", str(vector)).replace("CAUSE", cause).replace("WITH_CODE", code)
    assert ends_with(boot, assemble(tmp_path, text.replace("CHECK", check))) == 7


@pytest.mark.emulated
def test_a_fault_in_a_fault_is_a_double_fault(boot: Boot, tmp_path: Path) -> None:
    """The gate of the first is not there: the eighth is entered, with error code 0."""
    kernel = assemble(
        tmp_path,
        """
guest_main:
    movl $8, %edi
    movl $handler, %esi
    call gate
    call interrupts
    ud2
handler:
    popq %rax
    addb $8, %al
    jmp finish
""",
    )
    assert ends_with(boot, kernel) == 8


@pytest.mark.emulated
def test_a_handler_in_another_segment_is_said_to_be_beyond_this_cpu(boot: Boot, tmp_path: Path) -> None:
    """A gate with another selector than that of the running code: the crash says so, and is no triple fault."""
    kernel = assemble(
        tmp_path,
        """
guest_main:
    movl $6, %edi
    movl $finish, %esi
    call gate
    call interrupts
    movw $0x10, idt + 6 * 16 + 2
    ud2
""",
    )
    vm = boot("null", kernel=kernel)
    with pytest.raises(GuestError, match="cannot be executed here"):
        vm.wait(timeout_s=60)


# -- interrupts --------------------------------------------------------------------------------------------------------

INTERRUPTS = """
guest_main:
    movl $0x50, %edi
    movl $handler, %esi
    call gate
    call interrupts
    xorl %ebx, %ebx
    movl $0x40050, 0x300(%rbp)  # to itself
    BODY
    movb %bl, %al
    jmp finish
handler:
    incl %ebx
    movl $0, 0xb0(%rbp)
    iretq
"""
WINDOWS = {  # what the guest does with an interrupt pending -> how often it takes it
    "closed": ("nop; nop", 0),
    "open for one instruction": ("sti; nop; cli", 1),
    "shut at once": ("sti; cli", 0),
    "halted in": ("sti; hlt; cli", 1),
    "opened by popf": ("pushq $0x202; popfq; nop; cli", 1),
}


@pytest.mark.usefixtures("whole_cpu")
@pytest.mark.parametrize("window", WINDOWS)
def test_an_interrupt_is_taken_in_the_window_that_the_guest_gives(boot: Boot, tmp_path: Path, window: str) -> None:
    """Between STI and the end of the instruction after it nothing is taken; one instruction later it is."""
    body, times = WINDOWS[window]
    assert ends_with(boot, assemble(tmp_path, INTERRUPTS.replace("BODY", body))) == times


@pytest.mark.usefixtures("whole_cpu")
def test_a_frame_is_aligned_and_the_flags_come_back(boot: Boot, tmp_path: Path) -> None:
    """In 64-bit mode the frame begins on 16 bytes wherever RSP was; the handler runs with IF clear."""
    body = """
    movq %rsp, %r12
    subq $3, %rsp
    sti
    nop
    addq $3, %rsp
    cmpq %rsp, %r12
    jne wrong
    pushfq
    popq %rax
    testl $0x200, %eax
    jz wrong
    cli
    movb %bl, %al
    jmp finish
wrong:
    movb $99, %al
    jmp finish
    """
    text = INTERRUPTS.replace("BODY", body).replace(
        "handler:",
        "handler: leaq 40(%rsp), %rcx; testb $15, %cl; jnz wrong; pushfq; popq %rcx; testl $0x200, %ecx; jnz wrong",
    )
    assert ends_with(boot, assemble(tmp_path, text)) == 1


@pytest.mark.emulated
def test_an_interrupt_stack_of_its_own(boot: Boot, tmp_path: Path) -> None:
    """A gate that names IST 1 takes the stack that the task segment holds."""
    kernel = assemble(
        tmp_path,
        """
guest_main:
    movl $6, %edi
    movl $handler, %esi
    call gate
    movb $1, idt + 6 * 16 + 4   # IST 1
    call interrupts
    movl $tss, %eax             # its descriptor, in a table of our own
    movw %ax, task + 2
    shrl $16, %eax
    movb %al, task + 4
    lgdt gdt_with_task
    movl $0x18, %eax
    ltr %ax
    ud2
handler:
    subq $other_stack - 40, %rsp
    setz %al
    jmp finish
    .data
    .balign 16
table:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
task:
    .quad 0x0000890000000067, 0
gdt_with_task:
    .word . - table - 1
    .quad table
tss:
    .skip 0x24
    .quad other_stack
    .skip 0x60
    .skip 256
    .balign 16
other_stack:
    .text
""",
    )
    assert ends_with(boot, kernel) == 1


def test_another_processor_starts_where_it_is_told(boot: Boot, tmp_path: Path) -> None:
    """INIT and SIPI: it begins in real mode at the page of the message, and knows who it is from CPUID."""
    kernel = assemble(
        tmp_path,
        """
#define TRAMPOLINE 0x7000
guest_main:
    movl $TRAMPOLINE, %edi
    movl $begin, %esi
    movl $end - begin, %ecx
    rep movsb
    call interrupts
    movl $0x01000000, 0x310(%rbp)
    movl $0x4500, 0x300(%rbp)           # INIT
    movl $0x01000000, 0x310(%rbp)
    movl $0x4600 | TRAMPOLINE >> 12, 0x300(%rbp)
1:  cmpb $0, TRAMPOLINE + answer - begin
    je 1b
    movb TRAMPOLINE + answer - begin, %al
    jmp finish
    .code16
begin:
    movl $1, %eax
    cpuid
    shrl $24, %ebx                      # its APIC id
    addb $40, %bl
    movb %bl, %cs:answer - begin
    hlt
answer:
    .byte 0
end:
    .code64
""",
    )
    assert ends_with(boot, kernel, vcpus=2) == 41


# -- turns -------------------------------------------------------------------------------------------------------------


def story(vm: Machine) -> tuple[list[tuple[object, ...]], dict[str, int]]:
    """What happened, without the times that it took, and how many instructions and exits."""
    events: Sequence[Event] = vm.trace.events()
    told = [
        (event.kind, event.actor, event.queue, {name: event[name] for name in event.values if name != "result0"})
        for event in events
    ]
    with vm._board.cpu.held():  # the turn in which the last step was done is over, and counted
        return told, vm._board.cpu.statistics()


@pytest.mark.emulated
@pytest.mark.parametrize("irq", ["poll", "msix", "intx"])
@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_a_run_is_the_same_to_the_instruction(boot: Boot, irq: str, vcpus: int) -> None:
    """Two machines that are told the same do the same: every event, every instruction, on several vCPUs too.

    What comes from other threads comes when it comes: so every kick traps.
    """

    def run() -> tuple[list[tuple[object, ...]], dict[str, int]]:
        with boot("blk", ioeventfd=False, irq=irq, vcpus=vcpus) as vm:
            vm.guest.read(0)
            vm.guest.storm(200, depth=4)
            return story(vm)

    assert run() == run()


@pytest.mark.emulated
def test_every_vcpu_has_its_turn(boot: Boot) -> None:
    """One thread executes all of them, and each takes its part of a load."""
    vm = boot("blk", vcpus=8)
    storm = vm.guest.storm(800, depth=16)
    assert (storm.requests, storm.errors) == (800, 0)
    counts = ffi.new("lk_emulated_counts *")
    for index in range(8):
        lib.lk_emulated_counts_of(vm._board.cpu._native, index, counts)
        assert counts.instructions > emulated.QUANTUM
    names = {thread.read_text().strip() for thread in Path("/proc/self/task").glob("*/comm")}
    assert {name for name in names if name.startswith(f"{vm.name}-vcpu")} == {f"{vm.name}-vcpus"}


@pytest.mark.emulated
def test_what_the_device_wrote_can_be_executed(boot: Boot, tmp_path: Path) -> None:
    """Code that was executed, was written anew from outside, and is executed again after a reset, is the new code."""
    kernel = assemble(tmp_path, "guest_main:\n movb $1, %al\n jmp finish\n")
    vm = boot("null", kernel=kernel)
    assert vm.wait(timeout_s=60) == 1 << 1 | 1
    image = vm._board.plan.image.segments[0]
    at = image.data.index(b"\xb0\x01")
    changed = image.data[:at] + b"\xb0\x05" + image.data[at + 2 :]
    vm._board.plan = vm._board.plan._replace(
        image=vm._board.plan.image._replace(segments=(image._replace(data=changed), *vm._board.plan.image.segments[1:]))
    )
    vm.reset()
    assert vm.wait(timeout_s=60) == 5 << 1 | 1


# -- which back end ----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_kvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without /dev/kvm, and nobody says what "auto" is."""
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    monkeypatch.delenv(CHOSEN_BY, raising=False)


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without the package `unicorn`."""
    emulated.load_library.cache_clear()
    monkeypatch.setitem(sys.modules, "unicorn", None)


@pytest.mark.emulated
@pytest.mark.usefixtures("no_kvm", "leaves_nothing")
def test_auto_takes_the_emulated_cpu_where_there_is_no_kvm() -> None:
    """And says so."""
    with labkit.boot("blk") as vm:
        assert vm.cpu == "emulated"
        assert "emulated" in repr(vm)
        assert vm.guest.read(0).startswith(b"labkit")


@pytest.mark.usefixtures("no_kvm", "no_library", "leaves_nothing")
def test_without_any_cpu_the_error_says_what_would_do() -> None:
    """HostError: what is wrong with KVM and its mend, and the package that does without."""
    with pytest.raises(HostError, match=r"ENOENT.*--device /dev/kvm.*pip install 'labkit\[emulated\]'"):
        labkit.boot("blk")


@pytest.mark.usefixtures("no_library", "leaves_nothing")
def test_without_the_library_the_error_says_what_to_install() -> None:
    """HostError, whatever KVM can do."""
    with pytest.raises(HostError, match=r"pip install 'labkit\[emulated\]'"):
        labkit.boot("blk", cpu="emulated")


@pytest.mark.emulated
def test_another_library_is_refused(tmp_path: Path) -> None:
    """A file that is not there, and a library that lacks what is needed."""
    numbers = ffi.new("lk_unicorn_numbers *")
    assert lib.lk_unicorn_load(str(tmp_path / "none.so").encode(), numbers) < 0
    assert lib.lk_unicorn_load(b"libc.so.6", numbers) < 0
    emulated.load_library.cache_clear()
    emulated.load_library()


def test_the_environment_says_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no back end: UsageError names the variable and what it can be."""
    monkeypatch.setenv(CHOSEN_BY, "vax")
    with pytest.raises(UsageError, match=r"LABKIT_CPU=vax.*auto, kvm, emulated"):
        labkit.boot("blk")
    with pytest.raises(UsageError, match="cpu='vax'"):
        labkit.boot("blk", cpu="vax")
