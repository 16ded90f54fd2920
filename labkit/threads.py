"""How does a machine start its threads, and what keeps them apart? Named threads, and one big lock."""

from __future__ import annotations

import _thread
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from labkit.errors import UsageError
from labkit.native import lib

if TYPE_CHECKING:
    from threading import Event

STEP_S = 0.05


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


def happened(event: Event, timeout_s: float | None) -> bool:
    """Wait for it, in steps: a signal that comes just before a wait begins is lost to that wait."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    while not event.wait(STEP_S if until is None else max(0.0, min(STEP_S, until - time.monotonic()))):
        if until is not None and time.monotonic() >= until:
            return False
    return True


class BigLock:
    """The big lock of one machine. The wait is in C, without the GIL."""

    def __init__(self, native_machine: Any) -> None:
        self._machine = native_machine

    def __enter__(self) -> None:
        assert not lib.lk_lock_is_mine(self._machine), "taken twice by one thread: it would wait for itself"
        lib.lk_lock_take(self._machine)

    def __exit__(self, *error: object) -> None:
        lib.lk_lock_release(self._machine)


class Visitors:
    """Who is in the core from a thread that is not the machine's own: for a moment, in a `with`.

    The close waits for them before it frees what they look at. UsageError: it was closed before.
    """

    def __init__(self) -> None:
        self._mutex, self._gone = _thread.allocate_lock(), _thread.allocate_lock()
        self._gone.acquire()
        self._inside, self._shut = 0, False

    def __enter__(self) -> None:
        with self._mutex:
            if self._shut:
                raise UsageError("the machine is closed")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._mutex:
            self._inside -= 1
            if self._shut and not self._inside:
                self._gone.release()

    def shut(self, timeout_s: float) -> None:
        """Nobody comes in any more; wait until those inside have left. Once."""
        with self._mutex:
            self._shut = True
            if not self._inside:
                return
        self._gone.acquire(timeout=timeout_s)
