"""How does a test ask interrupt controllers? The same words for labkit's own and for KVM's, so that they compare.

KVM's are asked by a guest of a few instructions that carries out one word after the other, with interrupts kept away
except where a word lets one in.
"""

from __future__ import annotations

import struct
from itertools import groupby
from typing import Protocol

from labkit.abi import GPA_IMAGE, MEMORY_MIN_MIB, NUMBERS, PORT_EXIT
from labkit.cpu.entry import CODE_SELECTOR, Entry
from labkit.cpu.ioctl import ioctl
from labkit.cpu.kvm import Kvm
from labkit.memory import GuestMemory
from labkit.native import ffi, lib
from labkit.pc.firmware import write_page_tables

LAPIC, IOAPIC = NUMBERS["GPA_LAPIC"], NUMBERS["GPA_IOAPIC"]
ID, VERSION, TPR, APR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
LVT_TIMER, LINT0, LVT_ERROR, TIMER_INITIAL, TIMER_CURRENT, TIMER_DIVIDE = 0x320, 0x350, 0x370, 0x380, 0x390, 0x3E0
LVT = range(LVT_TIMER, LVT_ERROR + 1, 16)
BANKS = range(0, 0x80, 16)  # of ISR, TMR and IRR
ENABLED, PERIODIC = 0x1FF, 0x20000  # SVR, LVT_TIMER
LOWEST, NMI, INIT, STARTUP, EXTINT = 0x100, 0x400, 0x500, 0x600, 0x700
LOGICAL, ASSERT, REMOTE_IRR, LEVEL, MASKED = 0x800, 0x4000, 0x4000, 0x8000, 0x10000
TO_SELF, TO_ALL, TO_OTHERS = 1 << 18, 2 << 18, 3 << 18
WINDOW, ENTRIES = 0x10, 0x10  # of the I/O APIC: where its registers are seen, and the first of the entries
MASTER, SLAVE, ELCR = 0x20, 0xA0, 0x4D0
VECTORS = 256
NOTHING = -1  # no interrupt was taken

# What a vCPU does: (name, address, value). What others do: ("line", pin, level), ("message", address, data).
Word = tuple[str, int, int]
LOAD, STORE, IN, OUT, TAKE = "load", "store", "in", "out", "take"
LINE, MESSAGE = "line", "message"
BY_HOST = (LINE, MESSAGE)


class Controllers(Protocol):
    """Interrupt controllers that carry out words."""

    def say(self, vcpu: int, *words: Word) -> list[int]:
        """What each word answers: the value read, the vector taken or NOTHING; 0 of a write."""


class Emulated:
    """labkit's own, for an emulated CPU."""

    def __init__(self, vcpus: int = 1, *, full: bool = True) -> None:
        self.native = ffi.gc(lib.lk_irqchip_new(vcpus, full), lib.lk_irqchip_free)

    def say(self, vcpu: int, *words: Word) -> list[int]:
        """See Controllers."""
        return [self._say(vcpu, *word) for word in words]

    def _say(self, vcpu: int, name: str, address: int, value: int) -> int:
        if name in (LOAD, STORE):
            data = ffi.new("uint64_t *", value)
            assert lib.lk_irqchip_mmio(self.native, vcpu, address, 4, name == STORE, data)
            return data[0] if name == LOAD else 0
        if name in (IN, OUT):
            data = ffi.new("uint32_t *", value)
            assert lib.lk_irqchip_port(self.native, address, 1, name == OUT, data)
            return data[0] if name == IN else 0
        if name == TAKE:
            expected = lib.lk_irqchip_pending(self.native, vcpu)
            vector = lib.lk_irqchip_accept(self.native, vcpu)
            assert expected == (vector != NOTHING)
            return vector
        if name == LINE:
            lib.lk_irqchip_line(self.native, address, value)
        else:
            lib.lk_irqchip_message(self.native, address, value)
        return 0


# -- the guest that speaks for KVM -------------------------------------------------------------------------------------

GPA_CODE = GPA_IMAGE
GPA_HANDLERS = GPA_IMAGE + 0x1000  # HANDLER_BYTES for each vector
GPA_TABLES = GPA_IMAGE + 0x3000  # IDT, GDT, and a pointer to each
GPA_WORDS = GPA_IMAGE + 0x10000  # of vCPU n: WORDS_STRIDE after those before
WORDS_STRIDE = 0x10000
HANDLER_BYTES = 16
WORD = struct.Struct("<QQqq")  # where its code is, address, value, answer
WORDS_MAX = WORDS_STRIDE // 2 // WORD.size  # the other half is the stack
GATE_INTERRUPT = 0x8E00
GDT = struct.pack("<2Q", 0, 0x00AF9B000000FFFF)  # nothing, 64-bit code
IDT_POINTER, GDT_POINTER = GPA_TABLES + 0x1000, GPA_TABLES + 0x1010
GPA_GDT = GPA_TABLES + 0x1020
PORT_WINDOW = 0x80  # written where interrupts are let in: however KVM runs the guest, it looks when it comes back

PARTS = {  # each part of the guest's code in order; the jumps that lead to another part come after these bytes
    "start": (b"\x0f\x01\x1c\x25" + IDT_POINTER.to_bytes(4, "little"), None),  # lidt
    "gdt": (b"\x0f\x01\x14\x25" + GDT_POINTER.to_bytes(4, "little"), None),  # lgdt
    # mov rdi, [rsi + 8]; mov rax, [rsi + 16]; mov rdx, rdi; jmp [rsi]
    "next": (b"\x48\x8b\x7e\x08\x48\x8b\x46\x10\x48\x89\xfa\xff\x26", None),
    "answer": (b"\x48\x89\x46\x18\x48\x83\xc6\x20", "next"),  # mov [rsi + 24], rax; add rsi, 32
    LOAD: (b"\x8b\x07", "answer"),  # mov eax, [rdi]
    STORE: (b"\x89\x07\x31\xc0", "answer"),  # mov [rdi], eax; xor eax, eax
    IN: (b"\x31\xc0\xec", "answer"),  # xor eax, eax; in al, dx
    OUT: (b"\xee\x31\xc0", "answer"),  # out dx, al; xor eax, eax
    # sti; nop; out PORT_WINDOW, al; cli; mov rax, NOTHING
    TAKE: (b"\xfb\x90\xe6" + bytes([PORT_WINDOW]) + b"\xfa\x48\xc7\xc0\xff\xff\xff\xff", "answer"),
    "taken": (b"\x4c\x89\xc4", "answer"),  # mov rsp, r8: what the interrupt pushed is not gone back to
    "over": (b"\xe6" + bytes([PORT_EXIT]) + b"\x4c\x89\xce", "next"),  # out PORT_EXIT, al; mov rsi, r9
}
JUMP_BYTES = 5


def _assemble() -> tuple[bytes, dict[str, int]]:
    """The guest's code, and where each part of it is."""
    at, gpa = {}, GPA_CODE
    for name, (code, goes_to) in PARTS.items():
        at[name] = gpa
        gpa += len(code) + (JUMP_BYTES if goes_to else 0)
    text = b""
    for code, goes_to in PARTS.values():
        text += code
        if goes_to:
            text += _jump(GPA_CODE + len(text), at[goes_to])
    return text, at


def _jump(at: int, to: int) -> bytes:
    return b"\xe9" + (to - at - JUMP_BYTES).to_bytes(4, "little", signed=True)


CODE, CODE_AT = _assemble()


def _handler(vector: int) -> bytes:
    """mov eax, vector; jmp taken."""
    code = b"\xb8" + vector.to_bytes(4, "little")
    at = GPA_HANDLERS + HANDLER_BYTES * vector
    return (code + _jump(at + len(code), CODE_AT["taken"])).ljust(HANDLER_BYTES, b"\0")


def _gate(vector: int) -> bytes:
    entry = GPA_HANDLERS + HANDLER_BYTES * vector
    return struct.pack("<HHHHII", entry & 0xFFFF, CODE_SELECTOR, GATE_INTERRUPT, entry >> 16, 0, 0)


class OnKvm:
    """The kernel's: a full irqchip, asked by a guest."""

    def __init__(self, vcpus: int = 1) -> None:
        self._memory = GuestMemory(MEMORY_MIN_MIB)
        self._cpu: Kvm | None = None
        try:
            self._write_guest()
            self._cpu = Kvm(self._memory, vcpus, intx=True)
            self._cpu.power_on()
            for vcpu in self._cpu.vcpus:
                words = GPA_WORDS + WORDS_STRIDE * vcpu.index
                stack = words + WORDS_STRIDE
                vcpu.enter(Entry(CODE_AT["start"], True, {"rsi": words, "r9": words, "rsp": stack, "r8": stack}))
                lib.lk_vcpu_ask(vcpu.native, lib.ASK_RUN)
        except BaseException:
            self.close()
            raise

    def _write_guest(self) -> None:
        write_page_tables(self._memory)
        self._memory.write(GPA_CODE, CODE)
        self._memory.write(GPA_HANDLERS, b"".join(map(_handler, range(VECTORS))))
        idt = b"".join(map(_gate, range(VECTORS)))
        self._memory.write(GPA_TABLES, idt)
        self._memory.write(GPA_GDT, GDT)
        self._memory.write(IDT_POINTER, struct.pack("<HQ", len(idt) - 1, GPA_TABLES))
        self._memory.write(GDT_POINTER, struct.pack("<HQ", len(GDT) - 1, GPA_GDT))

    def say(self, vcpu: int, *words: Word) -> list[int]:
        """See Controllers."""
        answers: list[int] = []
        for by_host, group in groupby(words, lambda word: word[0] in BY_HOST):
            some = list(group)
            answers += map(self._from_outside, some) if by_host else self._in_guest(vcpu, some)
        return answers

    def _from_outside(self, word: Word) -> int:
        assert self._cpu
        name, address, value = word
        if name == LINE:
            line = ffi.new("struct kvm_irq_level *", {"irq": address, "level": value})
            ioctl(self._cpu._fd, "KVM_IRQ_LINE", line)
        else:
            message = {"address_lo": address & 0xFFFFFFFF, "address_hi": address >> 32, "data": value}
            lib.lk_ioctl(
                self._cpu._fd, lib.KVM_SIGNAL_MSI, ffi.new("struct kvm_msi *", message)
            )  # fails if nobody is meant
        return 0

    def _in_guest(self, vcpu: int, words: list[Word]) -> list[int]:
        assert self._cpu and len(words) < WORDS_MAX
        native, at = self._cpu.vcpus[vcpu].native, GPA_WORDS + WORDS_STRIDE * vcpu
        table = [WORD.pack(CODE_AT[name], address, value, 0) for name, address, value in words]
        self._memory.write(at, b"".join([*table, WORD.pack(CODE_AT["over"], 0, 0, 0)]))
        actor = lib.lk_actor()
        left = lib.lk_kvm_run(native)
        while left == lib.LEFT_IO and native.exit.port == PORT_WINDOW:
            left = lib.lk_kvm_run(native)
        lib.lk_set_actor(actor)  # or this thread's later events would be a vCPU's
        assert (left, native.exit.port) == (lib.LEFT_IO, PORT_EXIT), f"left {left}, reason {native.exit.reason}"
        answers = self._memory.read(at, WORD.size * len(words))
        return [answer for _, _, _, answer in WORD.iter_unpack(answers)]

    def put_in_service(self, vcpu: int, vector: int) -> None:
        """Set the bit of a vector in ISR, if it is not set."""
        assert self._cpu
        state, fd = ffi.new("struct kvm_lapic_state *"), self._cpu.vcpus[vcpu].fd
        ioctl(fd, "KVM_GET_LAPIC", state)
        registers = ffi.buffer(state)
        at, bit = ISR + vector // 32 * 16 + vector % 32 // 8, 1 << vector % 8
        if not registers[at][0] & bit:
            registers[at] = bytes([registers[at][0] | bit])
            ioctl(fd, "KVM_SET_LAPIC", state)

    def close(self) -> None:
        """Away with the VM and its memory."""
        if self._cpu:
            self._cpu.close()
        self._memory.close()


TAKEN: Word = (TAKE, 0, 0)  # a vCPU lets an interrupt in, if there is one


def load(offset: int) -> Word:
    """A vCPU reads a register of its local APIC."""
    return LOAD, LAPIC + offset, 0


def store(offset: int, value: int) -> Word:
    """A vCPU writes one."""
    return STORE, LAPIC + offset, value


def read_ioapic(index: int) -> list[Word]:
    """A vCPU reads a register of the I/O APIC."""
    return [(STORE, IOAPIC, index), (LOAD, IOAPIC + WINDOW, 0)]


def write_ioapic(index: int, value: int) -> list[Word]:
    """A vCPU writes one."""
    return [(STORE, IOAPIC, index), (STORE, IOAPIC + WINDOW, value)]


def write_entry(pin: int, low: int, destination: int = 0) -> list[Word]:
    """A vCPU leads a pin of the I/O APIC somewhere; the lower half, which makes it live, comes last."""
    return [*write_ioapic(ENTRIES + 2 * pin + 1, destination << 24), *write_ioapic(ENTRIES + 2 * pin, low)]


def read_entry(pin: int) -> list[Word]:
    """A vCPU reads the lower half of it."""
    return read_ioapic(ENTRIES + 2 * pin)


def send(word: int, destination: int = 0) -> list[Word]:
    """A vCPU sends an interrupt by its command register."""
    return [store(ICR_HIGH, destination << 24), store(ICR, word)]


def message(vector: int, destination: int = 0, *, logical: bool = False, to_one: bool = False) -> Word:
    """A device sends one; `vector` is the whole data."""
    return MESSAGE, LAPIC | destination << 12 | logical << 2 | to_one << 3, vector


# -- what the tests of rules have in common --------------------------------------------------------------------------

VECTOR = 0x45
PINS = NUMBERS["IOAPIC_PINS"]
PIN = 16
BASE = {MASTER: 0x30, SLAVE: 0x38}  # vector of line 0


def enabled(vcpus: int = 1, *, full: bool = True) -> Emulated:
    """Controllers whose local APICs are enabled; bit n of a logical destination is vCPU n."""
    chip = Emulated(vcpus, full=full)
    for vcpu in range(vcpus):
        chip.say(vcpu, store(SVR, ENABLED), store(LDR, 1 << 24 + vcpu))
    return chip


def take(chip: Emulated, vcpu: int = 0) -> int:
    """The vector that a vCPU takes."""
    return chip.say(vcpu, TAKEN)[0]


def takers(chip: Emulated, vcpus: int) -> list[int]:
    """Who has something to take; it is taken and ended."""
    return [vcpu for vcpu in range(vcpus) if chip.say(vcpu, TAKEN, store(EOI, 0))[0] != NOTHING]


def events(chip: Emulated, vcpu: int = 0) -> list[int]:
    """What else was sent to a vCPU, in the order in which it is taken."""
    sipi = ffi.new("uint8_t *")
    return list(iter(lambda: lib.lk_irqchip_take_event(chip.native, vcpu, sipi), lib.SENT_NOTHING))


def line(level: int, pin: int = PIN) -> Word:
    """The board drives a line."""
    return LINE, pin, level


def pics(*, icw4: int = 1) -> Emulated:
    """Initialized PICs with all lines open, ahead of a local APIC as after power-on."""
    chip = Emulated()
    for pic, base in BASE.items():
        chip.say(0, *((OUT, pic + (n > 0), value) for n, value in enumerate((0x11, base, 4, icw4, 0))))
    return chip


def out(port: int, value: int) -> Word:
    """A vCPU writes a port."""
    return OUT, port, value
