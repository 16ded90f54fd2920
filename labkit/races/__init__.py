"""You are the scheduler: which orders of vCPU, iothread, backend and main thread are there, and what breaks in which?

`scenario.py` says what is played and `invariants.py` what must hold; `player.py` plays one schedule on a real guest,
`search.py` says which to play, `pool.py` who plays them, `schedules.py` how one is written down; `stepper.py` lets a
person decide one, and `moment.py` says where everybody stands then; `stacks.py` says it of threads in a deadlock.
`barriers.py` is about an order that no schedule decides: that of a CPU's own stores and loads.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from labkit.errors import UsageError
from labkit.races import schedules
from labkit.races.barriers import Litmus, litmus
from labkit.races.invariants import Invariant
from labkit.races.player import Broken, Choice, Player, Policy, Run
from labkit.races.pool import Elsewhere, Here, Processes, finished
from labkit.races.report import Failure, Replay, Report, switches
from labkit.races.scenario import Act, Scenario, Step
from labkit.races.search import Branch, Chance, Depth, search
from labkit.races.stepper import Stepper
from labkit.virtio.mutations import Mutation

__all__ = [
    "Act",
    "Choice",
    "Failure",
    "Invariant",
    "Litmus",
    "Player",
    "Policy",
    "Replay",
    "Report",
    "Scenario",
    "Step",
    "Stepper",
    "explore",
    "litmus",
    "replay",
    "stepper",
]

SCHEDULERS = ("dfs", "pct", "random", "round-robin")
WITHOUT_LIMIT = 1000  # schedules by chance, if nobody says how many
Tell = Callable[[int, int], object]


def explore(
    scenario: Scenario | str,
    scheduler: str = "dfs",
    mutations: Sequence[str | Mutation] = (),
    limit: int | None = None,
    seed: int = 0,
    executor: Any = None,
    *,
    machines: int | None = None,
    cpu: str = "auto",
    until_broken: bool = False,
    progress: Tell | None = None,
) -> Report:
    """Play schedules of a scenario, or of a specimen's by its name, and see which invariants break.

    scheduler: "dfs" (every order, complete if `limit` allows), "pct", "random" (from `seed` on) or "round-robin".
    limit: schedules at most; None: all of them for "dfs", 1000 by chance. mutations: what is wrong on purpose.
    executor: where they are played, a concurrent.futures.Executor or a client of dask.distributed; None: here, on
    `machines` guests at once; "processes": in some of their own for this search, that many guests in each.
    until_broken: end at the first failure. progress: told schedules and failures so far.
    An interrupt ends it, and what was found is reported. UsageError: no such scheduler, scenario or mutation.
    """
    scenario = _scenario(scenario)
    plan = search(scheduler, scenario, seed)
    if plan is None:
        raise UsageError(f"scheduler {scheduler!r}: there are {', '.join(SCHEDULERS)}")
    most = limit if limit is not None else None if plan.complete else WITHOUT_LIMIT
    where = (scenario, mutations, cpu, machines)
    found = _Found(scenario)
    start, interrupted, exhausted = time.monotonic(), False, False
    with _pool(executor, *where) as pool:
        start = time.monotonic()
        try:
            exhausted = _search(plan, pool, found, most, until_broken=until_broken, progress=progress)
        except KeyboardInterrupt:
            interrupted = True
        seconds = time.monotonic() - start
    return Report(
        scenario.name,
        scheduler,
        tuple(one if isinstance(one, str) else one.name for one in mutations),
        _cpu(cpu, pool),
        found.schedules,
        seconds,
        plan.complete and exhausted,
        interrupted,
        found.report(),
    )


def _pool(executor: Any, *where: Any) -> Here | Elsewhere:
    if isinstance(executor, str):
        if executor != "processes":
            raise UsageError(f"executor={executor!r}: an executor, or 'processes'")
        return Processes(*where)
    return Here(*where) if executor is None else Elsewhere(executor, *where)


def _search(
    plan: Depth | Chance,
    pool: Here | Elsewhere,
    found: _Found,
    most: int | None,
    *,
    until_broken: bool,
    progress: Tell | None,
) -> bool:
    """True: nothing is left to be played."""
    pending: dict[Future[list[Run]], list[Branch]] = {}
    while not (until_broken and found.failures):
        under_way = sum(map(len, pending.values()))
        room = pool.most - under_way if most is None else min(pool.most, most - found.schedules) - under_way
        new = list(itertools.islice(iter(plan.next, None), room))
        size = max(1, min(pool.batch, len(new) // max(1, pool.workers - len(pending))))
        for batch in (new[at : at + size] for at in range(0, len(new), size)):
            pending[pool.submit([branch.choice for branch in batch])] = batch
        if not pending:
            return most is None or found.schedules < most or plan.next() is None
        for future in finished(set(pending)):
            for branch, run in zip(pending.pop(future), future.result(), strict=True):
                found.add(run)
                plan.played(branch, run)
        if progress is not None:
            progress(found.schedules, len(found.failures))
    return False


def replay(
    scenario: Scenario | str, schedule: str, mutations: Sequence[str | Mutation] = (), *, cpu: str = "auto"
) -> Replay:
    """Play one schedule again. UsageError: it is of another scenario, or of another version of it."""
    scenario = _scenario(scenario)
    plan = schedules.decode(scenario, schedule)
    with Player(scenario, mutations, cpu) as player:
        run = player.play(Choice(plan=plan))
        events = [one for one in player.vm.trace.events(since=run.first_event) if one.seq <= run.last_event]
        ran_on = player.vm.cpu
    broken = tuple(one.invariant for one in run.broken)
    stacks = next((one.stacks for one in run.broken), "")
    return Replay(scenario.name, schedules.encode(scenario, run.actors), broken, tuple(events), ran_on, stacks)


def stepper(scenario: Scenario | str, mutations: Sequence[str] = (), *, cpu: str = "auto") -> Stepper:
    """Decide a schedule step by step. UsageError: no such scenario or mutation, or it cannot be prepared."""
    return Stepper(_scenario(scenario), mutations, cpu)


def _scenario(which: Scenario | str) -> Scenario:
    if isinstance(which, Scenario):
        return which
    from labkit import museum

    return museum.find(which).scenario


def _cpu(wanted: str, pool: Here | Elsewhere) -> str:
    return pool.cpu if isinstance(pool, Here | Processes) else wanted


class _Found:
    """Failures so far: the shortest schedule of each invariant."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self.schedules = 0
        self.failures: dict[str, tuple[Broken, bytes, int]] = {}

    def add(self, run: Run) -> None:
        self.schedules += 1
        for broken in run.broken:
            known = self.failures.get(broken.invariant)
            if known is None or _length(run.actors) < _length(known[1]):
                self.failures[broken.invariant] = (broken, run.actors, known[2] + 1 if known else 1)
            else:
                self.failures[broken.invariant] = (*known[:2], known[2] + 1)

    def report(self) -> tuple[Failure, ...]:
        return tuple(
            Failure(*broken[:3], schedules.encode(self._scenario, actors), len(actors), times, broken.stacks)
            for broken, actors, times in self.failures.values()
        )


def _length(actors: bytes) -> tuple[int, int, bytes]:
    """Of two that are as long it is the same one each time, whoever played it first."""
    return switches(actors), len(actors), actors
