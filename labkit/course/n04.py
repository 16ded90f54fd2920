"""04, the synchronous kick: which thread served a request, how many requests one run takes, what a storm costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isclose
from typing import Any

import labkit
from labkit.answers import Share
from labkit.course.exercise import Exercise
from labkit.course.verdict import Verdict, not_yet, right, shown
from labkit.trace.events import Event

# One vCPU, two alike, two that differ, three of which one is never in a kick.
STORMS = (
    (Share(0.75, 0.0, 0.25),),
    (Share(0.25, 0.5, 0.25), Share(0.25, 0.5, 0.25)),
    (Share(0.5, 0.25, 0.25), Share(0.125, 0.5, 0.375)),
    (Share(0.0, 0.0, 1.0), Share(0.5, 0.0, 0.5), Share(0.0, 0.5, 0.5)),
)


def who_served(function: Any, trace: Any) -> Verdict:
    """A function of events and a number; also on a machine that is read by eventfd first, and then by trap."""
    events = trace.events()
    if not any(event.name == "request" for event in events):
        return not_yet("in these events nothing was read", "give it vm.trace of a machine that has served a request")
    with labkit.boot("blk") as vm:
        vm.guest.read(sector=0)
        vm.guest.clear_driver_ok()
        vm.guest.read(sector=1)
        both = vm.trace.events()
    for known in (events, both):
        if (wrong := _first_wrong(function, known)) is not None:
            return wrong
    return right("each request is served by the thread that ran the queue: by trap, by the vCPU that kicked")


def _first_wrong(function: Callable[..., object], events: list[Event]) -> Verdict | None:
    served = [event for event in events if event.name == "request"]
    for number, event in enumerate(served, 1):
        said = function(events, number)
        if not isinstance(said, str) or said != event.actor:
            return not_yet(
                f"request {number} of {len(served)} was not served by {shown(said)}",
                "an event `request` is a request that was served; count those alone, from 1. Its .actor is the thread",
            )
    return None


def most_at_once(answer: object, trace: Any) -> Verdict:
    """The largest number of requests that one run of the queue served."""
    most = max(requests_by_run(trace.events("queue_notify", "request")), default=0)
    if most < 2:
        return not_yet("in these events no run of the queue served more than one request", "a storm first, then look")
    if type(answer) is not int:
        return not_yet(f"{shown(answer)} is no number", "a whole number, counted from the events")
    if answer != most:
        return not_yet(
            f"not {answer}: the longest run served {'more' if answer < most else 'fewer'}",
            "a run begins with queue_notify. Count the requests behind each, up to the next; kicks are not asked for",
        )
    return right("a kick says that there is work, not how much: whoever comes late finds more of it")


def requests_by_run(events: Sequence[Event]) -> list[int]:
    """How many requests each run served; what was served before the first that is known counts for none."""
    runs: dict[str, list[int]] = {}
    for event in events:
        mine = runs.setdefault(event.actor, [])
        if event.name == "queue_notify":
            mine.append(0)
        elif mine:
            mine[-1] += 1
    return [served for mine in runs.values() for served in mine]


def lost(function: Any) -> Verdict:
    """A function of the shares of all vCPUs: the part of their time that went into kicks and the lock."""
    for shares in STORMS:
        wanted, said = 1 - sum(share.rest for share in shares) / len(shares), function(shares)
        if not isinstance(said, int | float) or isinstance(said, bool):
            return not_yet(f"{shown(said)} is no number", "a part of 1: 0.0 is nothing, 1.0 is all of the time")
        if not isclose(said, wanted, abs_tol=1e-9):
            vcpus = "one vCPU" if len(shares) == 1 else f"{len(shares)} vCPUs"
            return not_yet(
                f"of {vcpus} with {shares} it is not {said}",
                "what is lost is spent in kicks or at the lock; the time of two vCPUs is twice that of one",
            )
    return right("who waits at the lock is stopped by a kick too: by that of another vCPU")


EXERCISES = (
    Exercise("04.lost", "a function of a storm's shares: which part of the vCPUs' time is lost?", lost),
    Exercise("04.who-served", "a function of events and a number k: which thread served request k?", who_served),
    Exercise("04.most-at-once", "how many requests did the longest run of the queue serve? A number", most_at_once),
)
