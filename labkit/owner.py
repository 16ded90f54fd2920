"""Who carries out what a cell, a button or the command line asks of a machine? One thread, one request at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from labkit.native import lib
from labkit.threads import Thread
from labkit.trace.events import Actor

if TYPE_CHECKING:
    from concurrent.futures import Future

Work = tuple[Callable[[], Any], "Future[Any]"]


class Owner:
    """The owner thread of a machine. A daemon: a forgotten machine must not keep the interpreter alive."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._thread = Thread(partial(_serve, self._work), f"{name}-owner")

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Queue `work`; its result or exception arrives in the future."""
        from concurrent.futures import Future  # here: it brings logging, which `import labkit` can do without

        future: Future[Any] = Future()
        self._work.put((work, future))
        return future

    def call(self, work: Callable[[], Any]) -> Any:
        """Do `work` in the owner thread and wait for it. KeyboardInterrupt gets out of the wait, not of the work."""
        if self._thread.is_current:
            return work()
        return self.submit(work).result()

    @property
    def is_current(self) -> bool:
        """Does the caller run in the owner thread?"""
        return self._thread.is_current

    def stop(self) -> None:
        """End after what is queued. Does not wait: it may be called by the owner thread itself."""
        self._work.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the end."""
        self._thread.join(timeout_s)


def _serve(work: SimpleQueue[Work | None]) -> None:
    lib.lk_set_actor(Actor.OWNER)
    while (item := work.get()) is not None:
        do, future = item
        try:
            future.set_result(do())
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits
            future.set_exception(error)
        del do, future, item  # keep nothing of the machine alive while idle
