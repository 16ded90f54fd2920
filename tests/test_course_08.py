"""Notebook 08: which answers are right, and which only look like it?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from classroom import wrong

from labkit import course
from labkit.course.n08 import BUG
from labkit.museum import find
from labkit.races import Invariant, Scenario
from labkit.races.invariants import EVERY_KICK_IS_SERVED, Seen
from labkit.races.scenario import added, kick, publish, set_status
from labkit.trace import Kind

pytestmark = pytest.mark.usefixtures("cpu")

BOTH, LATE, OWN = "08.both-serve", "08.too-late", "08.own-scenario"
HEAD = f"kick-and-stop:{find(BUG).scenario.fingerprint}"
BY_IOTHREAD, BY_VCPU = f"{HEAD}:vx4 ix5 vx6", f"{HEAD}:vx10"


def test_a_schedule_for_each() -> None:
    """In time, and too late; a text may leave its end open."""
    assert course.check(BOTH, {"iothread": BY_IOTHREAD, "vcpu0": BY_VCPU})
    assert course.check(BOTH, {"iothread": f"{HEAD}:vx4 ix5", "vcpu0": f"{HEAD}:vx4 ix2 v"})


@pytest.mark.parametrize(
    "answer",
    [
        {"iothread": BY_VCPU, "vcpu0": BY_IOTHREAD},
        {"iothread": BY_IOTHREAD, "vcpu0": BY_IOTHREAD},
        {"iothread": f"{HEAD}:vx4 ix2 v", "vcpu0": BY_VCPU},  # it goes, and does not serve
        {"iothread": f"{HEAD}:i", "vcpu0": BY_VCPU},  # nobody has woken it
        {"iothread": "vx4 ix5 vx6", "vcpu0": "vx10"},  # without the head
        {"iothread": BY_IOTHREAD.replace(HEAD, "kick-and-stop:0000"), "vcpu0": BY_VCPU},
        {"iothread": BY_IOTHREAD, "vcpu0": None},
        {"iothread": BY_IOTHREAD},
        [BY_IOTHREAD, BY_VCPU],
    ],
)
def test_schedules_that_do_not_say_so(answer: object) -> None:
    """One for the other, one that nobody can play, one of another scenario, and other forms."""
    wrong(course.check(BOTH, answer), BY_IOTHREAD if BY_IOTHREAD not in str(answer) else "no such text")


@pytest.mark.parametrize("schedule", ["vx4 i v", "vx4 ix2 v", "vx5 ix2 v"])
def test_on_its_way_and_too_late(schedule: str) -> None:
    """It has gone once, or as far as the lock."""
    assert course.check(LATE, f"{HEAD}:{schedule}")


@pytest.mark.parametrize(
    "answer",
    [BY_VCPU, f"{HEAD}:v", BY_IOTHREAD, f"{HEAD}:vx4 ix9", f"{HEAD}:i v", f"{HEAD}:vx99999", "vx4 ix2 v", [BY_VCPU]],
)
def test_not_at_all_or_in_time(answer: object) -> None:
    """The iothread does not go, or saves the kick; and what cannot be played."""
    wrong(course.check(LATE, answer), f"{HEAD}:vx4 ix2", f"{HEAD}:vx4 i ")


def answered(seen: Seen) -> str:
    """Was there a request that was served?"""
    return "" if any(record[2] == Kind.REQUEST for record in seen.records) else "nobody has served it"


def never(_: Seen) -> str:
    """Asks for too much."""
    return "it is not so"


def always(_: Seen) -> str:
    """Asks for nothing."""
    return ""


def invariant(check: Any = answered) -> Invariant:
    """One of a student's own."""
    return Invariant("asked-is-answered", "A request is forgotten.", check)


MINE = Scenario(
    "kick-and-reset",
    "It kicks, and resets.",
    (invariant(),),
    (publish(), kick(), set_status(0)),
    prepare=added,
)


def test_a_scenario_of_ones_own() -> None:
    """It holds with the rule as it is, in every order, and the mutation breaks it."""
    assert course.check(OWN, MINE, BUG)


@pytest.mark.parametrize(
    ("scenario", "mutation"),
    [
        (MINE, "off-for-life"),  # another bug, which it does not come by
        (MINE, ""),
        (MINE, [BUG]),
        (replace(MINE, invariants=(EVERY_KICK_IS_SERVED,)), BUG),  # not one's own
        (replace(MINE, invariants=(invariant(never),)), BUG),  # broken with nothing wrong
        (replace(MINE, invariants=(invariant(always),)), BUG),  # cannot be broken
        (replace(MINE, guest=(publish(), kick())), BUG),  # nothing stops the notifier
        (replace(MINE, guest=(publish(), set_status(0))), BUG),  # nobody kicks
        (find(BUG).scenario, BUG),  # the museum's
        ("kick-and-reset", BUG),
    ],
)
def test_scenarios_that_show_nothing(scenario: object, mutation: object) -> None:
    """They do not come by the bug, ask for too much or too little, or are not one's own."""
    wrong(course.check(OWN, scenario, mutation), "set_status")
