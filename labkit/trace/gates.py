"""Where can an actor be held? Behind each event that it emits: trace point, breakpoint and scheduling point are one.

A gate has the name of its event. Some have a second one, which says where that is in the path of a kick.
"""

from __future__ import annotations

from collections.abc import Iterable

from labkit.errors import UsageError
from labkit.trace.events import Actor, Kind

ALSO = {
    "before-handler": Kind.WOKEN,  # the eventfd has woken a loop, which has not looked yet
    "before-lock": Kind.WANTS_LOCK,
    "after-read": Kind.KICK_EVENTFD,  # the count was taken from the eventfd, the queue has not run
    "before-run": Kind.QUEUE_NOTIFY,
    "before-recheck": Kind.EMPTY,
    "before-deassign": Kind.DETACH,  # told before it is done
    "after-deassign": Kind.DEASSIGN,
    "after-drain": Kind.DRAIN,
    "after-assign": Kind.ASSIGN,
}
NAMES: dict[str, Kind] = {kind.name.lower().replace("_", "-"): kind for kind in Kind} | ALSO
EVERY = sum(1 << kind for kind in Kind)
THREADS = {"iothread": Actor.IOTHREAD, "backend": Actor.BACKEND, "main": Actor.OWNER}  # and vcpu0 to vcpu7


def kind_of(name: str) -> Kind:
    """The event of a gate. UsageError: there is no such gate."""
    known = NAMES.get(name.replace("_", "-")) if isinstance(name, str) else None
    if known is None:
        raise UsageError(f"gate {name!r}: there are {', '.join(NAMES)}")
    return known


def mask(gates: str | Iterable[str] | None) -> int:
    """The events of some gates as bits; None: of all."""
    if gates is None:
        return EVERY
    return sum({1 << kind_of(name) for name in ([gates] if isinstance(gates, str) else gates)})


def number(actor: str, vcpus: int) -> int:
    """An actor by its name. UsageError: there is none."""
    known = {name: int(thread) for name, thread in THREADS.items()}
    known |= {f"vcpu{index}": Actor.VCPU0 + index for index in range(vcpus)}
    if actor not in known:
        raise UsageError(f"actor {actor!r}: there are {', '.join(known)}")
    return known[actor]


def gate_of(kind: int) -> str:
    """A gate by its event's kind."""
    return Kind(kind).name.lower().replace("_", "-") if kind in set(Kind) else "nothing"


def name_of(actor: int) -> str:
    """The other way round."""
    threads = {int(thread): name for name, thread in THREADS.items()}
    return threads.get(actor, f"vcpu{actor - Actor.VCPU0}")
