"""Notebook 11: which answers are right, and which only look like it?"""

from __future__ import annotations

from typing import Any

import pytest
from classroom import wrong
from rulebook import Boot

import labkit
from labkit import course
from labkit.trace import Event

OFTEN, COUNTING, MENDED = "11.how-often", "11.counting", "11.mended"
COUNTS = {"calls": 1, "chains": 4, "interrupts": 1}

pytestmark = pytest.mark.usefixtures("cpu")


class Upper(labkit.Device):
    """The notebook's: one queue, and nothing is counted."""

    queue_sizes = (64,)

    def handle(self, queue: Any) -> None:  # noqa: D102
        for chain in queue:
            queue.push(chain, chain.read().upper())


# -- how-often ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def events(boot: Boot) -> list[Event]:
    """Of four chains for one kick."""
    vm = boot(Upper())
    vm.guest.exchange(b"abc", receive=3)
    mark = vm.trace.mark()
    for _ in range(4):
        vm.guest.add_buffers(0, 3, 3)
    vm.guest.publish()
    vm.guest.kick()
    vm.guest.wait(completions=4)
    return vm.trace.events(since=mark)


def test_one_run_and_one_interrupt(events: list[Event]) -> None:
    """However many chains there are."""
    assert course.check(OFTEN, COUNTS, events)


@pytest.mark.parametrize(
    "answer",
    [
        COUNTS | {"calls": 4},
        COUNTS | {"interrupts": 4},
        COUNTS | {"chains": 1},
        COUNTS | {"calls": True},
        {"calls": 1, "chains": 4},
        (1, 4, 1),
    ],
)
def test_one_for_each_chain(events: list[Event], answer: object) -> None:
    """A call or an interrupt for each, one chain, and other forms."""
    wrong(course.check(OFTEN, answer, events), str(COUNTS))


def test_one_chain_is_no_evidence(boot: Boot) -> None:
    """Where each number is 1 nothing can be told apart."""
    vm = boot(Upper())
    mark = vm.trace.mark()
    vm.guest.exchange(b"abc", receive=3)
    wrong(course.check(OFTEN, {"calls": 1, "chains": 1, "interrupts": 1}, vm.trace.events(since=mark)))


# -- counting ----------------------------------------------------------------------------------------------------------


class Counting(labkit.Device):
    """The solution; what is wrong with the others is what they override."""

    queue_sizes = (32, 32)

    def reset(self) -> None:  # noqa: D102
        self.shouted = 0

    def shout(self) -> None:
        """A chain of queue 0."""
        self.shouted += 1

    def called(self) -> None:
        """`handle` begins."""

    def asked(self) -> None:
        """A chain of queue 1."""

    def handle(self, queue: Any) -> None:  # noqa: D102
        self.called()
        for chain in queue:
            if queue.index == 0:
                self.shout()
                queue.push(chain, chain.read().upper())
            else:
                self.asked()
                queue.push(chain, b"%d" % self.shouted)


class KeepsCount(Counting):
    """A reset changes nothing."""

    shouted = 0

    def reset(self) -> None:  # noqa: D102
        pass


class CountsCalls(Counting):
    """One for each call of handle."""

    def called(self) -> None:  # noqa: D102
        self.shouted += 1

    def shout(self) -> None:  # noqa: D102
        pass


class CountsQuestions(Counting):
    """Each chain, of either queue."""

    def asked(self) -> None:  # noqa: D102
        self.shouted += 1


class Whispers(Counting):
    """Queue 0 answers in small letters."""

    def handle(self, queue: Any) -> None:  # noqa: D102
        for chain in queue:
            queue.push(chain, chain.read())


class Raises(Counting):
    """A slip of the student's."""

    def handle(self, queue: Any) -> None:  # noqa: D102
        raise RuntimeError("a slip")


def test_it_shouts_and_counts() -> None:
    """By trap and by eventfd, and anew after a reset."""
    assert course.check(COUNTING, Counting)


@pytest.mark.parametrize(
    "answer", [KeepsCount, CountsCalls, CountsQuestions, Whispers, Raises, Upper, labkit.Device, Counting(), "Counting"]
)
def test_devices_that_count_something_else(answer: object) -> None:
    """Calls, questions, what was before a reset; one queue, an error, and what is no class of a device."""
    wrong(course.check(COUNTING, answer), "self.shouted")


# -- mended ------------------------------------------------------------------------------------------------------------


class Divider(labkit.Device):
    """Not mended yet: what it bears is what `bears` names."""

    bears: tuple[type[Exception], ...] = ()

    def handle(self, queue: Any) -> None:  # noqa: D102
        for chain in queue:
            try:
                answer = b"%d" % (100 // int(chain.read()))
            except self.bears:
                answer = b"?"
            queue.push(chain, answer)


class Mended(Divider):
    """The solution."""

    bears = (ValueError, ZeroDivisionError)


class OnlyZero(Divider):
    """Bears 0, and nothing that is no number."""

    bears = (ZeroDivisionError,)


class Silent(Divider):
    """Answers nothing where it cannot."""

    def handle(self, queue: Any) -> None:  # noqa: D102
        for chain in queue:
            text = chain.read()
            queue.push(chain, b"%d" % (100 // int(text)) if text.lstrip(b"-").isdigit() and int(text) else b"")


class OnlyPositive(Divider):
    """Takes a minus for no number."""

    def handle(self, queue: Any) -> None:  # noqa: D102
        for chain in queue:
            text = chain.read()
            queue.push(chain, b"%d" % (100 // int(text)) if text.isdigit() and int(text) else b"?")


def test_it_says_where_it_cannot() -> None:
    """And divides by what it can."""
    assert course.check(MENDED, Mended)


@pytest.mark.parametrize("answer", [Divider, OnlyZero, Silent, OnlyPositive, Upper, Mended(), Mended.handle])
def test_dividers_that_are_half_mended(answer: object) -> None:
    """One slip of two, no answer, too few numbers; another device, and what is no class."""
    wrong(course.check(MENDED, answer), "except")
