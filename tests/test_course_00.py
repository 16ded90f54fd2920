"""Notebook 00: which answers are right, and which only look like it?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from classroom import wrong
from rulebook import Boot

import labkit
from labkit import course
from labkit.trace import Trace

WHO, WAYS, BOTH = "00.who-took-it", "00.two-ways", "00.both-ways"


@pytest.fixture
def trace(boot: Boot) -> Trace:
    """The events of the notebook's machine: one read by eventfd, then one by trap."""
    vm = boot("blk", bring_up=False)
    signalled_first(vm)
    return vm.trace


def signalled_first(vm: labkit.Machine) -> None:
    """The solution of both-ways."""
    vm.guest.negotiate()
    vm.guest.set_driver_ok()
    vm.guest.read(sector=0)
    vm.guest.clear_driver_ok()
    vm.guest.read(sector=0)


def trapped_first(vm: labkit.Machine) -> None:
    """The same the other way round."""
    vm.guest.negotiate()
    vm.guest.read(sector=0)
    vm.guest.set_driver_ok()
    vm.guest.read(sector=0)


def test_the_right_answers(trace: Trace) -> None:
    """What a student who has read the log says."""
    assert course.check(WHO, "vcpu0", trace)
    assert course.check(WAYS, {"trapped": 1, "signalled": 1}, trace)
    assert course.check(BOTH, signalled_first)


@pytest.mark.parametrize("answer", ["iothread", "owner", "vmm", "VCPU0", ["vcpu0"]])
def test_who_else_may_have_taken_it(trace: Trace, answer: object) -> None:
    """Who serves kicks, who pauses, and who owns them then: none of them took it."""
    wrong(course.check(WHO, answer, trace), *([] if "vcpu0" in answer else ["vcpu0"]))  # type: ignore[operator]


@pytest.mark.parametrize(
    "answer",
    [
        {"trapped": 1, "signalled": 2},  # the synthetic one counted
        {"trapped": 0, "signalled": 1},
        {"trapped": 1, "signalled": True},
        {"trapped": [1], "signalled": None},
        {"trapped": 1},
        (1, 1),
        2,
    ],
)
def test_kicks_miscounted(trace: Trace, answer: object) -> None:
    """A wake-up that is no kick, one too few, and numbers in another form."""
    wrong(course.check(WAYS, answer, trace), "'signalled': 1")


def test_no_evidence(boot: Boot) -> None:
    """A machine on which nothing of the kind happened is no evidence, whatever is said of it."""
    vm = boot("blk", bring_up=False)
    wrong(course.check(WHO, "vcpu0", vm.trace))
    wrong(course.check(WAYS, {"trapped": 0, "signalled": 0}, vm.trace))


def only_up(vm: labkit.Machine) -> None:
    """The driver comes up and reads nothing."""
    vm.guest.negotiate(driver_ok=True)


def never_trapped(vm: labkit.Machine) -> None:
    """DRIVER_OK all the time."""
    only_up(vm)
    vm.guest.read(sector=0)
    vm.guest.read(sector=1)


def never_signalled(vm: labkit.Machine) -> None:
    """No DRIVER_OK at all."""
    vm.guest.negotiate()
    vm.guest.read(sector=0)
    vm.guest.read(sector=1)


def too_often(vm: labkit.Machine) -> None:
    """One read too many."""
    signalled_first(vm)
    vm.guest.read(sector=0)


@pytest.mark.parametrize("function", [only_up, never_trapped, never_signalled, too_often, labkit.Machine.close])
def test_functions_that_miss_a_way(cpu: str, function: Callable[[labkit.Machine], None]) -> None:  # noqa: ARG001
    """Nothing read, one way only, more than was asked, and a machine that is gone."""
    wrong(course.check(BOTH, function), "clear_driver_ok")


def test_the_order_is_asked_for(cpu: str) -> None:  # noqa: ARG001
    """First by eventfd, then by trap: the other way round is told of."""
    wrong(course.check(BOTH, trapped_first))
