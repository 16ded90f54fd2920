"""Notebook 09: which answers are right, and which only look like it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from classroom import HOSTILE, wrong
from rulebook import Boot

import labkit
from labkit import course, rules
from labkit.trace import Trace
from labkit.trace.events import Event

STAYS, OTHERS, BACK, TWICE = "09.stays", "09.the-others", "09.window-back", "09.served-twice"
Steps = Callable[[labkit.Machine], object]
Look = Callable[[Sequence[Event]], object]


@pytest.fixture
def trace(boot: Boot) -> Trace:
    """The events of the notebook's machine: a read by the iothread, then stays of one request and of two."""
    vm = boot("blk")
    vm.guest.read(sector=0)
    for requests in (1, 2):
        vm.hand_over()
        for sector in range(requests):
            vm.guest.read(sector)
        vm.take_back()
    return vm.trace


# -- stays -------------------------------------------------------------------------------------------------------------


def test_requests_of_each_stay(trace: Trace) -> None:
    """From where it begins to where it stops."""
    assert course.check(STAYS, [1, 2], trace)


@pytest.mark.parametrize(
    "answer",
    [
        [2, 4],  # where it stopped, not how far it came
        [1, 2, 2, 4],  # every number that the log has
        [1, 3],  # the second is the sum
        [3],
        3,
        [1, 2.0],
        [True, 2],
        (1, 2),
    ],
)
def test_stays_miscounted(trace: Trace, answer: object) -> None:
    """Places instead of distances, sums, and other forms."""
    wrong(course.check(STAYS, answer, trace), *([] if "[1, 2" in repr(answer) else ["[1, 2]"]))


def test_a_stay_that_has_not_ended_is_no_evidence(boot: Boot) -> None:
    """Nor is a machine that has no backend."""
    vm = boot("blk")
    wrong(course.check(STAYS, [], vm.trace))
    vm.hand_over()
    wrong(course.check(STAYS, [0, 0], vm.trace))


# -- the-others --------------------------------------------------------------------------------------------------------


def test_the_others_trap(cpu: str) -> None:  # noqa: ARG001
    """Under each revision."""
    assert course.check(OTHERS, dict.fromkeys(rules.names(), "trapped"))


@pytest.mark.parametrize(
    "answer",
    [
        dict.fromkeys(rules.names(), "signalled"),
        dict.fromkeys(rules.names(), "trapped") | {"today": "signalled"},  # only that one queue is lent
        dict.fromkeys(rules.names(), "trapped") | {"today": "forwarded"},
        dict.fromkeys(rules.names(), "trapped") | {"v6": True},
        {"today": "trapped"},
        list(rules.names()),
        "trapped",
    ],
)
def test_the_others_do_not(cpu: str, answer: object) -> None:  # noqa: ARG001
    """They keep their eventfds, today's rules are finer, and other forms."""
    wrong(course.check(OTHERS, answer), *([] if answer == {"today": "trapped"} else ["'today': 'trapped'"]))


# -- window-back -------------------------------------------------------------------------------------------------------


def held_at(gate: str, *, published: bool = True, release: bool = True) -> Steps:
    """The kick is made while the main thread is held behind that event of its way back."""

    def steps(vm: labkit.Machine) -> None:
        if published:
            vm.guest.add()
            vm.guest.publish()
        vm.hold("main", at=gate)
        with suppress(labkit.UsageError):
            vm.take_back()
        vm.hold("vcpu0", at="before-lock")
        with suppress(labkit.UsageError):
            vm.guest.kick()
        if release:
            vm.release()
            vm.guest.parked()

    return steps


def afterwards(vm: labkit.Machine) -> None:
    """A kick that traps as well, and too late."""
    vm.take_back()
    vm.guest.read(sector=1)


def before(vm: labkit.Machine) -> None:
    """The backend serves it."""
    vm.guest.read(sector=1)
    vm.take_back()


@pytest.mark.parametrize("gate", ["after-deassign", "close-fd"])
def test_a_kick_in_the_window(cpu: str, gate: str) -> None:  # noqa: ARG001
    """Behind either of the two events of it."""
    verdict = course.check(BACK, held_at(gate))
    assert verdict
    assert "vcpu0" in verdict.says


@pytest.mark.parametrize(
    "function",
    [
        afterwards,
        before,
        held_at("owner"),  # it is nobody's by then
        held_at("after-deassign", published=False),
        held_at("after-deassign", release=False),
        labkit.Machine.take_back,
        labkit.Machine.close,
    ],
)
def test_a_kick_beside_the_window(cpu: str, function: Steps) -> None:  # noqa: ARG001
    """Too early, too late, without a request, and with somebody held in the end."""
    wrong(course.check(BACK, function), "before-lock", "after-deassign")


# -- served-twice ------------------------------------------------------------------------------------------------------


def more_than_asked(events: Sequence[Event]) -> bool:
    """The solution."""
    asked = [int(event["avail_idx"]) for event in events if event.name == "queue_notify"]
    return sum(event.name == "request" for event in events) > max(asked, default=0)


def a_head_again(events: Sequence[Event]) -> bool:
    """A head that was given back is the driver's, and comes again."""
    heads = [event["head"] for event in events if event.name == "request"]
    return len(set(heads)) < len(heads)


def one_place_twice(events: Sequence[Event]) -> bool:
    """Two looks from one place: the second may find nothing."""
    places = [event["last_avail"] for event in events if event.name == "queue_notify"]
    return len(set(places)) < len(places)


def two_threads(events: Sequence[Event]) -> bool:
    """A queue that went from one to the other was served by both."""
    return len({event.actor for event in events if event.name == "request"}) > 1


def more_than_kicks(events: Sequence[Event]) -> bool:
    """A kick is no request."""
    return sum(event.name == "request" for event in events) > sum(event.name == "kick_eventfd" for event in events)


def test_more_answers_than_questions(cpu: str) -> None:  # noqa: ARG001
    """Found in the museum's log, and in no other."""
    assert course.check(TWICE, more_than_asked)


@pytest.mark.parametrize(
    "function",
    [
        *(a_head_again, one_place_twice, two_threads, more_than_kicks),
        *(lambda events: False, lambda events: True, lambda events: int(more_than_asked(events))),  # noqa: ARG005
    ],
)
def test_what_only_looks_like_it(cpu: str, function: Look) -> None:  # noqa: ARG001
    """Heads that come again, second looks, two threads in turn; and one that always says the same."""
    wrong(course.check(TWICE, function), "max(")


def test_no_function_boots_nothing() -> None:
    """What is no function is told of at once: no CPU is needed for that."""
    for name in (BACK, TWICE):
        for answer in HOSTILE:
            if not callable(answer):
                wrong(course.check(name, answer))
