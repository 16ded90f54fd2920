"""Who carries out what a cell, a button or the command line asks of a machine? One thread, one request at a time."""

from __future__ import annotations

import _thread
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from labkit.errors import UsageError
from labkit.native import lib
from labkit.threads import Thread
from labkit.trace.events import Actor

if TYPE_CHECKING:
    from concurrent.futures import Future

Work = Callable[[], Any]


class Owner:
    """The owner thread of a machine. A daemon: a forgotten machine must not keep the interpreter alive."""

    def __init__(self, name: str) -> None:
        self._requests = _Requests()
        self._thread = Thread(self._requests.serve, f"{name}-owner")

    def submit(self, work: Work) -> Future[Any]:
        """Queue `work`; its result or exception arrives in the future."""
        from concurrent.futures import Future  # here: it brings logging, which `import labkit` can do without

        future: Future[Any] = Future()
        self._requests.put(partial(_fulfil, future, work))
        return future

    def call(self, work: Work) -> Any:
        """Do `work` in the owner thread and wait for it. KeyboardInterrupt gets out of the wait, not of the work.

        UsageError: the machine was closed before its turn came.
        """
        if self._thread.is_current:
            return work()
        return self.ask(work).value()

    def ask(self, work: Work) -> Answer:
        """The same without waiting, and not for the owner thread itself: who asks looks after it."""
        answer = Answer(work)
        self._requests.put(answer)
        if self._requests.over:
            self._requests.refuse()
        return answer

    @property
    def is_current(self) -> bool:
        """Does the caller run in the owner thread?"""
        return self._thread.is_current

    def stop(self) -> None:
        """End after what is queued. Does not wait: it may be called by the owner thread itself."""
        self._requests.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the end."""
        self._thread.join(timeout_s)


class _Requests(SimpleQueue["Work | None"]):
    """What is asked of the owner. Whoever asks after the end refuses it himself, or the thread does: nobody waits."""

    over = False

    def serve(self) -> None:
        """In the thread: one after the other, until None."""
        lib.lk_set_actor(Actor.OWNER)
        while (request := self.get()) is not None:
            request()
            del request  # keep nothing of the machine alive while idle
        self.over = True
        self.refuse()

    def refuse(self) -> None:
        """All that is left."""
        with suppress(Empty):
            while True:
                if isinstance(request := self.get_nowait(), Answer):
                    request.refuse()


class Answer:
    """A future for one waiting caller, with one lock: half the way there and back of a whole one."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._value: Any = None
        self._error: BaseException | None = None
        self._given = _thread.allocate_lock()
        self._given.acquire()

    def __call__(self) -> None:
        """Do the work: in the owner thread."""
        try:
            self._value = self._work()
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits
            self._error = error
        self._given.release()

    def refuse(self) -> None:
        """It will not be done."""
        self._error = UsageError("the machine is closed")
        self._given.release()

    def wait_for(self, timeout_s: float) -> bool:
        """Is the work done, or is it within that time?"""
        if done := self._given.acquire(timeout=timeout_s):
            self._given.release()
        return done

    def value(self) -> Any:
        """Wait, and give what came of the work, or raise what it raised. Once."""
        self._given.acquire()
        if self._error is not None:
            raise self._error
        return self._value


def _fulfil(future: Future[Any], work: Work) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - it is handed to whoever asks the future
        future.set_exception(error)
