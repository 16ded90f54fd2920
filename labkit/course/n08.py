"""08, the deassign race: both ways to serve one kick, a search that looks in vain, and a scenario of one's own."""

from __future__ import annotations

from typing import Any

from labkit import museum, races
from labkit.course.exercise import Exercise
from labkit.course.verdict import Verdict, not_yet, right, shown
from labkit.races import Report, Scenario, schedules
from labkit.races.invariants import ALWAYS, EVERY_KICK_IS_SERVED
from labkit.trace.events import Actor

BUG = "lost-kick-at-deassign"
WAYS = ("iothread", "vcpu0")
ORDERS_AT_MOST = 500  # of a scenario of a student's


def both_serve(answer: object) -> Verdict:
    """A schedule in which the one serves, and one in which the other does, with the rule as it is."""
    if not isinstance(answer, dict) or set(answer) != set(WAYS):
        return not_yet(f"{shown(answer)} has not the form", 'a dict of two schedules, {"iothread": ..., "vcpu0": ...}')
    for thread, schedule in answer.items():
        if not isinstance(schedule, str):
            return not_yet(f"{shown(schedule)} is no schedule", "a text, as report.failures[0].schedule is one")
        served = {event.actor for event in races.replay(BUG, schedule).events if event.name == "request"}
        if served != {thread}:
            return not_yet(
                f"in {schedule} the request is served by {', '.join(sorted(served)) or 'nobody'}",
                "when has the vCPU the big lock, and from which decision on is it too late for the iothread? "
                "A stepper shows where each stands",
            )
    return right("whoever has the lock first serves it; the guest cannot tell")


def too_late(answer: object) -> Verdict:
    """A schedule that loses the kick though the iothread goes before the vCPU has ended."""
    if not isinstance(answer, str):
        return not_yet(f"{shown(answer)} is no schedule", "a text, as report.failures[0].schedule is one")
    run = races.replay(BUG, answer, [BUG])
    if EVERY_KICK_IS_SERVED.name not in run.broken:
        return not_yet(
            f"in {run.schedule} the kick is served",
            "that was still in time: let the iothread go fewer steps, or later. What must it have first?",
        )
    who = schedules.decode(museum.find(BUG).scenario, run.schedule)
    if Actor.IOTHREAD not in who[: who.rindex(Actor.VCPU0)]:
        return not_yet(
            f"in {run.schedule} the iothread does not go before the vCPU has ended",
            "it can go as soon as it is woken: by which step of the vCPU?",
        )
    return right("it was awake and on its way, and lost the kick at the lock")


def own_scenario(scenario: Any, mutation: object) -> Verdict:
    """A scenario with an invariant of one's own, which a mutation breaks and the rule as it is keeps."""
    if not isinstance(scenario, Scenario):
        return not_yet(f"{shown(scenario)} is no scenario", "labkit.races.Scenario(name=..., story=..., ...)")
    if not isinstance(mutation, str) or mutation not in museum.names():
        return not_yet(f"{shown(mutation)} is no mutation", "a name out of labkit.museum.names()")
    own = {one.name for one in scenario.invariants} - _known()
    if not own:
        return not_yet(
            "none of its invariants is your own", "labkit.races.Invariant(name, what its breach means, a function)"
        )
    return _judged(own, _explored(scenario), _explored(scenario, mutation))


def _known() -> set[str]:
    """Names of the invariants that the museum looks at."""
    specimens = (museum.find(name) for name in museum.names())
    return {one.name for specimen in specimens for one in (*specimen.scenario.invariants, *ALWAYS)}


def _explored(scenario: Scenario, *mutations: str) -> Report:
    return races.explore(scenario, mutations=mutations, limit=ORDERS_AT_MOST, until_broken=bool(mutations))


def _judged(own: set[str], kept: Report, mutated: Report) -> Verdict:
    if kept.failures:
        first = kept.failures[0]
        return not_yet(
            f"{first.invariant} is broken with nothing wrong: {first.seen}",
            f"play {first.schedule}: does it ask for too much, or is something asked for that was not done yet?",
        )
    if not kept.complete:
        return not_yet(f"{ORDERS_AT_MOST} orders were not all", "fewer steps, or fewer actors")
    if not own & {one.invariant for one in mutated.failures}:
        return not_yet(
            f"with {', '.join(mutated.mutations)} it holds in {mutated.schedules} orders",
            "what does the mutation take away, and does the scenario come by there? museum.find(name) says it",
        )
    return right(f"it holds in every order, and {mutated.mutations[0]} breaks it")


EXERCISES = (
    Exercise("08.both-serve", "a schedule for each of two threads, in which that one serves the request", both_serve),
    Exercise("08.too-late", "a schedule that loses the kick, though the iothread goes meanwhile", too_late),
    Exercise(
        "08.own-scenario", "a scenario with an invariant of your own, and a mutation that breaks it", own_scenario
    ),
)
