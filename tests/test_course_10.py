"""Notebook 10: which answers are right, and which only look like it?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from classroom import wrong
from rulebook import Boot

import labkit
from labkit import course
from labkit.course.n10 import CANNOT, CLAIMS, NO, YES
from labkit.trace import Trace

SLEEPS, TOLD, SHOWN = "10.who-sleeps", "10.told", "10.claims"


class Slow(labkit.Device):
    """The notebook's printer, without its sleep."""

    def handle(self, queue: Any) -> None:  # noqa: D102
        for chain in queue:
            queue.push(chain)


@pytest.fixture
def logs(boot: Boot) -> tuple[Trace, Trace]:
    """Events of one exchange by trap, and of one by eventfd."""
    machines = boot(Slow()), boot(Slow(), ioeventfd=True)
    for vm in machines:
        vm.guest.exchange(b"a")
    return machines[0].trace, machines[1].trace


def test_the_thread_that_runs_handle(logs: tuple[Trace, Trace]) -> None:
    """The vCPU by trap, the iothread by eventfd."""
    assert course.check(SLEEPS, {"trap": "vcpu0", "eventfd": "iothread"}, *logs)


@pytest.mark.parametrize(
    "answer",
    [
        {"trap": "iothread", "eventfd": "vcpu0"},  # who waits, and not who sleeps
        {"trap": "vcpu0", "eventfd": "vcpu0"},
        {"trap": "owner", "eventfd": "iothread"},
        {"trap": "vcpu0", "eventfd": None},
        {"trap": "vcpu0"},
        ("vcpu0", "iothread"),
    ],
)
def test_who_waits_is_not_who_sleeps(logs: tuple[Trace, Trace], answer: object) -> None:
    """One thread for the other, one that is not concerned, and other forms."""
    wrong(course.check(SLEEPS, answer, *logs), "'eventfd': 'iothread'")


def test_logs_exchanged_or_empty(boot: Boot, logs: tuple[Trace, Trace]) -> None:
    """The evidence decides, not the name that somebody gives it."""
    answer = {"trap": "vcpu0", "eventfd": "iothread"}
    wrong(course.check(SLEEPS, answer, *reversed(logs)))
    wrong(course.check(SLEEPS, answer, logs[0], boot(Slow()).trace))


def told(ratios: list[float], cpu: str) -> str:
    """The solution."""
    longer = {ratio > 1 for ratio in ratios}
    if cpu == "emulated" or len(ratios) < 3 or len(longer) > 1:
        return CANNOT
    return YES if longer == {True} else NO


def mean(ratios: list[float], cpu: str) -> str:  # noqa: ARG001 - that is what is wrong with it
    """Believes a mean."""
    return CANNOT if not ratios else YES if sum(ratios) / len(ratios) > 1 else NO


def without_no(ratios: list[float], cpu: str) -> str:
    """Has two answers."""
    return YES if told(ratios, cpu) == YES else CANNOT


def any_cpu(ratios: list[float], cpu: str) -> str:  # noqa: ARG001 - as above
    """Believes an emulator."""
    return told(ratios, "kvm")


def few_will_do(ratios: list[float], cpu: str) -> str:
    """Believes two runs."""
    return told([*ratios, *ratios], cpu)


def test_three_answers() -> None:
    """Yes, no, and that it cannot be told."""
    assert course.check(TOLD, told)


@pytest.mark.parametrize("function", [mean, without_no, any_cpu, few_will_do, lambda *_: CANNOT, lambda *_: True])
def test_who_believes_too_much_or_nothing(function: Callable[..., object]) -> None:
    """A mean, an emulator, two runs; nothing at all, and no answer."""
    wrong(course.check(TOLD, function))


TRAP = {"cpu_note": "kvm", "chars": 200, "looks": 200, "at_once": 200}
SPINS = {"cpu_note": "kvm", "chars": 20, "looks": 9000, "at_once": 3}
EMULATED = TRAP | {"cpu_note": "emulated, whose times say nothing about hardware"}
RIGHT = dict(zip(CLAIMS, (YES, NO, YES, CANNOT), strict=True))
LONGER, MIXED = [1.5, 2.0, 1.2], [0.9, 2.0, 1.2]


@pytest.mark.parametrize(
    ("trap", "ratios", "third"),
    [(TRAP, LONGER, YES), (TRAP, [0.5, 0.9, 0.7], NO), (TRAP, MIXED, CANNOT), (EMULATED, LONGER, CANNOT)],
)
def test_what_is_right_depends_on_what_was_measured(trap: object, ratios: object, third: str) -> None:
    """Counts are certain; a time is not; and nothing here speaks TCP."""
    assert course.check(SHOWN, RIGHT | {CLAIMS[2]: third}, trap, SPINS, ratios)


@pytest.mark.parametrize(
    ("answer", "trap", "ratios"),
    [
        (RIGHT, TRAP, MIXED),
        (RIGHT, EMULATED, LONGER),
        (RIGHT | {CLAIMS[2]: CANNOT}, TRAP, LONGER),
        (RIGHT | {CLAIMS[3]: YES}, TRAP, LONGER),  # the patch says so, the lab does not
        (RIGHT | {CLAIMS[3]: NO}, TRAP, LONGER),
        (RIGHT | {CLAIMS[1]: YES}, TRAP, LONGER),
        (RIGHT | {CLAIMS[0]: CANNOT}, TRAP, LONGER),  # it was counted
        (RIGHT | {CLAIMS[0]: True}, TRAP, LONGER),
        ({CLAIMS[0]: YES}, TRAP, LONGER),
        (list(RIGHT.values()), TRAP, LONGER),
    ],
)
def test_more_or_less_than_was_shown(answer: object, trap: object, ratios: object) -> None:
    """What others have told, what was not decided, and doubt where there is none."""
    wrong(course.check(SHOWN, answer, trap, SPINS, ratios), str(RIGHT))
