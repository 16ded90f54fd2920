"""Notebook 04: which answers are right, and which only look like it?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from classroom import wrong
from rulebook import Boot

import labkit
from labkit import course
from labkit.course.n04 import requests_by_run
from labkit.trace import Event, Trace

WHO, MOST, LOST = "04.who-served", "04.most-at-once", "04.lost"


@pytest.fixture
def vm(boot: Boot) -> labkit.Machine:
    """A machine that served one request by itself, then three for one kick, by eventfd."""
    vm = boot("blk")
    vm.guest.read(sector=0)
    for sector in range(3):
        vm.guest.add(sector=sector)
    vm.guest.publish()
    vm.guest.kick()
    vm.guest.wait(completions=3)
    return vm


@pytest.fixture
def trace(vm: labkit.Machine) -> Trace:
    """Its events."""
    return vm.trace


# -- who-served --------------------------------------------------------------------------------------------------------


def served_by(events: list[Event], k: int) -> str:
    """The solution."""
    return [event for event in events if event.name == "request"][k - 1].actor


def test_the_thread_of_a_request(trace: Trace) -> None:
    """The k-th event `request`, counted from 1."""
    assert course.check(WHO, served_by, trace)


@pytest.mark.parametrize(
    "function",
    [
        lambda *_: "iothread",
        lambda *_: "vcpu0",
        lambda events, k: events[k].actor,  # of all events
        lambda events, k: [event for event in events if event.name == "request"][-k].actor,  # from the end
        lambda events, k: [event for event in events if event.name == "request"][k].actor,  # from 0
        lambda events, k: [event for event in events if event.name == "request"][k - 1],  # the event itself
        lambda events: events[0].actor,
    ],
)
def test_other_events_or_another_count(trace: Trace, function: Callable[..., object]) -> None:
    """One thread for all, events of every kind, another end to count from, and what is no name."""
    wrong(course.check(WHO, function, trace))


def test_no_request_is_no_evidence(boot: Boot) -> None:
    """A machine that has read nothing."""
    wrong(course.check(WHO, served_by, boot("blk").trace))


# -- most-at-once ------------------------------------------------------------------------------------------------------


def test_the_longest_run(trace: Trace) -> None:
    """Three requests for one kick."""
    assert course.check(MOST, 3, trace)


@pytest.mark.parametrize("answer", [1, 2, 4, 0, "3", 3.0, [3], True])
def test_kicks_all_requests_and_other_forms(trace: Trace, answer: object) -> None:
    """One kick, four requests in all, and what is no number."""
    wrong(course.check(MOST, answer, trace))


def test_one_at_a_time_is_no_evidence(boot: Boot) -> None:
    """Where each run served one request, there is nothing to be told apart."""
    vm = boot("blk")
    vm.guest.read(sector=0)
    wrong(course.check(MOST, 1, vm.trace))


def test_runs_of_two_threads_are_counted_apart(vm: labkit.Machine) -> None:
    """What the vCPU serves does not belong to the run of the iothread before it."""
    vm.guest.clear_driver_ok()
    vm.guest.read(sector=0)
    runs = requests_by_run(vm.trace.events("queue_notify", "request"))
    assert sorted(runs)[-3:] == [1, 1, 3]


# -- lost --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda shares: 1 - sum(share.rest for share in shares) / len(shares),
        lambda shares: sum(share.kick + share.lock for share in shares) / len(shares),
    ],
)
def test_both_ways_to_reckon_it(function: Callable[..., Any]) -> None:
    """What is not rest, or kicks and lock."""
    assert course.check(LOST, function)


@pytest.mark.parametrize(
    "function",
    [
        lambda shares: sum(share.kick + share.lock for share in shares),  # the sum, not the mean
        lambda shares: sum(share.kick for share in shares) / len(shares),
        lambda shares: sum(share.lock for share in shares) / len(shares),
        lambda shares: shares[0].kick + shares[0].lock,
        lambda shares: sum(share.rest for share in shares) / len(shares),
        lambda shares: 100 * sum(share.kick + share.lock for share in shares) / len(shares),
        lambda shares: shares,
    ],
)
def test_parts_of_what_is_lost(function: Callable[..., Any]) -> None:
    """A sum, one of the two parts, one of the vCPUs, what is not lost, and per cent."""
    wrong(course.check(LOST, function), "len(")
