"""How are all orders tried, each once? A tree of decisions, branch by branch, with sleep sets; or a walk by chance.

A schedule is played from the start each time: its prefix is forced, the rest goes as it likes to, and where others
could have gone it leaves branches. A sleep set (Godefroid) says who need not be tried first at a node: that order was
tried, and nobody since has touched what he touches. A branch all of whose actors sleep is not played.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from labkit.races.footprint import Stretch, stretches
from labkit.races.player import Choice, Policy, Run
from labkit.races.scenario import Scenario

PCT_CHANGES = 3  # priority changes in a schedule: bugs of depth 4 are found with some probability


class Node:
    """Where somebody had to be chosen. `left`: who is still to be tried. `asleep`: who need not be."""

    def __init__(self, prefix: bytes, left: list[int], asleep: frozenset[Stretch]) -> None:
        self.prefix, self.left, self.asleep = prefix, left, asleep


class Branch(NamedTuple):
    """A schedule to be played: `choice` forces its prefix, whose last decision is a new one at `node`."""

    choice: Choice
    node: Node | None = None
    asleep: frozenset[Stretch] = frozenset()


class Depth:
    """Depth first, complete within the scenario's limit of decisions. `next` and `played` in turns, or many at once."""

    complete = True

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._ready: deque[Branch] = deque([Branch(Choice())])

    def next(self) -> Branch | None:
        """A schedule to be played, if one is known now; others may come when those under way were played."""
        return self._ready.pop() if self._ready else None

    def played(self, branch: Branch, run: Run) -> None:
        """Leaves the branches that the run has passed, and the next one of the node where it began."""
        decisions, actors = run.decisions, run.actors
        steps = list(stretches(self._scenario, decisions))
        begin = len(branch.choice.plan)
        if branch.node is not None and begin <= len(steps):
            branch.node.asleep |= {steps[begin - 1]}
            self._offer(branch.node)
        asleep = branch.asleep
        if begin and begin <= len(steps):
            asleep = frozenset(z for z in asleep if z.is_independent(steps[begin - 1]))
        for at in range(begin, len(steps)):
            decision, taken = decisions[at], steps[at]
            others = [actor for actor in range(32) if decision.enabled >> actor & 1 and actor != taken.actor]
            self._offer(Node(actors[:at], others, asleep | {taken}))
            if any(z.actor == taken.actor for z in asleep):
                return  # from here on it was played before, in another order
            asleep = frozenset(z for z in asleep if z.is_independent(taken))

    def _offer(self, node: Node) -> None:
        """The next of those who are to be tried there: one after the other, for each makes the next one's sleep set."""
        while node.left:
            actor = node.left.pop(0)
            if any(z.actor == actor for z in node.asleep):
                continue
            self._ready.append(Branch(Choice(plan=node.prefix + bytes([actor])), node, node.asleep))
            return


class Chance:
    """Schedules that a seed or turns decide. Never complete."""

    complete = False

    def __init__(self, choices: Iterator[Choice]) -> None:
        self._choices = choices

    def next(self) -> Branch | None:
        """One more, if there is one."""
        choice = next(self._choices, None)
        return Branch(choice) if choice is not None else None

    def played(self, branch: Branch, run: Run) -> None:
        """Nothing to be learned."""


class Pct(Chance):
    """Changes of priority are spread over a schedule, so the first one, without any, tells how long one is."""

    def __init__(self, seed: int) -> None:
        super().__init__(iter([Choice()]))
        self._seed = seed

    def played(self, branch: Branch, run: Run) -> None:
        """Of the first: its length."""
        if branch.choice == Choice():
            how = Choice(policy=Policy.PCT, changes=PCT_CHANGES, length=len(run.actors))
            self._choices = (how._replace(seed=seed) for seed in itertools.count(self._seed))


def search(scheduler: str, scenario: Scenario, seed: int) -> Depth | Chance | None:
    """By name: "dfs", "pct", "random", "round-robin"; None: there is no such."""
    if scheduler == "dfs":
        return Depth(scenario)
    if scheduler == "random":
        return Chance(Choice(policy=Policy.RANDOM, seed=one) for one in itertools.count(seed))
    if scheduler == "pct":
        return Pct(seed)
    return Chance(iter([Choice(policy=Policy.TURNS)])) if scheduler == "round-robin" else None
