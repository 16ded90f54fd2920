"""How does a machine start its threads? Without waiting for them, and with their names where the system shows them."""

from __future__ import annotations

import _thread
from collections.abc import Callable

from labkit.native import lib


class Thread:
    """A daemon thread. `threading.Thread.start` waits until the new thread runs, which is a tenth of a boot's time."""

    def __init__(self, target: Callable[[], None], name: str) -> None:
        self._gone = _thread.allocate_lock()
        self._gone.acquire()
        self._ident = _thread.start_new_thread(self._run, (target, name))

    def _run(self, target: Callable[[], None], name: str) -> None:
        try:
            lib.lk_name_thread(name.encode())
            target()
        finally:
            self._gone.release()

    @property
    def is_current(self) -> bool:
        """Does the caller run in it?"""
        return self._ident == _thread.get_ident()

    def join(self, timeout_s: float = -1) -> bool:
        """Wait for its end; False if the time was over first. KeyboardInterrupt gets through."""
        if ended := self._gone.acquire(timeout=timeout_s):
            self._gone.release()
        return ended
