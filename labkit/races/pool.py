"""Who plays the schedules? Machines of one scenario, each in a thread of this process, or in processes elsewhere.

A machine on KVM waits most of the time, for the kernel to let go of an ioeventfd; so there are more of them than CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any

from labkit.races.player import Choice, Player, Run
from labkit.races.scenario import Scenario
from labkit.races.search import Branch

MACHINES = {"kvm": 24, "emulated": 2}
POLL_S = 0.1


class Here:
    """Machines of this process. A context manager."""

    def __init__(self, scenario: Scenario, mutations: Sequence[str], cpu: str, machines: int | None) -> None:
        self._first = Player(scenario, mutations, cpu)
        self.cpu = self._first.vm.cpu
        self.most = machines or MACHINES[self.cpu]
        self._made = [self._first]
        self._free: SimpleQueue[Player] = SimpleQueue()
        self._free.put(self._first)
        self._about = (scenario, mutations, cpu)
        self._threads = ThreadPoolExecutor(self.most, "labkit-races")

    def submit(self, branch: Branch) -> Future[Run]:
        """Play it as soon as a machine is free."""
        return self._threads.submit(self._play, branch.choice)

    def _play(self, choice: Choice) -> Run:
        player = self._take()
        try:
            return player.play(choice)
        finally:
            self._free.put(player)

    def _take(self) -> Player:
        """One that is free, or one more: there are as many as threads."""
        if self._free.empty() and len(self._made) < self.most:
            player = Player(*self._about)
            self._made.append(player)
            return player
        return self._free.get()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for player in self._made:
            player.close()


class Elsewhere:
    """An executor of others (concurrent.futures, or a client of dask.distributed): each worker has a machine."""

    def __init__(
        self, executor: Any, scenario: Scenario, mutations: Sequence[str], cpu: str, machines: int | None
    ) -> None:
        self._executor, self._about = executor, (scenario, tuple(mutations), cpu)
        self.most = machines or 2 * (os.cpu_count() or 1)

    def submit(self, branch: Branch) -> Future[Run]:
        """Play it there."""
        found: Future[Run] = self._executor.submit(play_there, *self._about, branch.choice)
        return found

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *error: object) -> None:
        """The executor is its maker's; its workers keep their machine until they end."""


_players: dict[tuple[str, str, tuple[str, ...], str], Player] = {}


def play_there(scenario: Scenario, mutations: tuple[str, ...], cpu: str, choice: Choice) -> Run:
    """In a worker process: one machine for each scenario that it was ever asked for."""
    key = (scenario.name, scenario.fingerprint, mutations, cpu)
    if key not in _players:
        _players[key] = Player(scenario, mutations, cpu)
    return _players[key].play(choice)


def finished(pending: set[Future[Run]]) -> set[Future[Run]]:
    """Those that have ended; waits in steps, so that an interrupt of the cell gets through."""
    while not (done := wait(pending, POLL_S, FIRST_COMPLETED).done):
        pass
    return done
