"""How does a machine leave? Pages in rounds while it runs; then it stops, lets go of its disk and tells its state.

Whose is it at each moment? Never both sides run it, and as far as one of them lives, never none:

- Until RUNS is heard it is the source's. Whatever fails before, the source runs on.
- The destination enters the guest only after YOURS, which the source sends when TAKEN has told that nothing is missing;
  and it says RUNS first. So a connection that ends without RUNS has ended with a destination that never ran.
- If the disk is a writable file, its lock decides what a connection cannot. The source lets go of it before it tells
  the state. The destination that has it does without YOURS if the source is gone; the source that cannot have it back
  has lost the machine.
- If nobody answers after YOURS, and no such lock can tell why, the source does not run on: better none than both.
"""

from __future__ import annotations

import errno
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from labkit.abi import Irq
from labkit.board import Board
from labkit.errors import HostError, UsageError
from labkit.migration.hello import describe
from labkit.migration.progress import Progress, Round, Tell
from labkit.migration.wire import COUNT, OFFSET, ROUND, Kind, Refused, Wire, pack_json, pack_state, page_lists
from labkit.native import lib
from labkit.saving import STILL, saved, saved_cpu
from labkit.trace.events import Gate, State
from labkit.trace.events import Kind as EventKind

LOCK_PATIENCE_S = 2.0  # the kernel gives the lock of a dead process back a moment after its connection
PEER_GONE = errno.ECONNRESET


class Limits:
    """When is copying over? When what is left takes less than `downtime_s`, or after `rounds`."""

    def __init__(self, downtime_s: float, rounds: int) -> None:
        if not 0 <= downtime_s <= 3600:
            raise UsageError(f"downtime_s={downtime_s!r}: seconds, from 0 to an hour")
        if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= 1000:
            raise UsageError(f"rounds={rounds!r}: a whole number from 1 to 1000")
        self.downtime_s, self.rounds = downtime_s, rounds


class Source:
    """One hand-over, from the source's side. `gone`: the machine is the destination's, or may be."""

    def __init__(self, board: Board, irq: Irq, wire: Wire, limits: Limits, tell: Tell) -> None:
        self._board, self._irq, self._wire, self._limits, self._tell = board, irq, wire, limits, tell
        self.rounds: list[Round] = []
        self.pages = 0  # sent so far
        self.gone = False
        self.downtime_s = 0.0
        self._promised = False
        self._is_near = wire.channel.is_local  # which may ask for a name's addresses: not while nobody runs the guest

    def move(self, in_owner_thread: Callable[[Callable[[], None]], None]) -> None:
        """All of it. Whatever is raised says why it failed; `gone` says whose the machine is then."""
        self._pass(Gate.CONNECTED)
        self._introduce()
        with self._noted_writes():
            left = self._copy()
            in_owner_thread(lambda: self._hand_over(left))

    def _pass(self, gate: Gate) -> None:
        """An event, and a word to whoever wants to know."""
        self._board.feed.emit(EventKind.GATE, -1, gate, len(self.rounds), self.pages)
        self._tell(Progress(gate, len(self.rounds), self.pages, self.rounds[-1] if self.rounds else None))

    def _introduce(self) -> None:
        """What machine it is. The destination makes one."""
        self._wire.send(Kind.HELLO, pack_json(describe(self._board, self._irq)))
        if file := self._board.plan.image.file:
            self._wire.send(Kind.KERNEL, file)
        self._pass(Gate.HELLO_SENT)

    def _wait_for_welcome(self) -> None:
        self._wire.expect(Kind.WELCOME)
        self._pass(Gate.WELCOME_HEARD)

    # -- while it runs -------------------------------------------------------------------------------------------------

    @contextmanager
    def _noted_writes(self) -> Iterator[None]:
        """What is dirty is the migration's from now on; a snapshot taken before is restored whole."""
        board = self._board
        board.like = None
        board.dirty.track(True)
        try:
            yield
        finally:
            board.dirty.track(False)

    def _copy(self) -> array[int]:
        """Rounds: first every page that was ever written, then those written meanwhile. What is left at the end."""
        dirty = self._board.dirty
        pages = dirty.touched()
        while True:
            start = time.monotonic()
            self._send_pages(pages)
            seconds = time.monotonic() - start
            left = dirty.take()
            this = Round(len(self.rounds) + 1, len(pages), seconds, len(left))
            self.rounds.append(this)
            self._wire.send(Kind.ROUND, ROUND.pack(this.number, this.pages))
            self._pass(Gate.ROUND_SENT)
            if this.number == 1:
                self._wait_for_welcome()  # not sooner: the first round is on its way while a machine is made
            if this.estimated_downtime_s <= self._limits.downtime_s or this.number >= self._limits.rounds:
                return left
            pages = left

    def _send_pages(self, pages: array[int]) -> None:
        for some in page_lists(pages):
            self._wire.send(Kind.PAGES, COUNT.pack(len(some)), some, self._board.dirty.copy(some))
            self.pages += len(some)

    # -- while nobody runs: in the owner thread ------------------------------------------------------------------------

    def _hand_over(self, left: array[int]) -> None:
        board = self._board
        board.check_plugged()  # what comes there is plugged
        if board.runstate.state not in STILL:
            raise UsageError(
                f"the machine is {board.runstate.state.name.lower()}: there is nothing to go on with there"
            )
        running, start = board.runstate.running, time.monotonic()
        with board.stopped(lib.ASK_SETTLE):
            board.runstate.change(State.PAUSED)
        try:
            self._pass(Gate.STOPPED)
            self._tell_rest(left, running=running)
            self._part()
            self.downtime_s = time.monotonic() - start
        except BaseException as error:
            self._wire.channel.close()
            self._fall_back(error, running=running)
            raise
        board.move_out()
        self._pass(Gate.RUNS_HEARD)

    def _tell_rest(self, left: array[int], *, running: bool) -> None:
        """What was written since the last round, by the stop itself too; every part's state; a RAM disk.

        The CPU's comes last: the others are taken up there while the CPU is asked here.
        """
        board, disk = self._board, self._board.disk
        parts = saved(board)
        rest = sorted({*left, *board.dirty.take()})
        self._send_pages(array("I", rest))
        self._wire.send(Kind.PARTS, pack_state(parts))
        if disk is not None and disk.is_ram:
            for offset, data in disk.extents():
                self._wire.send(Kind.DISK, OFFSET.pack(offset), data)
        self._pass(Gate.REST_SENT)
        cpu = saved_cpu(board)
        if disk is not None:
            disk.let_go(durable=not self._is_near)
        self._pass(Gate.DISK_LET_GO)
        self._wire.send(Kind.STATE, pack_state({"running": running, "cpu": cpu}))
        self._pass(Gate.STATE_SENT)

    def _part(self) -> None:
        self._wire.expect(Kind.TAKEN)
        self._pass(Gate.TAKEN_HEARD)
        # Who ran without it, by the lock, has said so and gone. And a word that could not be sent is no promise.
        self._promised = self._wire.try_to_send(Kind.YOURS)
        self._pass(Gate.YOURS_SENT)
        self._wire.expect(Kind.RUNS)
        self.gone = True

    # -- and back ------------------------------------------------------------------------------------------------------

    def _fall_back(self, error: BaseException, *, running: bool) -> None:
        """It failed. Run on, unless the machine is gone, or may be."""
        if self.gone or not self._is_ours(error):
            self.gone = True
            self._board.move_out()
        elif running:
            self._board.resume()

    def _is_ours(self, error: BaseException) -> bool:
        """The destination does not run it, and will not. UsageError: it does not, and somebody else has the disk."""
        disk = self._board.disk
        if disk is not None:
            try:
                disk.take_lock(LOCK_PATIENCE_S)
            except UsageError:
                if not disk.arbitrates or isinstance(error, Refused):
                    raise  # the machine stays, paused: no lock, no disk
                return False
            if disk.arbitrates:
                return True
        return not self._promised or (isinstance(error, HostError) and error.errno == PEER_GONE)
