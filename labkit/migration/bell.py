"""What ends a wait before its time? A bell: rung once and never silenced, so it also ends what is begun later."""

from __future__ import annotations

import math
import os
import select
import threading
import time

from labkit.errors import HostError, UsageError

LOOK_UP_S = 0.2  # a signal that came just before a wait began is noticed after this: the wait itself cannot tell


class Bell:
    """Ends every wait beside it, from any thread and at any time. HostError: no fd left."""

    def __init__(self) -> None:
        self.rung, self._fd = False, -1
        self._lock = threading.RLock()  # a signal handler may ring too
        try:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            raise HostError("eventfd", error.errno or 0, "too many open files?") from error

    def ring(self) -> None:
        """From now on no wait lasts."""
        self.rung = True
        with self._lock:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def wait(self, fd: int, events: int, until: float) -> bool:
        """Until `fd` is ready for `events` or the bell is rung; False if it is `until` (monotonic seconds) first."""
        poller = select.poll()
        poller.register(fd, events)
        poller.register(self._fd, select.POLLIN)
        while not (ready := poller.poll(math.ceil(_step_s(until) * 1000))) and time.monotonic() < until:
            pass
        return bool(ready)

    def __del__(self) -> None:
        self.close()  # a signal may come between two lines, where nobody has it yet

    def close(self) -> None:
        """Idempotent; nobody may wait any more."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)


def until_after(timeout_s: float | None) -> float:
    """`timeout_s` from now as monotonic seconds; None is for ever. UsageError: no length of time."""
    if timeout_s is None:
        return math.inf
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not timeout_s >= 0:
        raise UsageError(f"timeout_s={timeout_s!r}: seconds, or None to wait for ever")
    return time.monotonic() + timeout_s


def _step_s(until: float) -> float:
    return min(max(0.0, until - time.monotonic()), LOOK_UP_S)
