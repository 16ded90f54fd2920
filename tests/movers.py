"""What do the two processes of a move do? Each plays its side, halts or dies at gates, and tells what came of it.

They speak to the test over a line: ("what", *values). Who halts waits for a word, and for ever: a test that dies takes
the other end of the line with it.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import journal

import labkit
from labkit import LabkitError, Machine
from labkit.dirty import Pages
from labkit.migration import Progress, destination, source
from labkit.trace.events import Gate

WAIT_S = 60.0  # for whatever should come at once: a hang ends as a failure
WRITES_BEFORE = 48  # acknowledged when the move begins
ROUNDS = 3
SPAN = 16
LINE = f"span={SPAN} depth=8"
SHORT_S = 0.3  # the patience of who faces a stalled peer


class Stop(NamedTuple):
    """A gate, and of those that come in each round, which round; 0: the first."""

    gate: Gate
    round: int = 0

    def is_at(self, progress: Progress) -> bool:
        """Has the side come there?"""
        return progress.gate is self.gate and self.round in (0, progress.round)


class Part(NamedTuple):
    """What a process shall do. `hurried`: once it has halted, it waits for nothing longer than SHORT_S."""

    cpu: str
    address: str
    disk: Path | None  # None: a RAM disk, whose lock decides nothing
    halt: Stop | None = None
    die: Stop | None = None
    hurried: bool = False


class Side:
    """One process's end of the line, and what it does at gates."""

    def __init__(self, line: Connection, part: Part) -> None:
        self._line, self._part, self._halt = line, part, part.halt

    def say(self, what: str, *values: object) -> None:
        """Tell the test."""
        self._line.send((what, *values))

    def ask(self, what: str, *values: object) -> str:
        """Tell it, and wait for its word."""
        self.say(what, *values)
        return str(self._line.recv())

    def at_gate(self, progress: Progress, hurry: Callable[[], None]) -> None:
        """Die here, halt here, or go on."""
        if self._part.die is not None and self._part.die.is_at(progress):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._halt is not None and self._halt.is_at(progress):
            self._halt = None
            self.ask("halted")
            if self._part.hurried:
                hurry()

    def settle(self, vm: Machine | None, error: Exception | None) -> None:
        """Tell what came of it; then let the journal end, if asked to."""
        state = "nothing" if vm is None else vm.state
        if self.ask("settled", state, isinstance(error, LabkitError), str(error or "")) == "end":
            assert vm is not None
            journal.ask_to_stop(vm)
            self.say("ended", vm.wait(WAIT_S), vm.console)
        if vm is not None:
            vm.close()
        self.say("closed")


def play_source(line: Connection, part: Part) -> None:
    """Boot the journal, let it write, and move it."""
    side = Side(line, part)
    with _told(side):
        disk = {} if part.disk is None else {"disk": part.disk, "writable": True}
        vm = labkit.boot("blk", kernel=labkit.guest_image("journal"), cmdline=LINE, cpu=part.cpu, **disk)
        side.ask("memory", vm.memory.fd)
        _let_no_look_find_nothing(vm)
        journal.wait_for_writes(vm, WRITES_BEFORE)
        side.ask("writes")
        side.settle(vm, _migrate(vm, side, part))


def _let_no_look_find_nothing(vm: Machine) -> None:
    """While it runs, the guest writes before and after each look at the dirty pages: there are rounds, and a rest."""
    take = vm._board.dirty.take

    def let_write() -> None:
        journal.wait_for_writes(vm, journal.read_table(vm.memory.read).writes + 1)

    def take_some() -> Pages[int]:
        if vm.state != "running":
            return take()
        let_write()
        found = take()
        let_write()
        return found

    vm._board.dirty.take = take_some


def _migrate(vm: Machine, side: Side, part: Part) -> Exception | None:
    def hurry() -> None:
        vm._board.migration._channel.timeout_s = source.LOCK_PATIENCE_S = SHORT_S

    try:
        vm.migrate(
            part.address,
            downtime_s=0,
            rounds=ROUNDS,
            timeout_s=WAIT_S,
            progress=lambda progress: side.at_gate(progress, hurry),
        )
    except LabkitError as error:
        return error
    return None


def play_destination(line: Connection, part: Part) -> None:
    """Take the machine that comes."""
    side, told = Side(line, part), []

    def hurry() -> None:
        arrival._channel.timeout_s = destination.LOCK_PATIENCE_S = SHORT_S

    def at_gate(progress: Progress) -> None:
        if progress.gate >= Gate.BUILT and not told:
            told.append(True)
            side.ask("memory", arrival._destination._board.memory.fd)
        side.at_gate(progress, hurry)

    with _told(side), labkit.listen(part.address, cpu=part.cpu, timeout_s=WAIT_S, progress=at_gate) as arrival:
        side.say("listens")
        try:
            vm = arrival.machine()
        except LabkitError as error:
            side.settle(None, error)
        else:
            side.settle(vm, None)


@contextmanager
def _told(side: Side) -> Iterator[None]:
    """Whatever goes wrong here is the test's failure, in full."""
    try:
        yield
    except BaseException:  # noqa: BLE001 - whoever reads it fails
        side.say("failed", traceback.format_exc())
