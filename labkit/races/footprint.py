"""Does it matter which of two goes first? Not if they touch nothing in common: then a search tries one order only.

What a stretch between two gates touches is told by the events in it, and taken for too much rather than too little: who
has passed the gate before the big lock is taken to have it until he is idle or before a lock again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntFlag
from typing import TYPE_CHECKING, NamedTuple

from labkit.abi import Command
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
    ALL = 15


BY_EVENT = {
    **dict.fromkeys((Kind.ASSIGN, Kind.DEASSIGN, Kind.ATTACH, Kind.DETACH, Kind.CLOSE_FD), Touches.WATCHED),
    **dict.fromkeys((Kind.KICK_EVENTFD, Kind.DRAIN, Kind.SIGNAL, Kind.FORWARD), Touches.EVENTFD),
    Kind.WOKEN: Touches.EVENTFD | Touches.WATCHED,
    **dict.fromkeys((Kind.QUEUE_NOTIFY, Kind.REQUEST, Kind.CHAIN, Kind.BACKEND, Kind.FRAME, Kind.EMPTY), Touches.RING),
    **dict.fromkeys((Kind.RUNSTATE, Kind.LOADED, Kind.QUEUE_LOADED, Kind.DEVICE_RESET), Touches.ALL),
    Kind.WANTS_LOCK: Touches(0),
}
BEHIND = {Kind.REQUEST: Touches.RING}  # what it has told of is given back after that
BY_STEP = {
    Command.KICK: Touches.EVENTFD | Touches.WATCHED,
    **dict.fromkeys((Command.PUBLISH, Command.LOAD, Command.STORE), Touches.RING),
}


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
    for decision in decisions:
        if decision.before == lib.PLACE_LOCK:
            has_lock.add(decision.actor)
        elif decision.before == lib.PLACE_IDLE:
            has_lock.discard(decision.actor)
        touches = Touches.LOCK if decision.actor in has_lock else Touches(0)
        for kind, touched in BY_EVENT.items():
            if decision.did >> kind & 1:
                touches |= touched
        if decision.before == lib.PLACE_GATE:
            touches |= BEHIND.get(Kind(decision.kind), Touches(0))
        if decision.before == lib.PLACE_IDLE:
            touches |= _of_step(scenario, decision)
        yield Stretch(decision.actor, touches)
        if decision.did >> Kind.WANTS_LOCK & 1:
            has_lock.discard(decision.actor)


def _of_step(scenario: Scenario, decision: Decision) -> Touches:
    """A new step of a vCPU touches what it says; one of the main thread may touch anything before it wants the lock."""
    if decision.actor >= Actor.VCPU0:
        step = scenario.steps[decision.actor - Actor.VCPU0][decision.kind]
        kicks = step.command is Command.PUBLISH and step.arguments[1:] == (1,)
        return BY_STEP.get(step.command, Touches(0)) | (BY_STEP[Command.KICK] if kicks else 0)
    return Touches.ALL if decision.actor == Actor.OWNER else Touches.WATCHED | Touches.EVENTFD
