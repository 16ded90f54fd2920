"""Who plays the schedules? Machines of one scenario, each in a thread of this process, or of processes elsewhere.

A machine on KVM waits most of the time, for the kernel to let go of an ioeventfd; so there are more of them than CPUs.
Elsewhere gets schedules by the batch, and gives back who went and what broke: the events stay there. The threads of a
machine take turns, and its process has one GIL: so a process of ours stays on one CPU.
"""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from multiprocessing import get_context
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

from labkit.errors import UsageError
from labkit.races.player import Choice, Player, Run
from labkit.races.scenario import Scenario
from labkit.virtio.mutations import Mutation

MACHINES = {"kvm": 8, "emulated": 2}  # of one process: with more they wait for the GIL
BATCH_HERE = 8  # schedules for a machine at once, at most
BATCH = 64  # and for a worker elsewhere
WORKERS_PER_CPU = 8  # of an executor, for all we know
PROCESSES_PER_CPU = {"kvm": 2, "emulated": 1}  # while all machines of one wait for the kernel, the other has the CPU
MACHINES_EACH = {"kvm": 8, "emulated": 1}
AHEAD = 2  # batches for each worker: the next is there when one is done
POLL_S = 0.1
Batch = Sequence[Choice]


class Here:
    """Machines of this process. A context manager."""

    batch = BATCH_HERE

    def __init__(self, scenario: Scenario, mutations: Sequence[str | Mutation], cpu: str, machines: int | None) -> None:
        self._first = Player(scenario, mutations, cpu)
        self.cpu = self._first.vm.cpu
        self.workers = machines or MACHINES[self.cpu]
        self.most = AHEAD * self.batch * self.workers
        self._made = [self._first]
        self._free: SimpleQueue[Player] = SimpleQueue()
        self._free.put(self._first)
        self._about = (scenario, mutations, cpu)
        self._making = Lock()
        self._threads = ThreadPoolExecutor(self.workers, "labkit-races")

    def submit(self, batch: Batch) -> Future[list[Run]]:
        """Play it as soon as a machine is free."""
        return self._threads.submit(self._play, batch)

    def play(self, batch: Batch) -> list[Run]:
        """Play it on as many machines as there are, and wait."""
        share = -(-len(batch) // self.workers)
        runs = [self._threads.submit(self._play, batch[at : at + share]) for at in range(0, len(batch), share)]
        return [run for future in runs for run in future.result()]

    def _play(self, batch: Batch) -> list[Run]:
        player = self._take()
        try:
            return player.play_all(batch)
        finally:
            self._free.put(player)

    def _take(self) -> Player:
        """One that is free, or one more: there are as many as threads."""
        with self._making:
            try:
                return self._free.get_nowait()
            except Empty:
                self._made.append(player := Player(*self._about))
                return player

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for player in self._made:
            player.close()


class Elsewhere:
    """An executor of others, of concurrent.futures or a client of dask.distributed: each worker has machines."""

    batch = BATCH

    def __init__(
        self, executor: Any, scenario: Scenario, mutations: Sequence[str | Mutation], cpu: str, machines: int | None
    ) -> None:
        if isinstance(executor, ThreadPoolExecutor):
            raise UsageError("executor: threads of this process are what executor=None has; give one with processes")
        of_dask = hasattr(executor, "get_executor")  # a client's futures are of another kind, its executor's are not
        self._executor = executor.get_executor(pure=False) if of_dask else executor
        self._about = _pickled((scenario, tuple(mutations), cpu, machines))
        self.workers = WORKERS_PER_CPU * (os.cpu_count() or 1)
        self.most = AHEAD * self.batch * self.workers

    def submit(self, batch: Batch) -> Future[list[Run]]:
        """Play it there."""
        found: Future[list[Run]] = self._executor.submit(play_there, self._about, tuple(batch))
        return found

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *error: object) -> None:
        """The executor is its maker's; its workers keep their machines until they end."""


class Processes(Elsewhere):
    """Processes of our own, for one search. They start anew, so that nothing of this process is in them."""

    def __init__(self, scenario: Scenario, mutations: Sequence[str | Mutation], cpu: str, machines: int | None) -> None:
        with Player(scenario, mutations, cpu) as first:  # what is wrong with the scenario is heard here
            self.cpu = first.vm.cpu
        context, places = get_context("spawn"), sorted(os.sched_getaffinity(0)) * PROCESSES_PER_CPU[self.cpu]
        queue = context.SimpleQueue()
        for place in places:
            queue.put(place)
        executor = ProcessPoolExecutor(len(places), context, initializer=_settle_in, initargs=(queue,))
        super().__init__(executor, scenario, mutations, self.cpu, machines or MACHINES_EACH[self.cpu])
        self.workers = len(places)
        self.most = AHEAD * self.batch * self.workers

    def __exit__(self, *error: object) -> None:
        """Their machines end with them."""
        self._executor.shutdown(cancel_futures=True)


def _settle_in(places: Any) -> None:
    """In a worker: it stays on one CPU, and what was imported is no garbage."""
    os.sched_setaffinity(0, {places.get()})
    gc.freeze()


def _pickled(about: tuple[Scenario, tuple[str | Mutation, ...], str, int | None]) -> bytes:
    try:
        return pickle.dumps(about)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"scenario {about[0].name}: it goes elsewhere only with functions of a module: {error}"
        ) from error


_pools: dict[tuple[int, bytes], Here] = {}
_making = Lock()


def play_there(about: bytes, batch: Batch) -> list[Run]:
    """In a worker process: machines for each scenario that it was ever asked for. A fork has none of its parent's."""
    key = (os.getpid(), about)
    with _making:
        if key not in _pools:
            _pools[key] = Here(*pickle.loads(about))
    return _pools[key].play(batch)


def finished(pending: set[Future[list[Run]]]) -> set[Future[list[Run]]]:
    """Those that have ended; waits in steps, so that an interrupt of the cell gets through."""
    while not (done := wait(pending, POLL_S, FIRST_COMPLETED).done):
        pass
    return done
