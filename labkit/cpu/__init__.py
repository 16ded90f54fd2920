"""Who executes the guest? One protocol; `choose` takes the back end that can run here and says which it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from labkit.cpu.entry import Entry
from labkit.cpu.state import CpuState
from labkit.errors import HostError, UsageError
from labkit.memory import GuestMemory

Message = tuple[int, int]  # address and data of an MSI
Serve = Callable[[Any], None]  # what is done in Python for an exit of a vCPU (its lk_vcpu, where `exit` says which)


class Vcpu(Protocol):
    """One virtual CPU. `native` is its lk_vcpu in the C core."""

    native: Any
    index: int

    def enter(self, entry: Entry) -> None:
        """Set the registers a guest starts with, and forget interrupts and halts. The vCPU must be stopped."""

    def registers(self) -> dict[str, int]:
        """General registers by name. The vCPU must be stopped."""


class Cpu(Protocol):
    """A back end: virtual CPUs on guest memory, ioeventfds, MSI by irqfd, and INTx if it was asked for."""

    name: str
    tsc_khz: int

    @property
    def vcpus(self) -> Sequence[Vcpu]:
        """Its vCPUs, by index."""

    @property
    def line_fd(self) -> int:
        """Whose interrupt lines the C core drives (lk_device.intx_fd); -1: there are none."""

    @property
    def threads(self) -> Sequence[str]:
        """Names of the threads that its vCPUs need: one each, or one for all."""

    def run(self, thread: int, serve: Serve) -> None:
        """Execute guest code in the calling thread, number `thread`, until every vCPU of it is asked to quit.

        `serve` is called, in that thread, for each exit that the C core does not serve itself.
        """

    def held(self) -> AbstractContextManager[None]:
        """What is posted to several vCPUs meanwhile begins at once, as far as the back end can see to that."""

    def power_on(self) -> None:
        """Interrupt controllers beside the vCPUs as at power-on. The vCPUs are stopped, and no line is high."""

    def save(self) -> CpuState:
        """What its vCPUs, interrupt controllers and clocks are; nothing of it changes.

        Every vCPU is stopped with nothing half done (ASK_SETTLE), and its thread was started. UsageError: a guest is in
        a mode that cannot be loaded again.
        """

    def check(self, state: CpuState) -> None:
        """UsageError: no such machine can have given it. What only `load` can find out it does not say."""

    def load(self, state: CpuState, *, known: bool = False) -> None:
        """Become what was saved of a machine with the same plan. Called as `save` is; the vCPUs stay stopped.

        Guest memory, devices, messages (`route`) and levels of lines are not part of it. UsageError: it is not a state
        of such a machine, or nobody was ever in it; nothing was changed then. `known`: this very CPU gave it or has
        taken it before, so nothing is kept to go back to.
        """

    def assign(self, port: int, length: int, value: int, fd: int) -> None:
        """Let a write of `value`, `length` bytes, to `port` signal `fd`. HostError: EEXIST, ENOSPC, EINVAL."""

    def deassign(self, port: int, length: int, value: int, fd: int) -> None:
        """Undo exactly that; returns when no vCPU can still signal. HostError: ENOENT."""

    def bind_vector(self, vector: int, fd: int) -> None:
        """Let a write to `fd` deliver message `vector` of the routing table."""

    def route(self, messages: Sequence[Message]) -> None:
        """Replace the routing table: message n for vector n."""

    def log_writes(self, on: bool) -> None:
        """Begin to note which pages of memory the guest writes, with none, or end. HostError."""

    def written(self) -> Any:
        """A bitmap (uint64_t[], a bit a page) of those written since it was last asked, which are forgotten.

        NULL: lk_dirty_take finds them by itself.
        """

    def statistics(self) -> dict[str, int]:
        """The back end's own counters, summed over the vCPUs."""

    def close(self) -> None:
        """Release everything; idempotent. The vCPU threads are gone by then."""


BACK_ENDS = ("auto", "kvm", "emulated")
CHOSEN_BY = "LABKIT_CPU"  # an environment variable: what "auto" is to mean


def choose(name: str, memory: GuestMemory, vcpus: int, *, intx: bool = False) -> Cpu:
    """Open back end `name`. "auto" is what $LABKIT_CPU says, or else KVM if it can be used, or else the emulated CPU.

    `intx`: with an I/O APIC, for level interrupts. HostError if the host cannot, with the mend.
    """
    wanted = os.environ.get(CHOSEN_BY, "auto") if name == "auto" else name
    if wanted not in BACK_ENDS:
        where = f"{CHOSEN_BY}={wanted}" if name == "auto" else f"cpu={name!r}"
        raise UsageError(f"{where}: this version knows {', '.join(BACK_ENDS)}")
    from labkit.cpu.kvm import Kvm, NoKvm

    if wanted == "emulated":
        return _emulated(memory, vcpus, intx)
    try:
        return Kvm(memory, vcpus, intx=intx)
    except NoKvm as no_kvm:
        if wanted == "kvm":
            raise
        try:
            return _emulated(memory, vcpus, intx)
        except HostError as no_other:
            raise HostError(no_kvm.call, no_kvm.errno, f"{no_kvm.hint}; or without KVM: {no_other.hint}") from no_other


def _emulated(memory: GuestMemory, vcpus: int, intx: bool) -> Cpu:
    from labkit.cpu.emulated import Emulated

    return Emulated(memory, vcpus, intx=intx)
