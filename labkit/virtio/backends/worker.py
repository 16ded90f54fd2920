"""Who else can serve a queue? A backend: a thread that takes the host notifiers (R9) and keeps indices of its own.

It wants the queues from `take` to `give_back`, and has them while the driver is up and the machine runs: on a pause, a
reset or a driver that goes it gives them back, and the rules go on from there.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from labkit import views
from labkit.errors import HostError, UsageError
from labkit.native import ffi, lib
from labkit.trace.events import Run
from labkit.virtio.notifier import HostNotifiers


class Worker:
    """The backend of one device, in this process. Every call is made under the big lock."""

    def __init__(self, device: Any, notifiers: HostNotifiers, name: str) -> None:
        self._device, self._notifiers, self._name = device, notifiers, name
        self._worker: Any = ffi.NULL
        self.wants: tuple[int, ...] = ()  # queues it was told to take
        self.has: list[int] = []  # queues it serves now
        self.errors: list[HostError] = []  # why it could not take them when the driver came up
        self._live = self._busy = False

    # -- what it is told -----------------------------------------------------------------------------------------------

    def take(self, queues: Sequence[int] | None) -> None:
        """Want these queues (None: all), and take them if the driver is up. HostError: nothing was taken."""
        wanted = tuple(self._notifiers.each) if queues is None else tuple(dict.fromkeys(queues))
        unknown = [queue for queue in wanted if queue not in self._notifiers.each]
        if unknown or not wanted:
            raise UsageError(f"queues={queues!r}: the device has {', '.join(map(str, self._notifiers.each))}")
        if self._device.kind not in (lib.DEVICE_BLK, lib.DEVICE_NULL):
            raise UsageError("a backend can serve a blk or a null device only")
        self.give_back()
        self._start_thread()
        self.wants = wanted
        if self._live:
            try:
                self._take_all()
            except HostError:
                self.wants = ()
                raise

    def give_back(self) -> None:
        """Want nothing any more."""
        self.wants = ()
        self._give_all()

    def follow(self, live: bool) -> None:
        """The machine runs and the driver is up, or not. What cannot be taken then is kept in `errors`."""
        self._live = live
        if self._busy:
            return
        if not live:
            self._give_all()
        elif self.wants and not self.has:
            try:
                self._take_all()
            except HostError as error:
                self.errors.append(error)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing runs inside; afterwards it works with the disk as it is then, and what was cut short goes on."""
        if self._worker == ffi.NULL:
            yield
            return
        lib.lk_worker_hold(self._worker)
        unfinished = [queue for queue in self.has if lib.lk_worker_unfinished(self._worker, queue)]
        try:
            yield
        finally:
            lib.lk_worker_go_on(self._worker)
            for queue in unfinished:
                self._notifiers.each[queue].signal()

    # -- taking and giving, each beside its undoing --------------------------------------------------------------------

    def _take_all(self) -> None:
        self._busy = True  # the rules tell of `live` at each step
        try:
            self._notifiers.grab()
            for queue in self.wants:
                self._take(queue)
        except HostError:
            self._give_back_all()
            raise
        finally:
            self._busy = False

    def _give_all(self) -> None:
        if not self.has:
            return
        self._busy = True
        try:
            self._give_back_all()
        finally:
            self._busy = False

    def _give_back_all(self) -> None:
        while self.has:
            self._give(self.has.pop())
        self._notifiers.release()

    def _take(self, queue: int) -> None:
        self._notifiers.set_host_notifier(queue, True)
        self.has.append(queue)
        result = lib.lk_worker_take(self._worker, queue)
        if result < 0:
            raise HostError("epoll_ctl(ADD)", -result)

    def _give(self, queue: int) -> None:
        """Its indices come back before the notifier is drained, or the drain would serve what was served."""
        lib.lk_worker_give(self._worker, queue)
        self._notifiers.set_host_notifier(queue, False)
        if self._device.vq[queue].unfinished:
            lib.lk_queue_run(self._device, queue, Run.DRAIN)

    # -- its thread ----------------------------------------------------------------------------------------------------

    def _start_thread(self) -> None:
        if self._worker == ffi.NULL:
            self._worker = lib.lk_worker_new(self._device, self._name.encode())
        if self._worker == ffi.NULL:
            raise HostError("pthread_create", ffi.errno or errno.EAGAIN, "no thread for a backend")

    def close(self) -> None:
        """After the queues were given back. Not under the big lock: its thread may be waiting for it."""
        lib.lk_worker_free(self._worker)
        self._worker = ffi.NULL

    # -- for people ----------------------------------------------------------------------------------------------------

    def requests(self, queue: int) -> int:
        """Requests it has served on `queue`."""
        return 0 if self._worker == ffi.NULL else int(lib.lk_worker_requests(self._worker, queue))

    def _values(self) -> dict[str, object]:
        return {
            "wants": ", ".join(map(str, self.wants)) or "nothing",
            "has": ", ".join(map(str, self.has)) or "nothing",
            "requests": ", ".join(f"queue {queue}: {self.requests(queue)}" for queue in self._notifiers.each),
        }

    def _repr_html_(self) -> str:
        return views.named("backend", self._values())

    def __repr__(self) -> str:
        return views.lines("backend", self._values())
