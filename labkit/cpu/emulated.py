"""How is a guest run without KVM? Its instructions by Unicorn, the rest by the C core (native/emulated.h).

All vCPUs are executed by one thread, in turns of QUANTUM instructions. Times of such a guest say nothing of hardware.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

from labkit.cpu import Message, Serve
from labkit.cpu.entry import Entry
from labkit.cpu.state import CpuState, Parts, check_parts
from labkit.errors import HostError, UsageError
from labkit.memory import GuestMemory
from labkit.native import ffi, lib

HOLD_TIMEOUT_S = 10.0
SLICE_MS = 20
QUANTUM = 1000  # instructions of a turn
TSC_KHZ = 1_000_000  # its TSC counts nanoseconds
NOTHING_THERE = "no emulated CPU here: pip install 'labkit[emulated]'"
RFLAGS_AT_ENTRY = 2
VCPU, CLOCKS, IRQCHIP = "REGISTERS", "CLOCKS", "IRQCHIP"  # parts of its state
LEFT_OUT = ("debug registers", "the x87's last instruction and operand")
WHY_NO_STATE = {
    errno.EINVAL: "holds what no register can hold",
    errno.ENOTSUP: "is in a mode that cannot be loaded again: real, flat 32-bit and 64-bit ring 0 can",
}


@cache
def load_library() -> str:
    """Let the C core find the Unicorn library; returns its version. HostError: it is not there, or of another kind."""
    try:
        import unicorn
        from unicorn import unicorn_const, x86_const
    except ImportError as error:
        raise HostError("import unicorn", errno.ENOENT, NOTHING_THERE) from error
    numbers = ffi.new("lk_unicorn_numbers *")
    for name, _ in ffi.typeof("lk_unicorn_numbers").fields:
        setattr(numbers, name, getattr(x86_const if name.startswith("X86_") else unicorn_const, f"UC_{name}"))
    path = unicorn.unicorn_py3.unicorn.uclib._name
    if (failed := lib.lk_unicorn_load(path.encode(), numbers)) < 0:
        hint = f"{path} is not the library this version knows: pip install 'unicorn>=2.1'"
        raise HostError("dlopen(unicorn)", -failed, hint)
    return version("unicorn")


class Emulated:
    """Emulated vCPUs with local APICs, MSI only; with `intx` an I/O APIC and two PICs beside them."""

    name = "emulated"
    tsc_khz = TSC_KHZ

    def __init__(self, memory: GuestMemory, vcpus: int, *, intx: bool = False, quantum: int = QUANTUM) -> None:
        load_library()
        self._memory = memory
        self._native: Any = lib.lk_emulated_new(memory.native, vcpus, intx, quantum)
        if self._native == ffi.NULL:
            raise HostError("an emulated CPU", ffi.errno, f"{vcpus} vCPUs")
        self._lines = intx
        self.vcpus = [EmulatedVcpu(self._native, index) for index in range(vcpus)]

    threads = ("vcpus",)

    def run(self, thread: int, serve: Serve) -> None:
        """The life of the one thread."""
        handle = ffi.new_handle(serve)
        lib.lk_emulated_run(self._native, handle)

    @contextmanager
    def held(self) -> Iterator[None]:
        """No vCPU executes anything meanwhile: what changes, changes for all at once. HostError: it cannot be had."""
        deadline = time.monotonic() + HOLD_TIMEOUT_S
        while not lib.lk_emulated_hold(self._native, SLICE_MS):  # in slices: an interrupt of the cell gets through
            if time.monotonic() > deadline:
                raise HostError("an emulated CPU", errno.ETIMEDOUT, "its thread is busy: a device's handle()?")
        try:
            yield
        finally:
            lib.lk_emulated_let_go(self._native)

    def save(self) -> CpuState:
        """Registers of every vCPU, the interrupt controllers and the clocks."""
        with self.held():
            clocks, chip = ffi.new("lk_emulated_clocks *"), ffi.new("char[]", lib.lk_emulated_irqchip_bytes())
            lib.lk_emulated_save_clocks(self._native, clocks)  # first: it listens to what was sent to the controllers
            lib.lk_emulated_save_irqchip(self._native, chip)
            vcpus = tuple({VCPU: self._save_vcpu(vcpu.index)} for vcpu in self.vcpus)
        return CpuState(
            self.name, vcpus, {CLOCKS: bytes(ffi.buffer(clocks)), IRQCHIP: bytes(ffi.buffer(chip))}, LEFT_OUT
        )

    def _save_vcpu(self, index: int) -> bytes:
        state = ffi.new("lk_emulated_state *")
        _check(lib.lk_emulated_save_vcpu(self._native, index, state), index)
        return bytes(ffi.buffer(state))

    def check(self, state: CpuState) -> None:
        """UsageError: it is no state of such a machine."""
        state.check(self.name, len(self.vcpus))
        sizes = {CLOCKS: ffi.sizeof("lk_emulated_clocks"), IRQCHIP: lib.lk_emulated_irqchip_bytes()}
        check_parts(state.shared, sizes, "the machine")

    def load(self, state: CpuState, *, known: bool = False) -> None:
        """Become what was saved; all of it is looked at before anything is loaded, known or not: that costs little."""
        self.check(state)
        vcpus = [_checked_vcpu(parts, index) for index, parts in enumerate(state.vcpus)]
        clocks = _struct("lk_emulated_clocks", state.shared[CLOCKS])
        with self.held():
            lib.lk_emulated_load_clocks(self._native, clocks)
            lib.lk_emulated_load_irqchip(self._native, state.shared[IRQCHIP])
            for vcpu, one in zip(self.vcpus, vcpus, strict=True):
                lib.lk_vcpu_load(vcpu.native, ffi.NULL, 0)
                _check(lib.lk_emulated_load_vcpu(self._native, vcpu.index, one), vcpu.index)

    @property
    def line_fd(self) -> int:
        """Not -1 if there is an I/O APIC; the lines themselves are set in the C core."""
        return 0 if self._lines else -1

    def power_on(self) -> None:
        """Interrupt controllers beside the vCPUs as at power-on."""
        lib.lk_emulated_power_on(self._native)

    def assign(self, port: int, length: int, value: int, fd: int) -> None:
        """By the rules of KVM_IOEVENTFD: this exact write signals `fd` and the vCPU goes on."""
        self._ioeventfd(port, length, value, fd, 0)

    def deassign(self, port: int, length: int, value: int, fd: int) -> None:
        """Undo exactly that; no vCPU can still signal when it returns."""
        self._ioeventfd(port, length, value, fd, lib.IOEVENTFD_DEASSIGN)

    def _ioeventfd(self, port: int, length: int, value: int, fd: int, more: int) -> None:
        flags = lib.IOEVENTFD_DATAMATCH | lib.IOEVENTFD_PIO | more
        if (failed := lib.lk_emulated_ioeventfd(self._native, port, length, value, fd, flags)) < 0:
            raise HostError("KVM_IOEVENTFD (emulated)", -failed)

    def bind_vector(self, vector: int, fd: int) -> None:
        """A write to `fd` sends message `vector`; closing it undoes that."""
        if (failed := lib.lk_emulated_bind(self._native, vector, fd)) < 0:
            raise HostError("epoll_ctl(ADD)", -failed)

    def route(self, messages: Sequence[Message]) -> None:
        """The messages of all vectors, at once."""
        addresses = [address for address, _ in messages]
        data = [data for _, data in messages]
        if (failed := lib.lk_emulated_route(self._native, len(messages), addresses, data)) < 0:
            raise HostError("emulated routing", -failed)

    def log_writes(self, on: bool) -> None:
        """By comparing memory with a copy: the library's hook for stores does not hear of all that is written.

        It is not told of accessed and dirty bits in page tables, nor where a store across two pages ends.
        """
        memory = self._memory
        if (failed := lib.lk_dirty_compare(memory.native, memory.fd if on else -1)) < 0:
            raise HostError("mmap(copy of guest RAM)", -failed)

    def written(self) -> Any:
        """NULL: the C core compares."""
        return ffi.NULL

    def statistics(self) -> dict[str, int]:
        """Counters of the C core, named as KVM names its own, summed over the vCPUs; and `instructions`."""
        counts = ffi.new("lk_emulated_counts *")
        total: dict[str, int] = {}
        for index in range(len(self.vcpus)):
            lib.lk_emulated_counts_of(self._native, index, counts)
            for name, _ in ffi.typeof("lk_emulated_counts").fields:
                total[name] = total.get(name, 0) + getattr(counts, name)
        return total

    def close(self) -> None:
        """Idempotent; the thread is gone by then."""
        self.vcpus.clear()
        if self._native != ffi.NULL:
            lib.lk_emulated_free(self._native)
            self._native = ffi.NULL


def _check(failed: int, index: int) -> None:
    if failed < 0 and -failed in WHY_NO_STATE:
        raise UsageError(f"vCPU {index} {WHY_NO_STATE[-failed]}")
    if failed < 0:
        raise HostError("an emulated CPU's state", -failed, "pip install 'unicorn>=2.1'")


def _struct(name: str, data: bytes) -> Any:
    made = ffi.new(f"{name} *")
    ffi.memmove(made, data, ffi.sizeof(name))
    return made


def _checked_vcpu(parts: Parts, index: int) -> Any:
    check_parts(parts, {VCPU: ffi.sizeof("lk_emulated_state")}, f"vCPU {index}")
    state = _struct("lk_emulated_state", parts[VCPU])
    _check(lib.lk_emulated_check_vcpu(state), index)
    return state


class EmulatedVcpu:
    """One emulated vCPU."""

    def __init__(self, emulated: Any, index: int) -> None:
        self.index = index
        self.native: Any = lib.lk_emulated_vcpu(emulated, index)
        self._emulated = emulated
        self._entry: Entry | None = None
        self._state: Any = ffi.NULL
        self._loads: Any = ffi.NULL

    def enter(self, entry: Entry) -> None:
        """Everything as at power-on, then the entry's own registers."""
        if self._entry is not entry:
            registers = {"rip": entry.rip, "rflags": RFLAGS_AT_ENTRY, **entry.registers}
            mode = {"long_mode": entry.long_mode, "waits_for_sipi": entry.waits_for_sipi}
            self._state = ffi.new("lk_entry *", {"registers": registers, **entry.control, **mode})
            self._loads = ffi.new("lk_load[]", [(lib.LOAD_ENTRY, self._state)])
            self._entry = entry
        lib.lk_vcpu_load(self.native, self._loads, len(self._loads))

    @property
    def entry_struct(self) -> Any:
        """lk_entry of the last entry: what the bench's bare reset loads."""
        return self._state

    def registers(self) -> dict[str, int]:
        """General registers, RIP and RFLAGS."""
        out = ffi.new("lk_registers *")
        lib.lk_emulated_registers(self._emulated, self.index, out)
        return {name: int(getattr(out, name)) for name, _ in ffi.typeof("lk_registers").fields}


@ffi.def_extern()  # type: ignore[untyped-decorator]
def lk_python_exit(python: Any, vcpu: Any) -> None:
    """The C core has an exit for Python; it has let go of the GIL, and waits in the middle of the instruction."""
    ffi.from_handle(python)(vcpu)
