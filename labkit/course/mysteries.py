"""A machine with an unnamed bug: `course.mystery(2)`. What its user reports is known, what is wrong has a number only.

What is wrong stands here as its number, too: who wants to find it by reading must read the rules, not this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import labkit
from labkit import races, views
from labkit.abi import NUMBERS, Register
from labkit.errors import UsageError
from labkit.machine import Machine
from labkit.races import Replay, Report, Scenario, Stepper, schedules
from labkit.races.acts import PAUSE, hand_over
from labkit.races.invariants import EVERY_KICK_IS_SERVED, MEMORY_STANDS_STILL, NO_REGISTRATION_IS_LEFT, ONE_CONSUMER
from labkit.races.scenario import (
    POINTS,
    add,
    added,
    driver_ok,
    kick,
    not_up,
    port_out,
    publish,
    publish_and_kick,
    publish_in_two,
)
from labkit.trace import gates
from labkit.trace.events import Kind

AT = NUMBERS["BAR0_FIRST"]


class Mystery(NamedTuple):
    """`report`: what its user says. `wrong`: the number of what is wrong, as `boot(mutations=[...])` takes it."""

    number: int
    report: str
    wrong: str
    scenario: Scenario

    def boot(self, **options: Any) -> Machine:
        """A machine that has it, under the rules the report is about. Options as those of `labkit.boot`."""
        return labkit.boot(**{"irq": "poll", **self.scenario.boot, "mutations": [self.wrong], **options})

    def explore(self, **options: Any) -> Report:
        """Every order of what the report tells of; options as those of `labkit.races.explore`."""
        return races.explore(self.scenario, **{"mutations": [self.wrong], **options})

    def replay(self, schedule: str) -> Replay:
        """One of them again. UsageError: it is no schedule of this mystery."""
        return races.replay(self.scenario, schedule, [self.wrong])

    def healthy(self, schedule: str) -> Replay:
        """The same schedule where nothing is wrong, as far as it can be played there; the rest as it comes."""
        return as_far_as_it_goes(self.scenario, schedule)

    def stepper(self) -> Stepper:
        """Decide one step by step."""
        return races.stepper(self.scenario, [self.wrong])

    def _values(self) -> dict[str, object]:
        return {"report": self.report, "scenario": self.scenario.story, "wrong on purpose": self.wrong}

    def _repr_html_(self) -> str:
        return views.named(f"mystery {self.number}", self._values())

    def __repr__(self) -> str:
        return views.lines(f"mystery {self.number}", self._values())


def as_far_as_it_goes(scenario: Scenario, schedule: str, mutations: Sequence[str] = ()) -> Replay:
    """A schedule of another machine: where it names one who cannot go here, it ends, and whoever can goes on."""
    with races.stepper(scenario, mutations) as stepper:
        for actor in map(gates.name_of, schedules.decode(scenario, schedule)):
            if actor not in stepper.can:
                break
            stepper.go(actor)
        stepper.rest()
        found = stepper.schedule
    return races.replay(scenario, found, mutations)


def _mystery(number: int, report: str, wrong: str, story: str, **scenario: Any) -> Mystery:
    return Mystery(number, report, wrong, Scenario(name=f"mystery-{number}", story=story, **scenario))


MYSTERIES = {
    one.number: one
    for one in (
        _mystery(
            1,
            "The guest comes up, and its first read never ends.",
            "#ed3bd4",
            "The driver sets DRIVER_OK, makes a request and kicks.",
            invariants=(EVERY_KICK_IS_SERVED,),
            guest=(driver_ok(True), publish(), kick()),
            prepare=not_up,
        ),
        _mystery(
            2,
            "A machine was paused and saved. Once in a hundred times its guest finds half a request when it goes on.",
            "#611c7c",
            "The guest makes a request and kicks, and the machine pauses.",
            invariants=(MEMORY_STANDS_STILL, EVERY_KICK_IS_SERVED),
            guest=(publish(), kick()),
            main=(PAUSE,),
            boot={"revision": "merged"},
            prepare=added,
        ),
        _mystery(
            3,
            "A backend serves the disk. A driver that writes QUEUE_NOTIFY with 4 bytes finds each completion twice.",
            "#9fc3fd",
            "A backend has the queue; the guest makes a request and kicks, once with 4 bytes and once with 2.",
            invariants=(ONE_CONSUMER,),
            guest=(publish(), port_out(AT + Register.QUEUE_NOTIFY, 4, 0), kick()),
            prepare=added,
            begin=hand_over,
            backend=True,
        ),
        _mystery(
            4,
            "The driver was unloaded while the disk was busy. Nothing moves any more: not even a pause gets through.",
            "#dde61d",
            "The guest kicks and clears DRIVER_OK, and the iothread may be woken before, between and after.",
            invariants=(EVERY_KICK_IS_SERVED, NO_REGISTRATION_IS_LEFT),
            guest=(publish(), kick(), driver_ok(False)),
            prepare=added,
        ),
        _mystery(
            5,
            "Once in a million requests the guest waits for ever. Every count of the device is as it should be.",
            "#a2e60c",
            "The driver makes two requests, one after the other, and kicks for each if the device wants that.",
            invariants=(EVERY_KICK_IS_SERVED,),
            guest=(publish_and_kick(), add(), *publish_in_two()),
            boot={"revision": "today"},
            prepare=added,
            points=POINTS | {Kind.EMPTY},
        ),
    )
}


def mystery(number: int) -> Mystery:
    """One of them. UsageError: there is none of that number."""
    if not isinstance(number, int) or number not in MYSTERIES:
        raise UsageError(f"mystery {number!r}: there are {', '.join(map(str, MYSTERIES))}")
    return MYSTERIES[number]
