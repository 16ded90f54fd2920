"""Notebook 12: which answers are right, which only look like it, and does a mystery keep its secret?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from classroom import wrong
from rulebook import Boot

import labkit
from labkit import course, museum, races
from labkit.course.mysteries import MYSTERIES, Mystery
from labkit.museum import steps
from labkit.races import stepper

WITNESS, MISSING, ROW, WHO = "12.witness", "12.missing-step", "12.put-it-back", "12.suspects"
PAUSE_STOPS = "merged:PAUSE-without-STOP"
SUSPECTS = {3: {"vcpu0", "backend"}, 4: {"vcpu0", "iothread"}, 5: {"vcpu0"}}


def searched(one: Mystery) -> str:
    """The first schedule that breaks it."""
    return one.explore(until_broken=True, machines=1).failures[0].schedule


# -- mysteries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", MYSTERIES)
def test_a_mystery_breaks_and_a_healthy_machine_holds(cpu: str, number: int) -> None:
    """A search finds it, and without it every order of the same scenario holds."""
    one = course.mystery(number)
    assert one.explore(until_broken=True).failures
    whole = races.explore(one.scenario, cpu=cpu)
    assert whole.complete
    assert whole.failures == ()


@pytest.mark.parametrize("number", MYSTERIES)
def test_a_mystery_does_not_tell_its_name(cpu: str, number: int) -> None:  # noqa: ARG001
    """Views, reports, events, stacks and recordings have its number at most."""
    one = course.mystery(number)
    names = {name for name in (*steps.by_name(), *museum.names()) if museum.number_of(name) == one.wrong}
    assert names
    report = one.explore(until_broken=True, machines=1)
    with one.boot() as vm, one.stepper() as by_hand:
        shown = [repr(one), one._repr_html_(), repr(report), repr(one.replay(report.failures[0].schedule)), repr(vm)]
        shown += [str(vm._facts), repr(by_hand), str(by_hand.mutations)]
        assert one.wrong in str(vm._facts)
    assert [name for name in names if any(name in text for text in shown)] == []


def test_numbers_stand_for_one_each() -> None:
    """No two mutations share one, and a machine boots by it."""
    names = [*steps.by_name(), *museum.names()]
    assert len({museum.number_of(name) for name in names}) == len(names)
    (one,) = museum.mutations([museum.number_of(PAUSE_STOPS)])
    assert one == museum.mutations([PAUSE_STOPS])[0]._replace(name=museum.number_of(PAUSE_STOPS))


@pytest.mark.parametrize("number", [0, 6, "1", None, ...])
def test_there_are_five(number: Any) -> None:
    """Another is refused, and it is said which there are."""
    with pytest.raises(labkit.UsageError, match="1, 2, 3, 4, 5"):
        course.mystery(number)


def test_a_schedule_goes_as_far_as_it_can(cpu: str) -> None:  # noqa: ARG001
    """On a healthy machine somebody of it cannot go any more: there the rest is as it comes, to the end."""
    one = course.mystery(2)
    found = searched(one)
    with pytest.raises(labkit.UsageError, match="which cannot"):
        races.replay(one.scenario, found)
    healthy = one.healthy(found)
    assert healthy.broken == ()
    assert "drain" in [event.name for event in healthy.events]


# -- witness -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 5])
def test_a_search_is_a_witness(cpu: str, number: int) -> None:  # noqa: ARG001
    """What it has found breaks the machine, and no healthy one."""
    assert course.check(WITNESS, searched, course.mystery(number))


def harmless(one: Mystery) -> str:
    """A schedule that ends well."""
    with stepper(one.scenario, [one.wrong]) as by_hand:
        for actor in ("vcpu0", "vcpu0", "iothread", "iothread", "iothread", "iothread", "iothread", "iothread"):
            if actor in by_hand.can:
                by_hand.go(actor)
        return by_hand.rest().schedule


@pytest.mark.parametrize(
    "function",
    [
        lambda one: one.explore(until_broken=True),
        lambda one: one.explore(until_broken=True, machines=1).failures[0],
        lambda _: "every-kick-is-served",
        lambda _: searched(course.mystery(5)),
        lambda _: "mystery-2:0000:vx2",
        harmless,
    ],
    ids=["report", "failure", "invariant", "another's", "old", "harmless"],
)
def test_no_witness(cpu: str, function: Callable[[Mystery], object]) -> None:  # noqa: ARG001
    """A report, a failure, an invariant's name, a schedule of another, of another version, one that breaks nothing."""
    wrong(course.check(WITNESS, function, course.mystery(2)), searched(course.mystery(2)))


# -- missing-step ------------------------------------------------------------------------------------------------------


def test_the_missing_step_is_known_by_its_events(cpu: str) -> None:  # noqa: ARG001
    """The same schedule does the same, event for event."""
    one = course.mystery(2)
    assert course.check(MISSING, PAUSE_STOPS, searched(one), one)


@pytest.mark.parametrize(
    "answer",
    [
        *("merged:stop-without-DETACH", "merged:stop-without-DRAIN", "merged:PAUSE-without-STORE_STATUS_AGAIN"),
        *("v6:PAUSE-without-STOP", "PAUSE-without-STOP", "STOP", ["merged:PAUSE-without-STOP"], "work-after-vm-stop"),
    ],
)
def test_another_step_is_not_missing(cpu: str, answer: object) -> None:  # noqa: ARG001
    """Another part or step, of other rules, without them, a step alone, in a list, a specimen."""
    one = course.mystery(2)
    said = () if "PAUSE-without-STOP" in str(answer) else (PAUSE_STOPS,)
    wrong(course.check(MISSING, answer, searched(one), one), *said)


def test_a_schedule_that_breaks_nothing_is_no_evidence(cpu: str) -> None:  # noqa: ARG001
    """In it the right step and others look the same."""
    one = course.mystery(2)
    wrong(course.check(MISSING, PAUSE_STOPS, harmless(one), one))


# -- put-it-back -------------------------------------------------------------------------------------------------------


def test_the_row_as_it_was_mends_it(cpu: str) -> None:  # noqa: ARG001
    """Every order holds, and the machine does what a healthy one does."""
    assert course.check(ROW, {"PAUSE": ["STOP", "STORE_STATUS_AGAIN"]}, course.mystery(2))


@pytest.mark.parametrize(
    "answer",
    [
        {"PAUSE": ["STOP"]},
        {"PAUSE": ["STORE_STATUS_AGAIN", "STOP"]},
        {"PAUSE": ["STORE_STATUS_AGAIN"]},
        {"RESUME": ["STOP"]},
        {"PAUSE": ["DRAIN"]},
        {"KICK": ["START"]},
        {"PAUSE": "STOP"},
        {"PAUSE": ["STOP", "STORE_STATUS_AGAIN"], "RESUME": []},
        ("PAUSE", "STOP"),
    ],
)
def test_another_row_does_not(cpu: str, answer: object) -> None:  # noqa: ARG001
    """Half of it, turned round, as it is, another cause, a part, a cause of other rules, other forms."""
    wrong(course.check(ROW, answer, course.mystery(2)), "STOP, STORE_STATUS_AGAIN")


# -- suspects ----------------------------------------------------------------------------------------------------------


def test_who_it_is(cpu: str) -> None:  # noqa: ARG001
    """Two at one ring, two that wait, one that did not kick; sets or lists."""
    assert course.check(WHO, SUSPECTS)
    assert course.check(WHO, {number: sorted(actors) for number, actors in SUSPECTS.items()})


@pytest.mark.parametrize(
    "answer",
    [
        SUSPECTS | {3: {"iothread", "backend"}},
        SUSPECTS | {4: {"vcpu0", "main"}},
        SUSPECTS | {4: {"vcpu0"}},
        SUSPECTS | {5: {"iothread"}},
        SUSPECTS | {5: "vcpu0"},
        SUSPECTS | {5: [["vcpu0"]]},
        {3: SUSPECTS[3]},
        list(SUSPECTS.values()),
    ],
)
def test_who_it_is_not(cpu: str, answer: object) -> None:  # noqa: ARG001
    """Who usually serves, who is idle, half of it, the device, a text, one only, no dict."""
    verdict = course.check(WHO, answer)
    wrong(verdict)
    assert not any(actor in verdict.hint for actor in ("vcpu0", "backend", "iothread"))


def test_a_closed_machine_is_no_mystery(boot: Boot) -> None:
    """Nor is its trace."""
    vm = boot()
    vm.close()
    wrong(course.check(WITNESS, searched, vm))
    wrong(course.check(MISSING, PAUSE_STOPS, "mystery-2:b139:v", vm))
    wrong(course.check(ROW, {"PAUSE": ["STOP", "STORE_STATUS_AGAIN"]}, vm.trace))
