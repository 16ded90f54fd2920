"""What does it take to let a queue's kicks signal an eventfd, and to undo that? Each part beside its undoing.

The parts know nothing of rules; which of them happen, and in which order, is said by the tables of notifier.py. All of
it happens under the big lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from labkit.abi import QUEUE_MAX, QUEUE_NOTIFY_WIDTH
from labkit.errors import HostError
from labkit.native import lib
from labkit.trace.events import BIRTH_COUNT, Kind, Run
from labkit.trace.feed import Feed
from labkit.virtio.faults import Faults
from labkit.virtio.mutations import Mutations, mutated
from labkit.virtio.table import Batches, Part

NO_FD = -1
BY_PART = {part: part.name.lower() for part in Part}  # what is called for it


class HostNotifier:
    """The eventfd of one queue: created, assigned in KVM, watched by the iothread; and all of it undone."""

    def __init__(self, queue: int, device: Any, loop: Any, host: Faults, feed: Feed) -> None:
        self.queue = queue
        self.port: int | None = None  # where it is assigned; None: nowhere
        self._device, self._loop, self._host, self._feed = device, loop, host, feed
        self._vq = device.vq[queue]

    @property
    def fd(self) -> int:
        """The eventfd; NO_FD without one."""
        return int(self._vq.notifier_fd)

    # -- an eventfd, known to KVM --------------------------------------------------------------------------------------

    def assign(self, port: int | None) -> None:
        """Create the eventfd, with count 1, and tell KVM; `port` None: nowhere yet. HostError: nothing is left."""
        fd = self._host.eventfd(self.queue)
        try:
            self._register(port, fd)
        except HostError:
            os.close(fd)
            raise
        self._vq.notifier_fd = fd
        self._vq.synthetic_due, self._vq.forwarded_due = BIRTH_COUNT, 0

    def deassign(self, port: int | None) -> HostError | None:
        """KVM lets go of it. An error is told, not raised: then the registration is still there (R15)."""
        try:
            self._unregister(port)
        except HostError as error:
            return error
        return None

    def move(self, port: int | None) -> None:
        """BAR0 is somewhere else now: the registration follows; the eventfd stays. HostError if KVM refuses."""
        if self.port == port:
            return
        self._unregister(self.port)
        self._register(port, self.fd)

    def _register(self, port: int | None, fd: int) -> None:
        if port is None:
            return
        self._told(Kind.ASSIGN, port, fd, lambda: self._host.assign(self.queue, port, QUEUE_NOTIFY_WIDTH, fd))
        self.port = port

    def _unregister(self, port: int | None) -> None:
        fd = self.fd
        if port is not None:
            self._told(Kind.DEASSIGN, port, fd, lambda: self._host.deassign(self.queue, port, QUEUE_NOTIFY_WIDTH, fd))
        self.port = None

    def _told(self, kind: Kind, port: int, fd: int, call: Callable[[], None]) -> None:
        """The call, and an event that says how it went."""
        error_number = 0
        try:
            call()
        except HostError as error:
            error_number = error.errno
            raise
        finally:
            self._feed.emit(kind, self.queue, port, self.queue, fd, error_number)

    # -- watched by the iothread ---------------------------------------------------------------------------------------

    def attach(self) -> None:
        """The iothread watches it from now on. HostError if epoll refuses."""
        result = lib.lk_loop_attach(self._loop, self._device, self.queue, self.fd)
        if result < 0:
            raise HostError("epoll_ctl(ADD)", -result)

    def detach(self) -> None:
        """The iothread lets go; a handler in flight never runs. Nothing happens if it was not attached."""
        lib.lk_loop_detach(self._loop, self.fd)

    # -- its count -----------------------------------------------------------------------------------------------------

    def signal(self) -> None:
        """A kick that the guest did not make."""
        os.eventfd_write(self.fd, 1)
        self._vq.synthetic_due += 1
        self._feed.emit(Kind.SIGNAL, self.queue, self.fd)

    def drain(self) -> None:
        """Test-and-clear; if a kick was pending, the queue runs now, in this thread (R5)."""
        if lib.lk_notifier_take(self._device, self.queue, Run.DRAIN):
            lib.lk_queue_run(self._device, self.queue, Run.DRAIN)

    # -- and its end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the eventfd. Only after the deassign: KVM holds a reference of its own, and would swallow kicks."""
        self._feed.emit(Kind.CLOSE_FD, self.queue, self.fd)
        os.close(self.strand())

    def strand(self) -> int:
        """Forget the eventfd without closing it; it is the caller's."""
        fd, self._vq.notifier_fd, self.port = self.fd, NO_FD, None
        return fd


class QueueNotifiers:
    """Those of all queues of a device: parts in batches, and what failed.

    `port` says where kicks are written now. `stays`: a registration is undone there, wherever it was made (R16).
    """

    def __init__(
        self,
        device: Any,
        loop: Any,
        host: Faults,
        feed: Feed,
        port: Callable[[], int | None],
        *,
        stays: bool,
        mutations: Mutations = (),
    ) -> None:
        kind = mutated(HostNotifier, [one.notifier for one in mutations])
        self.each = {q: kind(q, device, loop, host, feed) for q in range(QUEUE_MAX) if device.vq[q].num}
        self.errors: list[HostError] = []  # what was kept from the guest, each kind once (R4, R15)
        self._stranded: list[int] = []  # eventfds of failed deassigns (R15)
        self._port, self._stays = port, stays

    def go(self, batches: Batches, notifiers: Iterable[HostNotifier]) -> None:
        """Each batch over all notifiers, its parts on one after the other. HostError: an assign or attach failed."""
        notifiers = list(notifiers)
        for batch in batches:
            for notifier in notifiers:
                for part in batch:
                    self._part(part, notifier)

    def _part(self, part: Part, notifier: HostNotifier) -> None:
        if part is Part.ASSIGN:
            notifier.assign(self._port())
        elif notifier.fd == NO_FD:
            pass  # R15: after a failed deassign there is nothing to drain or close
        elif part is Part.DEASSIGN:
            self._deassign(notifier)
        else:
            getattr(notifier, BY_PART[part])()

    def _deassign(self, notifier: HostNotifier) -> None:
        error = notifier.deassign(self._port() if self._stays else notifier.port)
        if error is not None:
            self.keep(error)
            self._stranded.append(notifier.strand())

    def move(self) -> None:
        """Every registration follows the port (R16). HostError if KVM refuses."""
        for notifier in self.each.values():
            if notifier.fd != NO_FD:
                notifier.move(self._port())

    def keep(self, error: HostError) -> None:
        """An error that the guest does not notice."""
        if all((kept.call, kept.errno) != (error.call, error.errno) for kept in self.errors):
            self.errors.append(error)

    def close(self) -> None:
        """Close what failed deassigns left behind; the registrations go with the machine."""
        while self._stranded:
            os.close(self._stranded.pop())
