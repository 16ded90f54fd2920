"""06, pause and migrate: what proves that a kick is not lost, what found a request, and who ran the guest when."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from labkit.course.exercise import Exercise
from labkit.course.verdict import Verdict, not_yet, right, shown
from labkit.trace.events import Event

WAYS = ("trap", "kick", "start", "drain")
PROOF = ("drain", "queue_notify", "request")
SIDES = ("source", "destination", "nobody")


def nothing_lost(answer: object, trace: Any) -> Verdict:
    """Three events of a pause: the kick was found, the queue was run for it, the request was served."""
    events = trace.events()
    found = [event for event in events if event.name == "drain" and event["kicks"]]
    if not found:
        return not_yet(
            "in these events no kick was under way when the notifier stopped", "hold the iothread, and pause"
        )
    if not isinstance(answer, list | tuple) or not all(isinstance(event, Event) for event in answer):
        return not_yet(f"{shown(answer)} has not the form", "a list of three events, as vm.trace.events() has them")
    if len(answer) != len(PROOF):
        return not_yet(f"these are {len(answer)} events", "three are enough, and none of them can be missed")
    if any(event not in events for event in answer):
        return not_yet("not all of these are events of this machine", "take them from the trace that you give")
    return _proof(answer, found)


def _proof(answer: Sequence[Event], found: Sequence[Event]) -> Verdict:
    first, run, request = answer
    if first not in found:
        return not_yet(
            f"{first.name} does not show that there was a kick",
            "somebody must have looked, after KVM had forgotten the eventfd, and found a count that is not 0",
        )
    if run.name != "queue_notify" or run.actor != first.actor or run.seq < first.seq or run["by"] != "drain":
        return not_yet(
            f"the second, {run.name}, does not show what followed from it", "who ran the queue then, and why?"
        )
    if request.name != "request" or request.actor != run.actor or request.seq < run.seq:
        return not_yet(f"the third, {request.name}, is no request that this run served", "look behind the run")
    return right("it was found, and served, by the thread that stopped the notifier (R5)")


def what_found(events: Sequence[Event], request: Event) -> str:
    """What made a thread run the queue that the request was in."""
    mine = [event for event in events if event.seq < request.seq and event.actor == request.actor]
    runs = [event for event in mine if event.name == "queue_notify" and event.queue == request.queue]
    if not runs or runs[-1]["by"] != "iothread":
        return str(runs[-1]["by"]) if runs else ""
    woken = [event for event in mine if event.name == "kick_eventfd" and event.seq < runs[-1].seq]
    return "" if not woken else "kick" if woken[-1]["kicks"] else "start"


def found_by(function: Any, trace: Any, other: Any) -> Verdict:
    """A function of events and one of them, a request, on the events of two machines."""
    ways = set()
    for events in (trace.events(), other.events()):
        for request in (event for event in events if event.name == "request"):
            way, said = what_found(events, request), function(events, request)
            if way not in WAYS:
                continue
            if not isinstance(said, str) or said != way:
                return not_yet(
                    f"a request of sector {request['sector']} by {request.actor} was not found by {shown(said)}",
                    f"one of {', '.join(WAYS)}. Go back to the queue_notify before it: what is `by`? Where an eventfd "
                    "has woken the iothread, had anybody kicked?",
                )
            ways.add(way)
    if len(ways) <= 1:
        return not_yet("in these events all requests were found in one way", "give it a machine that was paused, too")
    return right("a kick, a start or a drain: whoever takes a queue over, or lets it go, looks into it once")


def _runs_at(events: Sequence[Event], time_ns: float) -> bool:
    states = [event["after"] for event in events if event.name == "runstate" and event.time_ns <= time_ns]
    return bool(states) and states[-1] == "running"


def moments(source: Sequence[Event], destination: Sequence[Event]) -> list[tuple[int, str]]:
    """Times between two changes of the run state, on either side, and who ran the guest then."""
    changes = sorted(event.time_ns for event in (*source, *destination) if event.name == "runstate")
    if not changes:
        return []
    times = [(before + after) // 2 for before, after in pairwise(changes)] + [changes[-1] + 1]
    found = []
    for time_ns in times:
        here, there = _runs_at(source, time_ns), _runs_at(destination, time_ns)
        found.append((time_ns, "source" if here else "destination" if there else "nobody"))
    return found


def who_ran(function: Any, source: Any, destination: Any) -> Verdict:
    """A function of the events of both sides and a time."""
    here, there = source.events(), destination.events()
    known = moments(here, there)
    if {who for _, who in known} != set(SIDES):
        return not_yet("these are not the two sides of a journey", "first the trace of the source, then the other one")
    for time_ns, who in known:
        said = function(here, there, time_ns)
        if not isinstance(said, str) or said not in SIDES:
            return not_yet(f"{shown(said)} is no answer", f"one of {', '.join(SIDES)}")
        if said != who:
            return not_yet(
                f"at {time_ns} ns it was not {shown(said)}",
                "the last `runstate` up to then, on each side: which is its `after`? A side may have had none yet",
            )
    return right("never two at once, and for a moment nobody")


EXERCISES = (
    Exercise("06.nothing-lost", "which three events prove that the kick was not lost? A list of events", nothing_lost),
    Exercise("06.found-by", f"a function of events and a request: which found it, {', '.join(WAYS)}?", found_by),
    Exercise("06.who-ran", f"a function of two lists of events and a time: who ran, {', '.join(SIDES)}?", who_ran),
)
