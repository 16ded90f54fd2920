"""Notebook 06: which answers are right, and which only look like it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from classroom import wrong
from rulebook import Boot

import labkit
from labkit import course
from labkit.trace import Event, Trace

PROOF, FOUND, RAN = "06.nothing-lost", "06.found-by", "06.who-ran"


def paused_with_a_kick(boot: Boot) -> labkit.Machine:
    """The notebook's `busy`: a kick while the iothread is held, which the pause found."""
    vm = boot(irq="poll", bring_up=False)
    vm.guest.negotiate()
    vm.hold("iothread", at="before-handler")
    vm.guest.set_driver_ok()
    assert vm.gates.wait("iothread")
    vm.guest.add()
    vm.guest.publish()
    vm.guest.kick()
    vm.pause()
    return vm


@pytest.fixture
def busy(boot: Boot) -> Trace:
    """Its events."""
    return paused_with_a_kick(boot).trace


def of(trace: Trace, *kinds: str) -> list[Event]:
    """The last event of each of these kinds."""
    return [trace.events(kind)[-1] for kind in kinds]


# -- nothing-lost ------------------------------------------------------------------------------------------------------


def test_found_run_and_served(busy: Trace) -> None:
    """The drain that found a count, the run that it made, the request."""
    assert course.check(PROOF, of(busy, "drain", "queue_notify", "request"), busy)


@pytest.mark.parametrize(
    "kinds",
    [
        ("detach", "deassign", "drain"),
        ("queue_notify", "drain", "request"),  # in another order
        ("drain", "request", "interrupt"),
        ("assign", "queue_notify", "request"),  # the start, which nobody has kicked for
        ("drain", "queue_notify", "interrupt"),
        ("drain", "queue_notify", "request", "interrupt"),
        ("drain", "request"),
    ],
)
def test_events_that_prove_less(busy: Trace, kinds: Sequence[str]) -> None:
    """That it stopped, that somebody was interrupted, a kick that nobody made; too many, and too few."""
    wrong(course.check(PROOF, of(busy, *kinds), busy), "drain,", "queue_notify,")


def test_names_are_no_events(busy: Trace) -> None:
    """Nor are their numbers."""
    wrong(course.check(PROOF, ["drain", "queue_notify", "request"], busy))
    wrong(course.check(PROOF, [event.seq for event in of(busy, "drain", "queue_notify", "request")], busy))


def test_a_pause_without_a_kick_proves_nothing(boot: Boot, busy: Trace) -> None:
    """Nor do the events of another machine."""
    proof = of(busy, "drain", "queue_notify", "request")
    vm = boot("blk")
    vm.guest.read(sector=0)
    vm.pause()
    wrong(course.check(PROOF, proof, vm.trace))
    vm.close()
    other = paused_with_a_kick(boot)
    wrong(course.check(PROOF, [*proof[:2], other.trace.events("request")[-1]], busy))


# -- found-by ----------------------------------------------------------------------------------------------------------


def found_by(events: list[Event], request: Event) -> str:
    """The solution."""
    mine = [event for event in events if event.seq < request.seq and event.actor == request.actor]
    run = [event for event in mine if event.name == "queue_notify"][-1]
    if run["by"] != "iothread":
        return str(run["by"])
    woken = [event for event in mine if event.name == "kick_eventfd"][-1]
    return "kick" if woken["kicks"] else "start"


def by_of_the_run(events: list[Event], request: Event) -> object:
    """Does not look what woke the iothread."""
    runs = [event for event in events if event.name == "queue_notify" and event.seq < request.seq]
    return {"iothread": "kick"}.get(str(runs[-1]["by"]), runs[-1]["by"])


@pytest.fixture
def started(boot: Boot) -> Trace:
    """A machine that served a kick, then what was published while it was down, then a kick that trapped."""
    vm = boot(irq="poll")
    vm.guest.read(sector=0)
    vm.guest.clear_driver_ok()
    vm.guest.add(sector=1)
    vm.guest.publish()
    vm.guest.set_driver_ok()
    vm.guest.wait()
    vm.guest.clear_driver_ok()
    vm.guest.read(sector=2)
    return vm.trace


def test_four_ways_to_be_found(started: Trace, busy: Trace) -> None:
    """A kick, a start, a trap; and a drain on the other machine."""
    ways = [found_by(started.events(), request) for request in started.events("request")]
    assert ways == ["kick", "start", "trap"]
    assert course.check(FOUND, found_by, started, busy)
    assert course.check(FOUND, found_by, busy, started)


@pytest.mark.parametrize(
    "function",
    [
        by_of_the_run,
        lambda *_: "kick",
        lambda _, request: "trap" if request.actor.startswith("vcpu") else "kick",
        lambda _, request: request.actor,
        lambda *_: None,
    ],
)
def test_ways_that_are_not_looked_for(started: Trace, busy: Trace, function: Callable[..., Any]) -> None:
    """A start taken for a kick, a thread taken for a way."""
    wrong(course.check(FOUND, function, started, busy))


def test_one_way_alone_tells_nothing_apart(busy: Trace) -> None:
    """Two logs in which all requests were found alike."""
    wrong(course.check(FOUND, found_by, busy, busy))


# -- who-ran -----------------------------------------------------------------------------------------------------------


def who_ran(source: list[Event], destination: list[Event], time_ns: int) -> str:
    """The solution."""
    for side, events in (("source", source), ("destination", destination)):
        states = [event for event in events if event.name == "runstate" and event.time_ns <= time_ns]
        if states and states[-1]["after"] == "running":
            return side
    return "nobody"


def never_nobody(source: list[Event], _: list[Event], time_ns: int) -> str:
    """Takes whoever does not run at the source to run at the destination."""
    return "source" if who_ran(source, [], time_ns) == "source" else "destination"


def any_state_so_far(source: list[Event], destination: list[Event], time_ns: int) -> str:
    """Takes a side that has ever run to run now."""
    for side, events in (("destination", destination), ("source", source)):
        if any(e.name == "runstate" and e["after"] == "running" and e.time_ns <= time_ns for e in events):
            return side
    return "nobody"


@pytest.fixture
def sides(boot: Boot, listen: Callable[..., Any]) -> tuple[Trace, Trace]:
    """Both logs of a journey, before which the machine was paused."""
    vm, arrival = boot("blk"), listen()
    vm.pause()
    vm.resume()
    vm.migrate(str(arrival.address))
    return vm.trace, arrival.machine().trace


def test_never_two_and_sometimes_nobody(sides: tuple[Trace, Trace]) -> None:
    """The run states of both sides say it."""
    assert course.check(RAN, who_ran, *sides)


@pytest.mark.parametrize("function", [never_nobody, any_state_so_far, lambda *_: "source", lambda *_: "nobody"])
def test_who_is_taken_to_run(sides: tuple[Trace, Trace], function: Callable[..., str]) -> None:
    """No moment between the two, a side that ran once, and always the same."""
    wrong(course.check(RAN, function, *sides))


def test_sides_exchanged_or_one_of_them_twice(sides: tuple[Trace, Trace]) -> None:
    """A source is not its own destination."""
    source, _ = sides
    wrong(course.check(RAN, who_ran, source, source))
    wrong(course.check(RAN, lambda here, there, time_ns: who_ran(there, here, time_ns), *sides))
