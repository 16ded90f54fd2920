"""How does somebody wait for a machine? By a handle that listens at once; the rest is done in a thread of its own."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from labkit import views
from labkit.migration.address import Address
from labkit.migration.channel import Channel, Listener
from labkit.migration.destination import Destination, warm_up
from labkit.migration.expected import Expected
from labkit.migration.hello import Here
from labkit.migration.progress import Progress, Tell
from labkit.threads import Thread, happened

if TYPE_CHECKING:
    import ssl

    from labkit.abi import Irq
    from labkit.board import Board

M = TypeVar("M")

INTERRUPT_S = 0.05


class Arrival(Generic[M]):
    """Somebody listens at `address` for one machine; made by `labkit.listen`. A context manager; closing is idempotent.

    state: "listening", "arriving", "here", "failed". progress: at which gate.
    """

    def __init__(
        self,
        at: Address,
        here: Here,
        expected: Expected,
        name: str,
        hold: Callable[[Board, Irq], M],
        *,
        tls: ssl.SSLContext | None,
        timeout_s: float,
        tell: Tell | None,
    ) -> None:
        self._name, self._hold = name, hold
        self._here, self._tell, self._timeout_s = here, tell, timeout_s
        self._expected = expected
        self._listener = Listener(at, tls=tls)
        weakref.finalize(self, self._listener.close)  # at exit: a path must not stay behind
        self.address = str(self._listener.address)
        self.state = "listening"
        self.progress: Progress | None = None
        self.error: BaseException | None = None
        self._machine: M | None = None
        self._channel: Channel | None = None
        self._destination: Destination | None = None
        self._closed = False
        self._ended = threading.Event()
        self._thread = Thread(self._run, "labkit-receive")

    def machine(self, timeout_s: float | None = None) -> M:
        """Wait for it: it goes on here. Raises why it did not come; TimeoutError: not within the time.

        An interrupt ends the waiting and the listening.
        """
        try:
            over = happened(self._ended, timeout_s)
        except KeyboardInterrupt:
            self.close(INTERRUPT_S)
            raise
        if not over:
            raise TimeoutError(f"no machine has come to {self.address} within {timeout_s:g} s")
        if self._machine is None:
            assert self.error is not None
            raise self.error
        return self._machine

    def close(self, timeout_s: float = 10.0) -> None:
        """Wait no longer. What has come by halves is thrown away, its source runs on; a machine that is here stays."""
        self._closed = True
        self._listener.interrupt()
        if self._channel is not None:
            self._channel.interrupt()
        if not self._tells():
            self._ended.wait(timeout_s)

    def _tells(self) -> bool:
        """Is the caller one of the threads in which `tell` is called?"""
        return self._thread.is_current or (self._destination is not None and self._destination.is_current)

    def __enter__(self) -> Arrival[M]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._listener:
                warm_up(self._here.cpu)
                channel = self._channel = self._listener.accept()
            with channel:
                channel.timeout_s = self._timeout_s
                if self._closed:
                    channel.interrupt()
                self.state = "arriving"
                destination = self._destination = Destination(
                    channel, self._here, self._expected, self._name, self._told
                )
                self._machine = self._hold(destination.take(), destination.irq)
                self.state = "here"
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits
            self.error, self.state = error, "failed"
        self._ended.set()

    def _told(self, progress: Progress) -> None:
        """Whatever `tell` raises ends the arrival, until the machine is ours."""
        self.progress = progress
        try:
            if self._tell is not None:
                self._tell(progress)
        except BaseException:
            if self._destination is None or not self._destination.ours:
                raise

    # -- for people ----------------------------------------------------------------------------------------------------

    def _values(self) -> dict[str, object]:
        return {"address": self.address, "state": self.state, "last gate": self.progress or "-"}

    def _repr_html_(self) -> str:
        return views.named("arrival", self._values())

    def __repr__(self) -> str:
        return views.lines("arrival", self._values())
