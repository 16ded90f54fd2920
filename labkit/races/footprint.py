"""Does it matter which of two goes first? Not if they touch nothing in common: then a search tries one order only.

What a stretch between two gates touches is told by the events in it, and taken for too much rather than too little: who
has passed the gate before the big lock is taken to have it until he is idle or before a lock again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntFlag
from functools import cache, reduce
from operator import or_
from typing import TYPE_CHECKING, NamedTuple

from labkit.abi import NUMBERS, VCPUS_MAX, Command
from labkit.native import lib
from labkit.trace.events import Actor, Kind

if TYPE_CHECKING:
    from labkit.races.player import Decision
    from labkit.races.scenario import Scenario


class Touches(IntFlag):
    """What two actors can have in common."""

    LOCK = 1  # and all that is only looked at under it
    EVENTFD = 2  # a count, and so which loop is woken
    WATCHED = 4  # which fds a loop watches, and KVM signals
    RING = 8
    VCPU0 = 16  # and so on: what a vCPU is at, which ends differently if it is asked to stop
    ALL = (VCPU0 << VCPUS_MAX) - 1


BY_EVENT = {
    **dict.fromkeys((Kind.ASSIGN, Kind.DEASSIGN, Kind.ATTACH, Kind.DETACH, Kind.CLOSE_FD), Touches.WATCHED),
    **dict.fromkeys((Kind.KICK_EVENTFD, Kind.DRAIN, Kind.SIGNAL, Kind.FORWARD), Touches.EVENTFD),
    Kind.WOKEN: Touches.EVENTFD | Touches.WATCHED,
    **dict.fromkeys((Kind.QUEUE_NOTIFY, Kind.REQUEST, Kind.CHAIN, Kind.BACKEND, Kind.FRAME, Kind.EMPTY), Touches.RING),
    **dict.fromkeys((Kind.RUNSTATE, Kind.LOADED, Kind.QUEUE_LOADED, Kind.DEVICE_RESET), Touches.ALL),
    Kind.WANTS_LOCK: Touches(0),
}
BEHIND = {Kind.REQUEST: Touches.RING}  # what it has told of is given back after that
BY_STEP = {  # beside its events; any other step may touch anything
    Command.KICK: Touches.EVENTFD | Touches.WATCHED,
    **dict.fromkeys((Command.PUBLISH, Command.LOAD, Command.STORE), Touches.RING),
    **dict.fromkeys((Command.DRIVER_OK, Command.SET_STATUS, Command.BUS_MASTER), Touches(0)),
}
KICKS = ((NUMBERS["PUBLISH_AND_KICK"],), (NUMBERS["PUBLISH_END"],))  # a publish that may
LOOPS = (Actor.IOTHREAD, Actor.BACKEND)


class Stretch(NamedTuple):
    """From one gate of an actor to its next."""

    actor: int
    touches: Touches

    def is_independent(self, other: Stretch) -> bool:
        """May the two be swapped?"""
        return self.actor != other.actor and not self.touches & other.touches


def stretches(scenario: Scenario, decisions: Sequence[Decision]) -> Iterator[Stretch]:
    """What each decision let somebody do."""
    has_lock: set[int] = set()
    by_step: dict[int, Touches] = {}  # until the next
    for decision in decisions:
        if decision.before == lib.PLACE_LOCK:
            has_lock.add(decision.actor)
        elif decision.before == lib.PLACE_IDLE:
            has_lock.discard(decision.actor)
            by_step[decision.actor] = _of_step(scenario, decision)
        touches = Touches.LOCK if decision.actor in has_lock else Touches(0)
        touches |= by_step.get(decision.actor, Touches(0)) | _of_events(decision.did)
        if decision.before == lib.PLACE_GATE:
            touches |= BEHIND.get(Kind(decision.kind), Touches(0))
        yield Stretch(decision.actor, touches)
        if decision.actor in LOOPS:
            by_step.pop(decision.actor, None)  # it has looked
        if decision.did >> Kind.WANTS_LOCK & 1:
            has_lock.discard(decision.actor)


@cache
def _of_events(did: int) -> Touches:
    return reduce(or_, (touched for kind, touched in BY_EVENT.items() if did >> kind & 1), Touches(0))


def _of_step(scenario: Scenario, decision: Decision) -> Touches:
    """A step of a vCPU touches what it says, one of the main thread may touch anything, a loop looks at its fds."""
    if decision.actor >= Actor.VCPU0:
        index = decision.actor - Actor.VCPU0
        step = scenario.steps[index][decision.kind]
        kicks = step.command is Command.PUBLISH and step.arguments[1:] in KICKS
        touched = BY_STEP.get(step.command, Touches.ALL) | (BY_STEP[Command.KICK] if kicks else 0)
        return touched | Touches(Touches.VCPU0 << index)
    return Touches.ALL if decision.actor == Actor.OWNER else Touches.WATCHED | Touches.EVENTFD
