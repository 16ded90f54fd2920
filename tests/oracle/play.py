"""How is a scenario played? On a machine made for it, action by action, with what each caused written under it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Protocol

from oracle import canonical
from oracle.scenarios import PLACE_BAR0, Scenario

LOADS = (4_000, 16_000, 64_000)  # requests: the next if the one before ended too early, for hosts differ in speed


class LoadOver(Exception):
    """The load had ended before the host acted: what was traced says nothing about a load."""


class Machine(Protocol):
    """A machine on which a scenario is played."""

    def take(self, action: str) -> tuple[str, list[str]]:
        """Do an action; the guest's answer, if it gave one, and what the machine traced, canonically."""


Fresh = Callable[[Scenario], AbstractContextManager[Machine]]  # a machine for one scenario


def play(machine: Machine, scenario: Scenario, requests: int = LOADS[0]) -> list[str]:
    """Do a scenario; its actions with their answers, each followed by what was traced, indented.

    `requests` is the length of a load. LoadOver if it was too short.
    """
    machine.take(PLACE_BAR0)
    lines: list[str] = []
    for action in scenario.actions:
        answer, traced = machine.take(action.format(requests=requests))
        lines.append(f"{action} -> {answer}" if answer else action)
        lines += [f"    {line}" for line in (canonical.without_runs(traced) if scenario.load else traced)]
    return lines


def play_anew(fresh: Fresh, scenario: Scenario) -> list[str]:
    """Do a scenario on a machine made for it; under a load that ended too early once more, under a longer one."""
    for requests in LOADS:
        with fresh(scenario) as machine, suppress(LoadOver):
            return play(machine, scenario, requests)
    raise AssertionError(f"{scenario.name}: a load of {LOADS[-1]} requests is too short for this host")
