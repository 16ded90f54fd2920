"""What lasted, and from when to when? The guest's steps, and what a thread told in one go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from labkit.trace.events import Event, Kind

STEPS = (Kind.STEP, Kind.STEP_DONE)
SERVES = {Kind.REQUEST, Kind.CHAIN, Kind.FRAME, Kind.BROKEN, Kind.INTERRUPT, Kind.INTX, Kind.EMPTY}  # told by a run
THREADS = ("vcpu", "iothread", "backend", "owner", "host")  # who kicks, who serves, who commands


class Step(NamedTuple):
    """A step of the agent's, as far as it was seen: None is before the first event, or after the last."""

    vcpu: int
    command: str
    begun: Event | None
    done: Event | None


def steps(events: Iterable[Event]) -> list[Step]:
    """In the order in which they began."""
    begun: dict[int, Event] = {}
    found = []
    for event in events:
        if event.kind is Kind.STEP:
            begun[int(event["vcpu"])] = event
        elif event.kind is Kind.STEP_DONE:
            vcpu = int(event["vcpu"])
            found.append(Step(vcpu, str(event["command"]), begun.pop(vcpu, None), event))
    found += [Step(vcpu, str(event["command"]), event, None) for vcpu, event in begun.items()]
    return sorted(found, key=lambda step: step.begun.seq if step.begun else 0)


def threads(events: Iterable[Event]) -> dict[str, list[Event]]:
    """The events of each thread in order of time, steps left out; vCPUs first, then who serves, then who commands."""
    found: dict[str, list[Event]] = {}
    for event in events:
        if event.kind not in STEPS:
            found.setdefault(event.actor, []).append(event)
    for told in found.values():
        told.sort(key=lambda event: (event.time_ns, event.seq))  # "host" is any thread of Python's
    rank = {name: next(i for i, word in enumerate(THREADS) if name.startswith(word)) for name in found}
    return {name: found[name] for name in sorted(found, key=lambda name: (rank[name], name))}


def in_runs(told: Iterable[Event]) -> list[list[Event]]:
    """One thread's events: a run of a queue together with all that it told, every other event alone."""
    found: list[list[Event]] = []
    for event in told:
        run = found[-1][0] if found else None
        if event.kind in SERVES and run and run.kind is Kind.QUEUE_NOTIFY and event.queue in (run.queue, None):
            found[-1].append(event)
        else:
            found.append([event])
    return found
