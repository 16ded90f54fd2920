"""Notebook 05: which answers are right, and which only look like it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from classroom import HOSTILE, wrong
from rulebook import Boot

import labkit
from labkit import course
from labkit.trace import Trace
from labkit.trace.events import Event

WHO, BACK, HALF, MADE = "05.who-drained", "05.there-and-back", "05.half-done", "05.kicks-made"
Steps = Callable[[labkit.Machine], object]
Count = Callable[[Sequence[Event]], int]


@pytest.fixture
def trace(boot: Boot) -> Trace:
    """The events of the notebook's machine: bus-master goes while a kick is pending."""
    vm = boot("blk", irq="poll")
    vm.guest.read(sector=0)
    vm.hold("iothread", at="before-handler")
    vm.guest.kick()
    vm.gates.wait("iothread")
    vm.guest.bus_master(False)
    vm.release("iothread")
    return vm.trace


# -- who-drained -------------------------------------------------------------------------------------------------------


def test_the_vcpu_drained(trace: Trace) -> None:
    """The guest's write has left the guest, and R8 wanted the STOP."""
    assert course.check(WHO, {"thread": "vcpu0", "rule": "R8"}, trace)


@pytest.mark.parametrize(
    "answer",
    [
        {"thread": "iothread", "rule": "R8"},  # who serves an eventfd otherwise
        {"thread": "owner", "rule": "R8"},
        {"thread": "vcpu0", "rule": "R5"},  # what every STOP does
        {"thread": "vcpu0", "rule": "R2"},  # of the change of owner before
        {"thread": "vcpu0", "rule": 8},
        {"thread": ["vcpu0"], "rule": "R8"},
        {"thread": "vcpu0"},
        ("vcpu0", "R8"),
        "vcpu0",
    ],
)
def test_who_else_might_have_drained(trace: Trace, answer: object) -> None:
    """Another thread, a rule that says how and not why, and another form."""
    given = "rule" in answer and answer["rule"] == "R8" if isinstance(answer, dict) else "R8" in answer  # type: ignore[operator]
    wrong(course.check(WHO, answer, trace), *([] if given else ["R8"]))


def test_a_stop_that_found_nothing_is_no_evidence(boot: Boot) -> None:
    """A drain of a count that nobody made, or of none, is not what is asked for."""
    vm = boot("blk")
    vm.guest.read(sector=0)
    vm.guest.bus_master(False)
    wrong(course.check(WHO, {"thread": "vcpu0", "rule": "R8"}, vm.trace))


# -- there-and-back ----------------------------------------------------------------------------------------------------


def by_three_rules(vm: labkit.Machine) -> None:
    """Two of the guest's and one of the host's."""
    vm.guest.clear_driver_ok()
    vm.guest.set_driver_ok()
    vm.guest.bus_master(False)
    vm.guest.bus_master(True)
    vm.guest.set_driver_ok()
    vm.pause()
    vm.resume()


def by_three_of_the_hosts(vm: labkit.Machine) -> None:
    """Pause, reset, unplug."""
    vm.pause()
    vm.resume()
    vm.reset()
    vm.guest.negotiate(driver_ok=True)
    vm.unplug()
    vm.plug()
    vm.guest.negotiate(driver_ok=True)


def by_two_causes_of_one_rule(vm: labkit.Machine) -> None:
    """DRIVER_OK cleared and STATUS 0 are both R2."""
    vm.guest.clear_driver_ok()
    vm.guest.set_driver_ok()
    vm.guest.reset_device()
    vm.guest.negotiate(driver_ok=True)
    vm.pause()
    vm.resume()


def three_stops_of_one_start(vm: labkit.Machine) -> None:
    """What is stopped cannot be lost once more."""
    vm.guest.clear_driver_ok()
    vm.guest.bus_master(False)
    vm.pause()
    vm.resume()


def and_not_back(vm: labkit.Machine) -> None:
    """Lost for good in the end."""
    by_three_rules(vm)
    vm.guest.clear_driver_ok()


@pytest.mark.parametrize("function", [by_three_rules, by_three_of_the_hosts])
def test_three_rules_take_it(cpu: str, function: Steps) -> None:  # noqa: ARG001
    """Whichever three."""
    assert course.check(BACK, function)


@pytest.mark.parametrize(
    "function",
    [by_two_causes_of_one_rule, three_stops_of_one_start, and_not_back, labkit.Machine.close, labkit.Machine.pause],
)
def test_not_three_rules_or_not_back(cpu: str, function: Steps) -> None:  # noqa: ARG001
    """Two causes of one rule, a stop of what is stopped, and one that ends without."""
    wrong(course.check(BACK, function), "bus_master", "clear_driver_ok")


def test_two_causes_of_one_rule_are_told(cpu: str) -> None:  # noqa: ARG001
    """The verdict says what the student may have overlooked."""
    assert "of one rule" in course.check(BACK, by_two_causes_of_one_rule).says
    assert "of one rule" not in course.check(BACK, three_stops_of_one_start).says


# -- half-done ---------------------------------------------------------------------------------------------------------


def failing(queue: int, times: int | None = 1, starts: int = 2) -> Steps:
    """The assign for that queue fails so often, of so many STARTs."""

    def steps(vm: labkit.Machine) -> None:
        vm.fault.fail_assign(queue=queue, times=times)
        vm.guest.negotiate()
        for _ in range(starts):
            vm.guest.clear_driver_ok()
            vm.guest.set_driver_ok()

    return steps


def by_eventfd(vm: labkit.Machine) -> None:
    """The host can be short of eventfds as well."""
    vm.fault.fail_eventfd(queue=3)
    vm.guest.negotiate(driver_ok=True)
    vm.guest.set_status(0)
    vm.guest.negotiate(driver_ok=True)


@pytest.mark.parametrize("function", [failing(queue=3), by_eventfd])
def test_three_are_undone_and_the_next_start_has_all(cpu: str, function: Steps) -> None:  # noqa: ARG001
    """Whichever call failed."""
    assert course.check(HALF, function)


@pytest.mark.parametrize(
    "function",
    [
        failing(queue=2),  # two are undone
        failing(queue=3, times=None),  # and again
        failing(queue=3, starts=1),  # and left there
        failing(queue=4),  # there is no such queue
        lambda vm: vm.guest.negotiate(driver_ok=True),
    ],
)
def test_another_start_fails(cpu: str, function: Steps) -> None:  # noqa: ARG001
    """Too few are undone, it fails for ever, nobody tries again, nothing fails."""
    wrong(course.check(HALF, function), "queue=3", "fail_assign")


# -- kicks-made --------------------------------------------------------------------------------------------------------


def made(events: Sequence[Event]) -> int:
    """The solution."""
    taken = [event for event in events if event.name in ("kick_eventfd", "drain")]
    return sum(event.name == "kick_trap" for event in events) + sum(int(event["kicks"]) for event in taken)


def each_wake_up(events: Sequence[Event]) -> int:
    """One kick for each event."""
    return sum(event.name in ("kick_trap", "kick_eventfd", "drain") for event in events)


def without_the_drained(events: Sequence[Event]) -> int:
    """What a STOP found is forgotten."""
    return made([event for event in events if event.name != "drain"])


def with_the_synthetic(events: Sequence[Event]) -> int:
    """What nobody made is counted."""
    return made(events) + sum(int(event.values.get("synthetic", 0)) for event in events)


def forwarded_twice(events: Sequence[Event]) -> int:
    """As a trap, and from the eventfd."""
    return made(events) + sum(int(event.values.get("forwarded", 0)) for event in events)


def steps_alone(events: Sequence[Event]) -> int:
    """What the notebook asked for: a read makes a kick that it does not name."""
    return sum(int(event["arg1"]) for event in events if event.name == "step" and event["command"] == "KICK")


def test_each_kick_is_counted_once(cpu: str) -> None:  # noqa: ARG001
    """Trapped, taken and drained."""
    assert course.check(MADE, made)


@pytest.mark.parametrize(
    "function",
    [
        each_wake_up,
        without_the_drained,
        with_the_synthetic,
        forwarded_twice,
        steps_alone,
        lambda events: float(made(events)),
    ],
)
def test_kicks_miscounted(cpu: str, function: Count) -> None:  # noqa: ARG001
    """Wake-ups, a drain forgotten, a synthetic or forwarded one too many, and a number that is no count."""
    wrong(course.check(MADE, function), 'event["kicks"]')


def test_no_function_boots_nothing() -> None:
    """What is no function is told of at once: no CPU is needed for that."""
    for name in (BACK, HALF, MADE):
        for answer in HOSTILE:
            if not callable(answer):
                wrong(course.check(name, answer))
