"""Which bare loop is the floor of which back end? Around KVM_RUN, or around the Unicorn library; both are in C."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from labkit.cpu import kvm_state
from labkit.cpu.emulated import load_library
from labkit.errors import HostError
from labkit.machine import Machine
from labkit.native import ffi, lib


class Floor(Protocol):
    """The bare loops around vCPU 0 of a machine. The machine is paused while one of them runs."""

    deassigns: bool  # does stopping a notifier ask anything of somebody outside labkit?

    def lend(self, bare: Any) -> None:
        """Put into an lk_bare what this back end needs."""

    def step(self, bare: Any, command: int) -> int:
        """One step of the guest's. 0 or -errno."""

    def reset_ns(self, times: int) -> int:
        """ns of a reset, the mean of `times`; 0 if the guest did not get where it should."""

    def load_ns(self) -> int:
        """ns of a vCPU's state set to what it is; 0 if it was refused."""


class KvmFloor:
    """The vCPU itself, run by the calling thread."""

    deassigns = True

    def __init__(self, machine: Machine) -> None:
        self._board = machine._board  # the bench measures what lies behind the public names
        self._vcpu: Any = self._board.cpu.vcpus[0]

    def lend(self, bare: Any) -> None:
        """The driver is interrupted as the device does it: by an irqfd."""
        vector = self._board.device.vq[0].vector
        bare.vcpu = self._vcpu.native
        bare.interrupt_fd = -1 if vector == lib.NO_VECTOR else self._board.device.vectors[vector].fd

    def step(self, bare: Any, command: int) -> int:
        """See Floor."""
        return int(lib.lk_kvm_bare_step(bare, command))

    def reset_ns(self, times: int) -> int:
        """See Floor."""
        return int(lib.lk_kvm_bare_reset_ns(self._vcpu.native, *self._vcpu.entry_structs, times))

    def load_ns(self) -> int:
        """See Floor."""
        prepared = kvm_state.Prepared(kvm_state.save_vcpu(self._vcpu.fd, 0, []), 0)
        return int(lib.lk_kvm_bare_load_ns(self._vcpu.fd, prepared.loads, len(prepared.loads)))


class EmulatedFloor:
    """A CPU of its own on the machine's memory, that takes the vCPU's registers for each step."""

    deassigns = False

    def __init__(self, machine: Machine, undo: ExitStack) -> None:
        self._vcpu: Any = machine._board.cpu.vcpus[0]
        self._interrupt_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        undo.callback(os.close, self._interrupt_fd)
        self._cpu = lib.lk_emulated_bare_new(self._vcpu.native)
        if self._cpu == ffi.NULL:
            raise HostError("a bare emulated CPU", errno.ENOMEM)
        undo.callback(lib.lk_emulated_bare_free, self._cpu)

    def lend(self, bare: Any) -> None:
        """The driver is interrupted by an eventfd that the machine's own thread does not hear."""
        bare.vcpu, bare.cpu, bare.interrupt_fd = self._vcpu.native, self._cpu, self._interrupt_fd

    def step(self, bare: Any, command: int) -> int:
        """See Floor."""
        return int(lib.lk_emulated_bare_step(bare, command))

    def reset_ns(self, times: int) -> int:
        """See Floor."""
        return int(lib.lk_emulated_bare_reset_ns(self._cpu, self._vcpu.entry_struct, times))

    def load_ns(self) -> int:
        """See Floor."""
        return int(lib.lk_emulated_bare_load_ns(self._cpu))


@contextmanager
def floor_of(machine: Machine) -> Iterator[Floor]:
    """The floor of the machine's back end; the machine is closed after it."""
    with ExitStack() as undo:
        yield KvmFloor(machine) if machine.cpu == "kvm" else EmulatedFloor(machine, undo)


def boot_ns(back_end: str) -> int:
    """ns of the least that can be called a boot; 0 if it failed."""
    if back_end == "emulated":
        load_library()
    bare: Callable[[], int] = getattr(lib, f"lk_{back_end}_bare_boot_ns")
    return int(bare())
