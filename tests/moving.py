"""How does a test follow a move from outside, and kill a side of it? By lines to both processes, and by their memory.

The guest's memory is opened through /proc while its process lives, and can be read when that is dead.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from journal import GPA, Table, memfd_reader, read_table
from movers import WAIT_S, Part, play_destination, play_source

from labkit.abi import NUMBERS

# Both sides are forked from a process that has labkit loaded and no threads.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["labkit.machine", "labkit.migration", "labkit.cpu.emulated", "labkit.cpu.kvm"])


class Side:
    """A process of a move, as the test sees it."""

    def __init__(self, name: str, play: Callable[[Connection, Part], None], part: Part) -> None:
        self.name = name
        self.memory = -1  # its guest's memory, as an fd of ours
        self.is_heard = True  # until its end
        self._said: list[tuple[Any, ...]] = []
        self.line, theirs = FORKS.Pipe()
        with theirs:
            self._process = FORKS.Process(target=play, args=(theirs, part), name=name, daemon=True)
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def take_in(self) -> None:
        """What it says now. When it tells of its guest's memory, that is opened in passing."""
        try:
            what, *values = self.line.recv()
        except (EOFError, ConnectionResetError):
            what, values, self.is_heard = "end of line", [], False
        if what == "memory":
            self.memory = os.open(f"/proc/{self.pid}/fd/{values[0]}", os.O_RDONLY)
            self.tell("go")
        self._said.append((what, *values))

    def has_said(self, what: str) -> tuple[Any, ...] | None:
        """The values with which it has; None: not yet. AssertionError: it failed, or is dead."""
        for at, (said, *values) in enumerate(self._said):
            if said == what:
                del self._said[at]
                return tuple(values)
            assert said not in ("failed", "end of line"), f"{what!r} was due from the {self.name}: {said} {values}"
        return None

    def tell(self, word: str) -> None:
        """A word that it waits for."""
        self.line.send(word)

    # -- its guest -----------------------------------------------------------------------------------------------------

    def table(self) -> Table:
        """The journal's, in its guest's memory."""
        return read_table(memfd_reader(self.memory))

    def journal(self) -> bytes:
        """All that moves while its guest runs: the journal's counters and table. Nothing, if it had no memory yet."""
        return b"" if self.memory < 0 else os.pread(self.memory, NUMBERS["JOURNAL_BYTES"], GPA)

    def contents(self) -> bytes:
        """All of its guest's memory."""
        return os.pread(self.memory, os.fstat(self.memory).st_size, 0)

    # -- its end -------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Kill -9, now."""
        self.is_heard = False
        self._process.kill()
        self.wait_until_dead()

    def stall(self) -> None:
        """It stands still, all of it, as behind a dead network."""
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """It goes on, and knows of nothing."""
        os.kill(self.pid, signal.SIGCONT)

    def wait_until_dead(self) -> None:
        """By kill -9."""
        self._process.join(WAIT_S)
        assert self._process.exitcode == -signal.SIGKILL, f"the {self.name}: {self._process.exitcode}"

    def wait_until_gone(self) -> None:
        """By its own end, with everything closed."""
        self._process.join(WAIT_S)
        assert self._process.exitcode == 0, f"the {self.name}: {self._process.exitcode}"

    def close(self) -> None:
        """Nothing of it is left, whatever the test has come to."""
        with suppress(ProcessLookupError):
            if self._process.is_alive():
                self._process.kill()
        self._process.join()
        self._process.close()
        self.line.close()
        if self.memory >= 0:
            os.close(self.memory)


class Move:
    """Both processes of one. A context manager.

    disk: None: a RAM disk. orders: fields of a side's Part, by its name.
    """

    def __init__(self, cpu: str, folder: Path, disk: Path | None, **orders: dict[str, Any]) -> None:
        both = Part(cpu, f"unix:{folder}/move.sock", disk)
        self.disk = disk
        self.source = Side("source", play_source, both._replace(**orders.get("source", {})))
        self.destination = Side("destination", play_destination, both._replace(**orders.get("destination", {})))
        self.sides = (self.source, self.destination)

    def __enter__(self) -> Move:
        """It begins when somebody listens and the guest writes."""
        try:
            self.hear(self.destination, "listens")
            self.hear(self.source, "writes")
            self.source.tell("go")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Whatever it has come to."""
        for side in self.sides:
            side.close()

    def side(self, name: str) -> Side:
        """By its name."""
        return self.source if name == self.source.name else self.destination

    def other(self, side: Side) -> Side:
        """Of the two."""
        return self.destination if side is self.source else self.source

    def hear(self, side: Side, what: str) -> tuple[Any, ...]:
        """Wait until `side` says `what`, with which values; meanwhile the other is heard, too.

        AssertionError: it did not within WAIT_S, it failed, or died.
        """
        until = time.monotonic() + WAIT_S
        while (values := side.has_said(what)) is None:
            lines = {each.line: each for each in self.sides if each.is_heard}
            ready = wait(list(lines), until - time.monotonic())
            assert ready, f"the {side.name} did not say {what!r} within {WAIT_S:g} s"
            for line in ready:
                lines[line].take_in()
        return values
