"""Can a guest go on in another machine's CPUs? Saved, loaded, and run; and states that nobody was ever in."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Any

import pytest
from backends import KVM_DEVICE
from kernels import assemble

from labkit import GuestError, Machine, UsageError
from labkit.cpu.state import CpuState
from labkit.doctor import EMULATED_NS, probe_instruction_ns

Boot = Callable[..., Machine]
READY, GO, OUT = 0x800000, 0x800008, 0x800100  # in guest memory: what guest and test tell each other
GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rsp")
XMM, XMM_BYTES, XSTATE_BV, HAS_X87, HAS_SSE = 160, 256, 512, 1, 2  # offsets and bits in the area of XSAVE
CR4 = 8 * 24 + 2 * 16 + 3 * 8  # in kvm_sregs: after eight segments, two tables, CR0, CR2 and CR3
TIMER_CURRENT = 0x390  # in a local APIC
CLOCKS = Struct("=4Q")  # of the emulated CPU: its TSC, instructions executed, time slept, levels of lines
RUNS_ON = {"CLOCKS", "MSRS"}  # parts with the TSC in them, which runs on while a machine is stopped
WAIT = f"""
    movl $1, {READY}
1:  cmpl $0, {GO}
    je 1b
"""
DONE = "movb $7, %al; jmp finish"


def settle(vm: Machine) -> CpuState:
    """The state of a machine that is paused with nothing half done."""
    vm.pause()
    vm.registers()  # which settles the vCPUs
    return vm._board.cpu.save()


def ready(vm: Machine) -> Machine:
    """The machine, as soon as its guest says that it is where the test wants it."""
    while not vm.memory.read(READY, 1)[0]:
        assert vm.state == "running"
        os.sched_yield()
    return vm


def move(boot: Boot, kernel: Path, **options: Any) -> Machine:
    """A machine that goes on where another one was stopped, which is gone. It was at power-on until then."""
    there = boot("null", kernel=kernel, **options)
    there.pause()
    there.reset()
    settle(there)
    here = ready(boot("null", kernel=kernel, **options))
    plain = settle(here).to_plain()
    memory = here.memory.read(0, here.memory.size_bytes)
    here.close()
    there.memory.write(0, memory)
    there._board.cpu.load(CpuState.from_plain(plain))
    return there


def go_on(vm: Machine) -> int | None:
    """What its kernel writes to the exit port, when it may go on."""
    vm.memory.write(GO, b"\1")
    vm.resume()
    code = vm.wait(timeout_s=60)
    return None if code is None else code >> 1


def lasting(state: CpuState) -> Any:
    """What is equal in two states of a stopped machine: all but its TSC and, on KVM, the count of a timer."""
    every = [dict(parts) for parts in (*state.vcpus, state.shared)]
    for parts in every:
        if "LAPIC" in parts:
            apic = parts["LAPIC"]
            parts["LAPIC"] = apic[:TIMER_CURRENT] + bytes(4) + apic[TIMER_CURRENT + 4 :]
    return [{name: data for name, data in parts.items() if name not in RUNS_ON} for parts in every]


def words(vm: Machine, count: int, width: int = 8) -> list[int]:
    """What the guest left at OUT."""
    data = vm.memory.read(OUT, count * width)
    return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]


@pytest.fixture
def whole_cpu(cpu: str) -> None:
    """Skip on a KVM that emulates guest code: it does not know every instruction."""
    if cpu == "kvm" and KVM_DEVICE.exists() and probe_instruction_ns() > EMULATED_NS:
        pytest.skip("this KVM emulates guest code, and not all of it")


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("irq", ["msix", "intx"])
def test_a_state_that_is_loaded_is_what_was_saved(boot: Boot, irq: str) -> None:
    """Save, load into the same machine, save: equal, and equal in its plain form; the guest goes on parking."""
    vm = boot("blk", irq=irq, vcpus=2)
    vm.guest.read(0)
    state = settle(vm)
    vm._board.cpu.load(CpuState.from_plain(state.to_plain()))
    again = vm._board.cpu.save()
    assert lasting(again) == lasting(state)
    assert again.left_out == state.left_out
    assert CpuState.from_plain(state.to_plain()) == state
    vm.resume()
    assert len(vm.guest.read(0)) == 512


def test_what_a_reset_gave_is_what_is_saved(boot: Boot, tmp_path: Path) -> None:
    """A paused machine that was reset has not loaded anything yet; its state is the new one all the same."""
    kernel = assemble(tmp_path, f"guest_main: {WAIT} {DONE}")
    vm = ready(boot("null", kernel=kernel))
    far = settle(vm)
    vm.reset()
    assert lasting(settle(vm)) != lasting(far)
    entry = vm.registers()
    vm._board.cpu.load(far)
    assert vm.registers()["rip"] != entry["rip"]
    assert go_on(vm) == 7


# -- in another machine ------------------------------------------------------------------------------------------------


def test_general_registers_go_along(boot: Boot, tmp_path: Path) -> None:
    """Sixteen registers and the direction flag, in a loop that knows nothing but them."""
    values = {name: random.Random(name).getrandbits(64) for name in GENERAL[:-1]} | {"rsp": 0x700000}
    fill = "\n".join(f"movabsq ${value}, %{name}" for name, value in values.items())
    tell = "\n".join(f"movq %{name}, {OUT + 8 * i}" for i, name in enumerate(GENERAL))
    body = f"guest_main: {fill}\n std\n {WAIT}\n {tell}\n pushfq\n popq {OUT + 8 * len(GENERAL)}\n {DONE}"
    vm = move(boot, assemble(tmp_path, body))
    assert go_on(vm) == 7
    *registers, flags = words(vm, len(GENERAL) + 1)
    assert dict(zip(GENERAL, registers, strict=True)) == values
    assert flags >> 10 & 1


def test_tables_and_model_specific_registers_go_along(boot: Boot, tmp_path: Path) -> None:
    """GDTR, IDTR, and what wrmsr has set: the bases of FS and GS, SYSENTER's and SYSCALL's."""
    msrs = {0xC0000100: 0x11000, 0xC0000101: 0x22000, 0xC0000102: 0x33000, 0xC0000082: 0x44000, 0x175: 0x55000}
    fill = "\n".join(f"movl ${n}, %ecx; movl ${v}, %eax; xorl %edx, %edx; wrmsr" for n, v in msrs.items())
    tell = "\n".join(f"movl ${n}, %ecx; rdmsr; movl %eax, {OUT + 8 * i}" for i, n in enumerate(msrs))
    tables = f"sidt {OUT + 0x100}; sgdt {OUT + 0x110}; sidt {OUT + 0x200}; sgdt {OUT + 0x210}".split(";")
    body = f"""
    guest_main: call interrupts
        {fill}
        {tables[0]}; {tables[1]}
        {WAIT}
        {tell}
        {tables[2]}; {tables[3]}
        {DONE}"""
    vm = move(boot, assemble(tmp_path, body))
    assert go_on(vm) == 7
    assert words(vm, len(msrs)) == list(msrs.values())
    assert vm.memory.read(OUT + 0x100, 0x20) == vm.memory.read(OUT + 0x200, 0x20)


@pytest.mark.usefixtures("whole_cpu")
def test_floating_point_and_vector_registers_go_along(boot: Boot, tmp_path: Path) -> None:
    """Sixteen XMM registers, MXCSR, the x87's stack and its control word."""
    values = [random.Random(i).getrandbits(128) for i in range(16)]
    data = "\n".join(f".octa {value:#x}" for value in values)
    fill = "\n".join(f"movdqu vectors + {16 * i}, %xmm{i}" for i in range(16))
    tell = "\n".join(f"movdqu %xmm{i}, {OUT + 16 * i}" for i in range(16))
    body = f"""
    guest_main: movq %cr4, %rax
        orl $0x600, %eax
        movq %rax, %cr4
        {fill}
        fninit
        fld1
        fldpi
        fldcw control
        ldmxcsr mxcsr
        {WAIT}
        {tell}
        fstpt {OUT + 0x200}
        fstpt {OUT + 0x210}
        fnstcw {OUT + 0x220}
        fnstsw {OUT + 0x222}
        stmxcsr {OUT + 0x224}
        {DONE}
        .data
    control: .word 0x27f
    mxcsr:  .long 0x3f80
        .balign 16
    vectors: {data}
        .text"""
    vm = move(boot, assemble(tmp_path, body))
    assert go_on(vm) == 7
    assert words(vm, 16, 16) == values
    pi, one = ((0x4000, 0xC90FDAA22168C235), (0x3FFF, 1 << 63))
    stack = [vm.memory.read(OUT + 0x200 + 16 * i, 10) for i in range(2)]
    assert stack == [mantissa.to_bytes(8, "little") + top.to_bytes(2, "little") for top, mantissa in (pi, one)]
    assert vm.memory.u16(OUT + 0x220) == 0x27F
    assert vm.memory.u16(OUT + 0x222) >> 11 & 7 == 0  # both taken from the stack: its top is where it began
    assert vm.memory.u16(OUT + 0x224) == 0x3F80


@pytest.mark.kvm
def test_kvm_takes_floating_point_and_vector_registers_back(boot: Boot, tmp_path: Path) -> None:
    """Whatever instructions it knows: what is in the area of XSAVE comes out of it again."""
    vm = ready(boot("null", kernel=assemble(tmp_path, f"guest_main: {WAIT} {DONE}")))
    state = settle(vm)
    area = bytearray(state.vcpus[0]["XSAVE"])
    area[XMM : XMM + XMM_BYTES] = vectors = random.Random(0).randbytes(XMM_BYTES)
    area[XSTATE_BV] |= HAS_X87 | HAS_SSE
    vm._board.cpu.load(state._replace(vcpus=({**state.vcpus[0], "XSAVE": bytes(area)},)))
    assert vm._board.cpu.save().vcpus[0]["XSAVE"][XMM : XMM + XMM_BYTES] == vectors
    assert go_on(vm) == 7


def test_an_interrupt_that_waits_goes_along(boot: Boot, tmp_path: Path) -> None:
    """A vector in IRR, kept away by cli, is delivered in the other machine, by its own gate."""
    body = f"""
    guest_main: movl $0x41, %edi
        movl $handler, %esi
        call gate
        call interrupts
        movl $0x40041, 0x300(%rbp)       # to itself
        {WAIT}
        xorl %ebx, %ebx
        sti
        nop
        hlt
    2:  jmp 2b
    handler: {DONE}"""
    assert go_on(move(boot, assemble(tmp_path, body))) == 7


def test_a_timer_goes_on(boot: Boot, tmp_path: Path) -> None:
    """A guest that halts between the ticks of its local APIC is woken by them in the other machine."""
    body = f"""
    guest_main: movl $0x41, %edi
        movl $handler, %esi
        call gate
        call interrupts
        movl $0xb, 0x3e0(%rbp)           # not divided
        movl $0x20041, 0x320(%rbp)       # periodic
        movl $1000000, 0x380(%rbp)
    1:  sti
        hlt
        cli
        cmpl $0, {GO}
        je 1b
        cmpl $5, {OUT}
        jb 1b
        {DONE}
    handler: incl {OUT}
        movl $1, {READY}
        cmpl $0, {GO}
        jne 2f
        movl $0, {OUT}
    2:  movl $0, 0xb0(%rbp)
        iretq"""
    vm = move(boot, assemble(tmp_path, body))
    assert go_on(vm) == 7
    assert words(vm, 1, 4)[0] >= 5


def sleeper(tmp_path: Path, count: int) -> Path:
    """A kernel that halts until its timer has counted so far, by 128 ns each, and ends with 7."""
    body = f"""
    guest_main: movl $0x41, %edi
        movl $handler, %esi
        call gate
        call interrupts
        movl $0xa, 0x3e0(%rbp)           # divided by 128
        movl $0x41, 0x320(%rbp)          # once
        movl ${count}, 0x380(%rbp)
        movl $1, {READY}
        sti
    1:  hlt
        jmp 1b
    handler: {DONE}"""
    return assemble(tmp_path, body)


@pytest.mark.emulated
def test_a_guest_that_halts_for_seconds_is_woken(boot: Boot, tmp_path: Path) -> None:
    """2.2 s are more nanoseconds than 31 bits hold."""
    vm = boot("null", kernel=sleeper(tmp_path, 2_200_000_000 // 128))
    assert vm.wait(timeout_s=60) == 7 << 1 | 1


@pytest.mark.emulated
def test_the_time_that_a_guest_has_slept_goes_along(boot: Boot, tmp_path: Path) -> None:
    """Timers count instructions and the time slept: a state that has slept longer finds its timer over, at once."""
    vm = ready(boot("null", kernel=sleeper(tmp_path, 0xFFFFFFFF)))  # about nine minutes
    state = settle(vm)
    tsc_ns, executed, slept_ns, lines = CLOCKS.unpack(state.shared["CLOCKS"])
    later = CLOCKS.pack(tsc_ns, executed, slept_ns + 600 * 10**9, lines)
    vm._board.cpu.load(state._replace(shared={**state.shared, "CLOCKS": later}))
    assert CLOCKS.unpack(vm._board.cpu.save().shared["CLOCKS"])[1:] == CLOCKS.unpack(later)[1:]
    vm.resume()
    assert vm.wait(timeout_s=60) == 7 << 1 | 1


@pytest.mark.parametrize("irq", ["msix", "intx"])
def test_a_processor_that_waits_to_be_started_still_does(boot: Boot, tmp_path: Path, irq: str) -> None:
    """The second vCPU of a kernel of one's own is as it was at power-on, there as here."""
    vm = move(boot, assemble(tmp_path, f"guest_main: {WAIT} {DONE}"), vcpus=2, irq=irq)
    assert go_on(vm) == 7


REAL = """
    movw $0x700, %ax
    movw %ax, %ds                       # the page, by a base of its own
    movl $0x12345678, %ebx
    movb $1, %ds:there - begin
1:  cmpb $0, %ds:go - begin
    je 1b
    cmpl $0x12345678, %ebx
    jne 2f
    movb $41, %ds:answer - begin
2:  hlt
"""
PROTECTED = """
    lgdtl %cs:pointer - begin
    movl $1, %eax
    movl %eax, %cr0
    ljmpl $8, $0x7000 + 3f - begin
    .code32
3:  movl $16, %eax
    movl %eax, %ds
    movl %eax, %ss
    movl %eax, %es
    movl $24, %eax
    movl %eax, %fs                      # begins at the page: another base than that of the others
    movl $0x7900, %esp
    movl $0x12345678, %ebx
    movb $1, 0x7000 + there - begin
1:  cmpb $0, %fs:go - begin
    je 1b
    movw $0, 0x7000 + table + 24 - begin # what FS had been loaded from
    pushl %ebx
    cmpl $0x12345678, (0x7900 - 4)
    jne 2f
    movb $41, %fs:answer - begin
2:  hlt
    .balign 8
table: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x004093007000ffff
pointer: .word 31; .long 0x7000 + table - begin
"""


@pytest.mark.parametrize("mode", [REAL, PROTECTED], ids=["real", "protected"])
def test_another_processor_goes_along_in_its_mode(boot: Boot, tmp_path: Path, mode: str) -> None:
    """One that was started, and is in real mode or in 32-bit mode, keeps its segments: their hidden parts too."""
    body = f"""
    guest_main: movl $0x7000, %edi
        movl $begin, %esi
        movl $end - begin, %ecx
        rep movsb
        call interrupts
        movl $0x01000000, 0x310(%rbp)
        movl $0x4500, 0x300(%rbp)
        movl $0x01000000, 0x310(%rbp)
        movl $0x4607, 0x300(%rbp)
    1:  cmpb $0, 0x7000 + there - begin
        je 1b
        {WAIT}
        movb $1, 0x7000 + go - begin
    1:  movb 0x7000 + answer - begin, %al
        testb %al, %al
        jz 1b
        jmp finish
        .code16
    begin: {mode}
    there: .byte 0
    go: .byte 0
    answer: .byte 0
    end: .code64
    """
    assert go_on(move(boot, assemble(tmp_path, body), vcpus=2)) == 41


def test_a_mode_that_cannot_be_loaded_again_is_said_to_be_one(boot: Boot, tmp_path: Path, cpu: str) -> None:
    """In 32-bit code under long mode the emulated CPU has no state to give; KVM has."""
    body = f"""
    guest_main: lgdt pointer
        pushq $8
        pushq $narrow
        lretq
        .code32
    narrow: {WAIT}
    1:  jmp 1b
        .code64
        .data
    table: .quad 0, 0x00cf9b000000ffff
    pointer: .word 15
        .quad table
        .text"""
    vm = ready(boot("null", kernel=assemble(tmp_path, body)))
    if cpu == "kvm":
        vm._board.cpu.load(settle(vm))
        return
    with pytest.raises(UsageError, match="vCPU 0 is in a mode that cannot be loaded again"):
        settle(vm)


# -- states of nobody --------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(boot: Boot, tmp_path: Path) -> Machine:
    """A machine in the middle of its guest, which ends with 7."""
    return ready(boot("null", kernel=assemble(tmp_path, f"guest_main: {WAIT} {DONE}"), vcpus=2, irq="intx"))


WRONG = [
    None,
    -1,
    1 << 80,
    2.5,
    "x" * 1000,
    "\n",
    b"x",
    [],
    {},
    [None],
    [b""],
    {"a": 1},
    {1: b""},
    {"REGS": b"", "": b""},
]


@pytest.mark.parametrize("field", [*CpuState._fields])
def test_every_field_is_looked_at(stopped: Machine, field: str) -> None:
    """Another type, size or range in any field of the plain form is a UsageError, and the guest goes on."""
    plain = settle(stopped).to_plain()
    tried = 0
    for wrong in WRONG:
        if field == "left_out" and wrong == []:
            continue  # nothing was left out: as good as any
        with pytest.raises(UsageError):
            stopped._board.cpu.load(CpuState.from_plain({**plain, field: wrong}))
        tried += 1
    assert tried >= len(WRONG) - 1
    for wrong in (None, [], {}, {name: plain[name] for name in plain if name != field}, {**plain, "more": 1}):
        with pytest.raises(UsageError):
            CpuState.from_plain(wrong)
    assert go_on(stopped) == 7


def test_every_part_is_looked_at(stopped: Machine) -> None:
    """A part that is missing, is longer or shorter, or that nobody knows, is a UsageError, and nothing is changed."""
    state = settle(stopped)
    whole = [*state.vcpus, state.shared]
    wrongs = [{**parts, "NONSENSE": b""} for parts in whole]
    places = list(range(len(whole)))
    for place, parts in enumerate(whole):
        for name, data in parts.items():
            sizes = [data[:-1], data + b"\0", b"x"]
            wrongs += [{**parts, name: other} for other in sizes]
            places += [place] * len(sizes)
    for place, wrong in zip(places, wrongs, strict=True):
        mixed = [*whole[:place], wrong, *whole[place + 1 :]]
        with pytest.raises(UsageError):
            stopped._board.cpu.load(state._replace(vcpus=tuple(mixed[:-1]), shared=mixed[-1]))
    with pytest.raises(UsageError):
        stopped._board.cpu.load(state._replace(vcpus=({}, {})))
    assert lasting(stopped._board.cpu.save()) == lasting(state)
    assert go_on(stopped) == 7


def spoiled(data: bytes, chance: random.Random) -> bytes:
    """The same number of bytes: all zeros, all ones, nonsense, or with a few of them changed."""
    how = chance.randrange(5)
    if how < 3:
        return (b"\0" * len(data), b"\xff" * len(data), chance.randbytes(len(data)))[how]
    changed = bytearray(data)
    for _ in range(chance.choice((1, 3, 20))):
        changed[chance.randrange(len(changed))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return bytes(changed)


@pytest.mark.parametrize("seed", range(6))
def test_nonsense_harms_nobody_but_the_guest(stopped: Machine, seed: int) -> None:
    """Any bytes in a part: a UsageError, or a guest that is as it is; the machine can still be reset and used."""
    chance, state = random.Random(seed), settle(stopped)
    for _ in range(25):
        place = chance.randrange(3)
        mixed = [*state.vcpus, state.shared]
        name = chance.choice(sorted(mixed[place]))
        mixed[place] = {**mixed[place], name: spoiled(mixed[place][name], chance)}
        try:
            stopped._board.cpu.load(state._replace(vcpus=tuple(mixed[:-1]), shared=mixed[-1]))
        except UsageError:
            continue
        try:
            stopped.resume()
            stopped.wait(timeout_s=0.01)
        except GuestError:
            pass
        stopped.reset()
        settle(stopped)
    stopped.memory.write(GO, b"\0")
    stopped.memory.write(READY, b"\0")
    if stopped.state != "paused":
        stopped.reset()
    assert go_on(stopped) == 7


@pytest.mark.kvm
def test_an_msr_is_told_once(boot: Boot) -> None:
    """They go to the kernel in one call, which takes no long list: twice the same, or a half one, is a UsageError."""
    vm = boot("blk")
    state = settle(vm)
    data = state.vcpus[0]["MSRS"]
    for wrong in (data + data[:12], data * 400, data[:-1]):
        with pytest.raises(UsageError, match="MSRS of vCPU 0"):
            vm._board.cpu.load(state._replace(vcpus=({**state.vcpus[0], "MSRS": wrong},)))
    vm._board.cpu.load(state._replace(vcpus=({**state.vcpus[0], "MSRS": b""},)))
    vm.resume()
    assert vm.guest.read(0).startswith(b"labkit")


@pytest.mark.kvm
def test_what_is_known_and_refused_all_the_same_is_named(boot: Boot) -> None:
    """The one call tells only that the kernel refused; which part it was, one by one tells."""
    vm = boot("blk")
    state = settle(vm)
    sregs = bytearray(state.vcpus[0]["SREGS"])
    sregs[CR4 : CR4 + 8] = b"\xff" * 8
    with pytest.raises(UsageError, match="SREGS of vCPU 0"):
        vm._board.cpu.load(state._replace(vcpus=({**state.vcpus[0], "SREGS": bytes(sregs)},)), known=True)
    vm._board.cpu.load(state, known=True)
    assert lasting(vm._board.cpu.save()) == lasting(state)


def test_a_state_of_another_back_end_or_machine_is_refused(boot: Boot, stopped: Machine) -> None:
    """By its name, its number of vCPUs, and whether it has an I/O APIC."""
    state = settle(stopped)
    for other in (state._replace(back_end="other"), state._replace(vcpus=state.vcpus[:1]), state._replace(version=2)):
        with pytest.raises(UsageError):
            stopped._board.cpu.load(other)
    alone = boot("blk")
    settle(alone)
    with pytest.raises(UsageError, match="of 2 vCPUs: this machine has 1"):
        alone._board.cpu.load(state)
