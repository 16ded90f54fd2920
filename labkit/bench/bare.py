"""How does a bare loop drive the same guest? vCPU 0 of a paused machine is lent to it, for one step at a time.

Both take turns on the same CPUs: the guest on one, whoever serves its eventfd on another. CPUs of a shared machine
differ by a third for minutes, which would be taken for a difference between the lab and its floor.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import labkit
from labkit import abi
from labkit.abi import AgentStatus, Command, Register
from labkit.bench.floors import Floor, floor_of
from labkit.board import Board
from labkit.errors import GuestError, HostError
from labkit.guest import SLOTS
from labkit.machine import Machine
from labkit.native import ffi


class BareVcpu:
    """vCPU 0 of a machine and its queue 0, without rules, events, locks and checks."""

    def __init__(self, machine: Machine, floor: Floor, io_cpu: int) -> None:
        self.machine, self._floor, self._io_cpu = machine, floor, io_cpu
        self.board: Board = machine._board  # the bench measures what lies behind the public names
        self.notify_port = notify_port(self.board)

    def ignore(self, command: Command, *arguments: int, ioeventfd: bool) -> tuple[int, ...]:
        """A step whose kicks nobody serves: they trap and are ignored, or are drained from a bare eventfd."""
        with self._lent(ioeventfd) as bare:
            return self._step(bare, command, arguments)

    def serve(self, command: Command, *arguments: int, ioeventfd: bool) -> tuple[int, ...]:
        """A step whose kicks are served by an unchecked walk of the ring. The device goes on where it left off."""
        vq = self.board.device.vq[0]
        with self._lent(ioeventfd) as bare:
            bare.device = self.board.device
            bare.last_avail, bare.used_idx = vq.last_avail, vq.used_idx
            try:
                return self._step(bare, command, arguments)
            finally:
                vq.last_avail, vq.used_idx = bare.last_avail, bare.used_idx

    @contextmanager
    def _lent(self, ioeventfd: bool) -> Iterator[Any]:
        """An lk_bare over the paused machine; its own notifier is gone while it is paused (R10)."""
        fixed = {"notify_port": self.notify_port, "eventfd": -1, "reader_cpu": self._io_cpu}
        bare = ffi.new("lk_bare *", fixed)
        with paused(self.machine):
            self._floor.lend(bare)
            if not ioeventfd:
                yield bare
                return
            with bare_eventfd(self.board) as (bare.eventfd, _):
                yield bare

    def _step(self, bare: Any, command: Command, arguments: tuple[int, ...]) -> tuple[int, ...]:
        memory, padded = self.board.memory, [*arguments, *[0] * (abi.MB_SLOTS - len(arguments))]
        memory.write(abi.GPA_MAILBOX + abi.MB_ARGS, SLOTS.pack(*padded))
        result = self._floor.step(bare, command)
        if result < 0:
            raise HostError("a bare loop", -result, command.name)
        (status,) = struct.unpack("<Q", memory.read(abi.GPA_MAILBOX + abi.MB_STATUS, 8))
        if status != AgentStatus.OK:
            raise GuestError(f"a bare {command.name}: the guest answered {status}")
        results: tuple[int, ...] = SLOTS.unpack(memory.read(abi.GPA_MAILBOX + abi.MB_RESULTS, SLOTS.size))
        return results


@contextmanager
def boot(device: str, *, ioeventfd: bool, cpu: str = "auto") -> Iterator[BareVcpu]:
    """The vCPU of a machine whose threads have their places."""
    io_cpu = max(os.sched_getaffinity(0))
    with pinned(device, ioeventfd=ioeventfd, cpu=cpu) as machine, floor_of(machine) as floor:
        yield BareVcpu(machine, floor, io_cpu)


@contextmanager
def pinned(device: str, **options: Any) -> Iterator[Machine]:
    """A machine with its guest on one CPU, where the caller is too, and its iothread on another if there is one."""
    allowed = os.sched_getaffinity(0)
    guest_cpu, io_cpu = min(allowed), max(allowed)
    os.sched_setaffinity(0, {guest_cpu})  # threads are born where their parent runs
    try:
        with labkit.boot(device, **options) as machine:
            os.sched_setaffinity(thread_id(f"{machine.name}-io"), {io_cpu})
            yield machine
    finally:
        os.sched_setaffinity(0, allowed)


def thread_id(name: str) -> int:
    """The id of a thread of this process."""
    return next(
        int(task.name) for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text() == f"{name}\n"
    )


def notify_port(board: Board) -> int:
    """Where the guest writes its kicks."""
    return board.proxy.notify_base + Register.QUEUE_NOTIFY


@contextmanager
def bare_eventfd(board: Board) -> Iterator[tuple[int, Callable[[], None]]]:
    """An eventfd at the place of queue 0's own, and how to deassign it; done at the end if not before."""
    with ExitStack() as undo:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        undo.callback(os.close, fd)
        kick = (notify_port(board), abi.QUEUE_NOTIFY_WIDTH, 0, fd)
        board.cpu.assign(*kick)
        deassign = ExitStack()
        deassign.callback(board.cpu.deassign, *kick)
        undo.push(deassign)
        yield fd, deassign.close


@contextmanager
def paused(machine: Machine) -> Iterator[None]:
    """The machine paused, and running again afterwards whatever happened."""
    machine.pause()
    try:
        yield
    finally:
        machine.resume()
