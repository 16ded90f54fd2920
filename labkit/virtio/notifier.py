"""When is a virtqueue kick an eventfd, and when is it a trap?

A kick is a guest's write of a queue's index to QUEUE_NOTIFY. It traps to user space, unless a *host notifier* is
started for the queue: an eventfd that KVM signals instead (an ioeventfd), served by the iothread. The rules say when
the host notifiers start and stop. They are those of the patch "virtio-pci: Use ioeventfd for virtqueue notify",
v6 2/4, 17 Dec 2010.

R1   The property `ioeventfd` belongs to a device and is set when it is created: blk on, net off, every other device
     has none. Some drivers spin until a kick is served; for them a trap is the right answer.
R2   STATUS written with DRIVER_OK: START, then the status is stored. Without DRIVER_OK: STOP, then stored; and a
     status of 0 then resets the virtio device and releases its vectors.
R3   START does nothing if the property is off or it is started. Otherwise, for each queue that exists (whether or not
     it has a ring): create an eventfd with count 1, assign it in KVM (BAR0 + 16, 2 bytes, value = index), and let the
     iothread watch it. The count of 1 is a synthetic kick: it picks up what was in the ring before.
R4   An assign that fails: the queues done so far are undone in reverse, and the property is cleared, so that the
     device keeps to the trap path for life. The guest notices nothing.
R5   STOP, for each queue: the iothread lets go, KVM deassigns, test-and-clear; if a kick was pending the queue runs
     now, in the thread that stops; then the eventfd is closed. Without the test that kick would be lost.
R6   QUEUE_PFN = 0, for whatever queue is selected: STOP, virtio reset, vectors released.
R7   Reset of the device: STOP, virtio reset, MSI-X reset, BUS_MASTER_BUG forgotten. The property survives.
R8   PCI COMMAND written with bus-master clear: STOP, DRIVER_OK dropped from the status, then the config write. With
     BUS_MASTER_BUG: the config write and nothing else. Setting bus-master again restarts nothing.
R9   A backend takes a notifier: if started, STOP and clear the property. Then that one queue is assigned or
     deassigned, and the iothread does not watch it.
R10  The machine runs again and DRIVER_OK is set: START. Otherwise, and when it is paused: STOP. This is also how the
     notifiers come back on the other side of a migration.
R11  The device goes: STOP.
R12  A queue without a ring is not run, and neither is an index of 64 or more (native/kick.c).
R13  STATUS written with DRIVER_OK while bus-master is clear: BUS_MASTER_BUG. Old guests forgot to set it.
R14  Every run of a queue is an event (native/kick.c).
R15  A deassign that fails: no test-and-clear, no close. The error is kept and shown; the eventfd is closed when the
     device goes.

START and STOP are idempotent. STOP comes before the ring is torn down, so that a late kick sees a valid ring.
The table below says which steps follow which cause; the engine below it only carries them out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum, IntFlag
from typing import Any, NamedTuple, Protocol

from labkit.abi import QUEUE_MAX, QUEUE_NOTIFY_WIDTH, Register, Status
from labkit.errors import HostError, UsageError
from labkit.native import lib
from labkit.trace.events import Cause, Kind, Owner, Run
from labkit.trace.feed import Feed


class Flag(IntFlag):
    """Flags of a proxy, as the patch numbers them."""

    BUS_MASTER_BUG = 1 << 0
    USE_IOEVENTFD = 1 << 1


class Step(Enum):
    """What can follow a cause."""

    START = "start the host notifiers"
    STOP = "stop them"
    START_IF_DRIVER_OK = "start them if DRIVER_OK is set, else stop them"
    CLEAR_PROPERTY = "clear the property"
    STORE_STATUS = "store the status"
    DROP_DRIVER_OK = "take DRIVER_OK out of the status"
    NOTE_BUS_MASTER_BUG = "note BUS_MASTER_BUG if bus-master is clear"
    FORGET_BUS_MASTER_BUG = "forget BUS_MASTER_BUG"
    RESET_VIRTIO = "reset the virtio device"
    RELEASE_VECTORS = "release the MSI-X vectors"
    RESET_MSIX = "reset MSI-X"
    WRITE_CONFIG = "do the config write"


class Row(NamedTuple):
    """A line of the table: the rule, the steps in order, and what happens instead under a condition."""

    rule: int
    steps: tuple[Step, ...]
    with_bus_master_bug: tuple[Step, ...] | None = None
    if_not_started: tuple[Step, ...] | None = None


V6: dict[Cause, Row] = {
    Cause.DRIVER_OK: Row(2, (Step.START, Step.STORE_STATUS, Step.NOTE_BUS_MASTER_BUG)),
    Cause.DRIVER_NOT_OK: Row(2, (Step.STOP, Step.STORE_STATUS)),
    Cause.STATUS_ZERO: Row(2, (Step.STOP, Step.STORE_STATUS, Step.RESET_VIRTIO, Step.RELEASE_VECTORS)),
    Cause.PFN_ZERO: Row(6, (Step.STOP, Step.RESET_VIRTIO, Step.RELEASE_VECTORS)),
    Cause.DEVICE_RESET: Row(7, (Step.STOP, Step.RESET_VIRTIO, Step.RESET_MSIX, Step.FORGET_BUS_MASTER_BUG)),
    Cause.BUS_MASTER_OFF: Row(
        8, (Step.STOP, Step.DROP_DRIVER_OK, Step.WRITE_CONFIG), with_bus_master_bug=(Step.WRITE_CONFIG,)
    ),
    Cause.BACKEND_TAKES: Row(9, (Step.STOP, Step.CLEAR_PROPERTY), if_not_started=()),
    Cause.BACKEND_GIVES: Row(9, (Step.STOP, Step.CLEAR_PROPERTY), if_not_started=()),
    Cause.RESUME: Row(10, (Step.START_IF_DRIVER_OK,)),
    Cause.PAUSE: Row(10, (Step.STOP,)),
    Cause.EXIT: Row(11, (Step.STOP,)),
}

REVISIONS: dict[str, dict[Cause, Row]] = {"v6": V6}


class Transport(Protocol):
    """What the rules need of the proxy, beside the notifiers themselves."""

    status: int
    notify_base: int  # BAR0 as last mapped; the port of a kick is this + QUEUE_NOTIFY

    @property
    def bus_master(self) -> bool:
        """Bus-master in PCI COMMAND."""

    def reset_virtio(self) -> None:
        """Forget rings, features, status and ISR."""

    def release_vectors(self) -> None:
        """Take the MSI-X vectors from the queues."""

    def reset_msix(self) -> None:
        """MSI-X off, all vectors masked."""


class Ioeventfds(Protocol):
    """What they need of the CPU back end."""

    def assign(self, port: int, length: int, value: int, fd: int) -> None:
        """The exact write signals `fd`."""

    def deassign(self, port: int, length: int, value: int, fd: int) -> None:
        """Undo it."""


class Situation(NamedTuple):
    """A cause with what its steps need: the status to be stored, the config write to be done."""

    cause: Cause
    status: int = 0
    write_config: Callable[[], None] = lambda: None


class HostNotifiers:
    """The host notifiers of one device, under the rules of one revision. Every call is made under the big lock."""

    def __init__(
        self,
        transport: Transport,
        device: Any,
        cpu: Ioeventfds,
        loop: Any,
        feed: Feed,
        *,
        revision: str,
        ioeventfd: bool,
    ) -> None:
        if revision not in REVISIONS:
            raise UsageError(f"revision={revision!r}: this version knows {', '.join(REVISIONS)}")
        self.table = REVISIONS[revision]
        self.revision = revision
        self.ioeventfd = ioeventfd  # the property, USE_IOEVENTFD
        self.started = False
        self.bus_master_bug = False
        self.owners = [Owner.NONE] * QUEUE_MAX
        self.errors: list[HostError] = []  # what R4 and R15 kept from the guest
        self._queues = [queue for queue in range(QUEUE_MAX) if device.vq[queue].num]
        self._ports: dict[int, int] = {}  # queue -> port it was assigned at
        self._stranded: list[int] = []  # eventfds of failed deassigns (R15)
        self._transport, self._device, self._cpu, self._loop, self._feed = transport, device, cpu, loop, feed

    # -- the engine: cause -> row -> steps -----------------------------------------------------------------------------

    def happens(self, situation: Situation) -> None:
        """Carry out what the table says for this cause."""
        assert lib.lk_lock_is_mine(self._device.machine), "the rules act under the big lock"
        row = self.table[situation.cause]
        steps = row.steps
        if row.with_bus_master_bug is not None and self.bus_master_bug:
            steps = row.with_bus_master_bug
        if row.if_not_started is not None and not self.started:
            steps = row.if_not_started
        for step in steps:
            self._do(step, row.rule, situation)

    def _do(self, step: Step, rule: int, situation: Situation) -> None:
        transport = self._transport
        match step:
            case Step.START:
                self._start(rule, situation.cause)
            case Step.STOP:
                self._stop(rule, situation.cause)
            case Step.START_IF_DRIVER_OK:
                driver_ok = transport.status & Status.DRIVER_OK
                (self._start if driver_ok else self._stop)(rule, situation.cause)
            case Step.CLEAR_PROPERTY:
                self.ioeventfd = False
            case Step.STORE_STATUS:
                self._store_status(situation.status)
            case Step.DROP_DRIVER_OK:
                self._store_status(transport.status & ~Status.DRIVER_OK)
            case Step.NOTE_BUS_MASTER_BUG:
                self.bus_master_bug = self.bus_master_bug or not transport.bus_master
            case Step.FORGET_BUS_MASTER_BUG:
                self.bus_master_bug = False
            case Step.RESET_VIRTIO:
                transport.reset_virtio()
            case Step.RELEASE_VECTORS:
                transport.release_vectors()
            case Step.RESET_MSIX:
                transport.reset_msix()
            case Step.WRITE_CONFIG:
                situation.write_config()

    def _store_status(self, status: int) -> None:
        self._feed.emit(Kind.STATUS, -1, self._transport.status, status)
        self._transport.status = status

    def set_host_notifier(self, queue: int, assign: bool) -> None:
        """R9: a backend takes one queue's notifier, or gives it back. HostError if KVM refuses."""
        cause = Cause.BACKEND_TAKES if assign else Cause.BACKEND_GIVES
        self.happens(Situation(cause))
        if assign:
            self._assign(queue)
            self._owned_by(queue, Owner.BACKEND, self.table[cause].rule, cause)
        elif self._deassign(queue):
            self._drain_and_close(queue)
            self._owned_by(queue, Owner.NONE, self.table[cause].rule, cause)

    # -- START and STOP, and what they do to one queue: each beside its undoing ----------------------------------------

    def _start(self, rule: int, cause: Cause) -> None:
        if not self.ioeventfd or self.started:
            return
        done: list[int] = []
        try:
            for queue in self._queues:
                self._bring_up(queue)
                self._owned_by(queue, Owner.VMM, rule, cause)
                done.append(queue)
        except HostError as error:
            self._roll_back(done, error, cause)
            return
        self.started = True

    def _stop(self, rule: int, cause: Cause) -> None:
        if not self.started:
            return
        for queue in self._queues:
            self._take_down(queue, rule, cause)
        self.started = False

    def _roll_back(self, done: list[int], error: HostError, cause: Cause) -> None:
        """R4."""
        self.errors.append(error)
        self._feed.emit(Kind.ROLL_BACK, -1, len(done), error.errno)
        for queue in reversed(done):
            self._take_down(queue, 4, cause)
        self.ioeventfd = False

    def _bring_up(self, queue: int) -> None:
        self._assign(queue)
        result = lib.lk_loop_attach(self._loop, self._device, queue, self._device.vq[queue].notifier_fd)
        if result < 0:
            if self._deassign(queue):
                self._drain_and_close(queue)
            raise HostError("epoll_ctl(ADD)", -result)

    def _take_down(self, queue: int, rule: int, cause: Cause) -> None:
        lib.lk_loop_detach(self._loop, self._device.vq[queue].notifier_fd)
        if self._deassign(queue):
            self._drain_and_close(queue)
        self._owned_by(queue, Owner.NONE, rule, cause)

    def _assign(self, queue: int) -> None:
        """An eventfd with count 1, and KVM told of it. HostError leaves nothing behind."""
        try:
            fd = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            raise HostError("eventfd", error.errno or 0) from error
        port = self._notify_port()
        error_number = 0
        try:
            self._cpu.assign(port, QUEUE_NOTIFY_WIDTH, queue, fd)
        except HostError as error:
            error_number = error.errno
            os.close(fd)
            raise
        finally:
            self._feed.emit(Kind.ASSIGN, queue, port, queue, fd, error_number)
        vq = self._device.vq[queue]
        vq.notifier_fd, vq.synthetic_due = fd, 1
        self._ports[queue] = port

    def _deassign(self, queue: int) -> bool:
        """KVM lets go. False if it refused: then nothing is drained or closed (R15)."""
        vq = self._device.vq[queue]
        port, fd = self._notify_port(), vq.notifier_fd
        if fd < 0:
            return False
        error_number = 0
        try:
            self._cpu.deassign(port, QUEUE_NOTIFY_WIDTH, queue, fd)
        except HostError as error:
            error_number = error.errno
            self.errors.append(error)
            self._stranded.append(fd)
            vq.notifier_fd = -1
            self._ports.pop(queue, None)
        self._feed.emit(Kind.DEASSIGN, queue, port, queue, fd, error_number)
        return not error_number

    def _drain_and_close(self, queue: int) -> None:
        """R5: a kick that came before the deassign is served now, in this thread."""
        if lib.lk_notifier_take(self._device, queue, Run.DRAIN):
            lib.lk_queue_run(self._device, queue, Run.DRAIN)
        vq = self._device.vq[queue]
        self._feed.emit(Kind.CLOSE_FD, queue, vq.notifier_fd)
        os.close(vq.notifier_fd)
        vq.notifier_fd = -1
        self._ports.pop(queue, None)

    def close(self) -> None:
        """R11, and the eventfds that R15 left behind."""
        self.happens(Situation(Cause.EXIT))
        for queue in self._queues:
            if self.owners[queue] is Owner.BACKEND and self._deassign(queue):
                self._drain_and_close(queue)
        while self._stranded:
            os.close(self._stranded.pop())

    # -- small answers -------------------------------------------------------------------------------------------------

    @property
    def flags(self) -> Flag:
        """USE_IOEVENTFD (the property) and BUS_MASTER_BUG, as far as set."""
        return Flag(Flag.USE_IOEVENTFD * self.ioeventfd | Flag.BUS_MASTER_BUG * self.bus_master_bug)

    def port(self, queue: int) -> int | None:
        """The port the queue's notifier is assigned at; None while it has none."""
        return self._ports.get(queue)

    def _notify_port(self) -> int:
        return self._transport.notify_base + Register.QUEUE_NOTIFY

    def _owned_by(self, queue: int, owner: Owner, rule: int, cause: Cause) -> None:
        before, self.owners[queue] = self.owners[queue], owner
        if before is not owner:
            self._feed.emit(Kind.OWNER, queue, before, owner, rule, cause, self._device.vq[queue].notifier_fd)
