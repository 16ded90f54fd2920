"""What do the tests of the rules share? The revisions as parameters, and short words for what a machine did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from labkit import Machine
from labkit.abi import Register, Status
from labkit.trace.events import Event
from labkit.virtio.notifier import REVISIONS

Boot = Callable[..., Machine]
NEGOTIATED = Status.ACKNOWLEDGE | Status.DRIVER
UP = NEGOTIATED | Status.DRIVER_OK
ALL = tuple(REVISIONS)
THEN = ALL[:-1]  # those of 2010 and 2011


def revisions(*names: str) -> pytest.MarkDecorator:
    """The test is run for each of these revisions (none: for all); the parameter is `revision`."""
    return pytest.mark.parametrize("revision", names or ALL)


def notify_port(vm: Machine) -> int:
    """The port of a kick."""
    return vm.proxy.notify_base + Register.QUEUE_NOTIFY


def names(events: list[Event]) -> list[str]:
    """Kinds of events, in order."""
    return [event.name for event in events]


def owners(vm: Machine, since: int = 0) -> list[tuple[object, object, object, object]]:
    """Every change of owner: before, after, rule, cause."""
    return [(e["before"], e["after"], e["rule"], e["cause"]) for e in vm.trace.events("owner", since=since)]


def runs(vm: Machine, since: int = 0) -> list[tuple[str, object]]:
    """Every run of a queue: which thread, and as what."""
    return [(e.actor, e["by"]) for e in vm.trace.events("queue_notify", since=since)]


@contextmanager
def iothread_held(vm: Machine) -> Iterator[None]:
    """While this thread has the big lock no other handles a kick; the guest's kicks by eventfd need no lock."""
    with vm._board.locked():
        yield
