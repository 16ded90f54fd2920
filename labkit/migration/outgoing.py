"""How does somebody follow a machine that leaves, or call it back? By a handle; a thread of its own does the work."""

from __future__ import annotations

import errno
import threading
import time
from typing import TYPE_CHECKING

from labkit import views
from labkit.abi import Irq
from labkit.errors import HostError, UsageError
from labkit.migration.address import Address
from labkit.migration.channel import Channel, connect
from labkit.migration.progress import Progress, Round, Tell
from labkit.migration.source import Limits, Source
from labkit.migration.wire import Wire
from labkit.threads import Thread, happened

if TYPE_CHECKING:
    import ssl

    from labkit.board import Board

INTERRUPT_S = 0.05  # how long an interrupted wait waits for the end


class Migration:
    """A machine on its way, made by `vm.migrate`.

    state: "moving", "moved", "failed" or "cancelled". rounds: a Round each. pages: sent. progress: at which gate.
    total_s: from the call until the destination had it. downtime_s: the part of it in which nobody ran the guest.
    """

    def __init__(
        self,
        board: Board,
        irq: Irq,
        keep: object,
        to: Address,
        *,
        tls: ssl.SSLContext | None,
        limits: Limits,
        timeout_s: float,
        tell: Tell | None,
    ) -> None:
        self.address, self.state, self.progress = to, "moving", None
        self.total_s = self.downtime_s = 0.0
        self.rounds: list[Round] = []
        self.pages = 0
        self.error: BaseException | None = None
        self._board, self._tls, self._timeout_s, self._tell = board, tls, timeout_s, tell
        self._irq, self._limits = irq, limits
        self._source: Source | None = None
        self._channel: Channel | None = None
        self._cancelled = False
        self._ended = threading.Event()
        self._keep: object = keep  # whose end would be the machine's: not while it is on its way
        self._thread: Thread | None = None

    progress: Progress | None

    def start(self) -> None:
        """Off. Once."""
        self._thread = Thread(self._run, f"{self._board.name}-move")

    def cancel(self) -> None:
        """Call it back, if it is not too late; returns at once, and `wait` tells what came of it."""
        self._cancelled = True
        if self._channel is not None:
            self._channel.interrupt()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until it is over; False: the time was over first. Raises why it failed; the machine runs on here then.

        An interrupt calls it back.
        """
        try:
            over = happened(self._ended, timeout_s)
        except KeyboardInterrupt:
            self.cancel()
            self._ended.wait(INTERRUPT_S)
            raise
        if over and self.error is not None:
            raise self.error
        return over

    def abandon(self, timeout_s: float) -> None:
        """The machine is to be closed: call it back, and wait, unless it is the migration itself that closes it."""
        self.cancel()
        if self._thread is None or not self._thread.is_current:
            self._ended.wait(timeout_s)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        start = time.monotonic()
        try:
            with connect(self.address, tls=self._tls, timeout_s=self._timeout_s, made=self._reaches) as channel:
                self._source = Source(self._board, self._irq, Wire(channel), self._limits, self._told)
                self._source.move(self._board.owner.call)
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits
            self.error = self._what_failed(error)
        self.total_s = time.monotonic() - start
        self._end()

    def _reaches(self, channel: Channel) -> None:
        """For somebody: from here on a cancellation ends every wait."""
        self._channel = channel
        if self._cancelled:
            channel.interrupt()

    def _end(self) -> None:
        gone = self._source is not None and self._source.gone
        if self._source is not None:
            self.rounds, self.pages = self._source.rounds, self._source.pages
            self.downtime_s = self._source.downtime_s
        self.state = "moved" if gone else "cancelled" if self._cancelled else "failed"
        self._board.migration = None
        self._keep = None
        self._ended.set()

    def _told(self, progress: Progress) -> None:
        """At each gate a cancellation takes effect, and what `tell` raises is one; until the machine is gone."""
        self.progress = progress
        gone = self._source is not None and self._source.gone
        try:
            if self._cancelled and not gone:
                raise _called_back()
            if self._tell is not None:
                self._tell(progress)
        except BaseException:
            if not gone:
                raise

    def _what_failed(self, error: BaseException) -> BaseException:
        if self._source is not None and self._source.gone:
            return HostError(
                "migrate", errno.EREMOTEIO, f"it was handed over to {self.address}, which did not confirm it: {error}"
            )
        if self._cancelled and isinstance(error, HostError) and error.errno == errno.ECANCELED:
            return _called_back()
        error.add_note(f"the machine is {self._board.runstate.state.name.lower()} here")
        return error

    # -- for people ----------------------------------------------------------------------------------------------------

    def _values(self) -> dict[str, object]:
        rounds = "; ".join(f"{r.number}: {r.pages} pages, {r.dirtied} dirty again" for r in self.rounds)
        at = "-" if self.progress is None else str(self.progress)
        return {"to": self.address, "state": self.state, "last gate": at, "rounds": rounds or "-"}

    def _repr_html_(self) -> str:
        return views.named("migration", self._values())

    def __repr__(self) -> str:
        return views.lines("migration", self._values())


def _called_back() -> UsageError:
    return UsageError("the migration was cancelled; the machine goes on here")
