"""Notebook 01: which answers are right, and which only look like it?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from classroom import wrong
from rulebook import Boot

import labkit
from labkit import course
from labkit.trace import Trace

WHO, TRAP, THREE = "01.who-ran", "01.trap-one", "01.three-at-once"
Steps = Callable[[labkit.Machine], object]


def published(vm: labkit.Machine, requests: int = 1) -> int:
    """So many requests are in the ring; returns the port of a kick."""
    for sector in range(requests):
        vm.guest.add(sector=sector)
    vm.guest.publish()
    port = vm.proxy.queues[0].notifier.port
    return 0 if port is None else port


def kicked_by(width: int, value: int = 0) -> Steps:
    """A kick of that width."""

    def steps(vm: labkit.Machine) -> None:
        vm.guest.port_out(published(vm), width, value)
        vm.guest.wait(timeout_s=0.1)

    return steps


@pytest.fixture
def trace(boot: Boot) -> Trace:
    """The events of the notebook's machine: a kick by eventfd, and one of one byte."""
    vm = boot("blk")
    vm.guest.read(sector=0)
    kicked_by(1)(vm)
    return vm.trace


# -- who-ran -----------------------------------------------------------------------------------------------------------


def test_each_way_has_its_thread(trace: Trace) -> None:
    """The iothread after an eventfd kick, the vCPU after a trap."""
    assert course.check(WHO, {"eventfd": "iothread", "trap": "vcpu0"}, trace)


@pytest.mark.parametrize(
    "answer",
    [
        {"eventfd": "vcpu0", "trap": "iothread"},
        {"eventfd": "iothread", "trap": "iothread"},
        {"eventfd": "vmm", "trap": "guest"},
        {"eventfd": ["iothread"], "trap": None},
        {"trap": "vcpu0"},
        ("iothread", "vcpu0"),
        "iothread",
    ],
)
def test_threads_mixed_up(trace: Trace, answer: object) -> None:
    """The other way round, one for both, who owns instead of who runs, and names in another form."""
    wrong(course.check(WHO, answer, trace), *({"iothread", "vcpu0"} - set(str(answer).split("'"))))


def test_one_way_is_no_evidence(boot: Boot) -> None:
    """A machine without a trapped kick cannot show who serves one."""
    vm = boot("blk")
    vm.guest.read(sector=0)
    wrong(course.check(WHO, {"eventfd": "iothread", "trap": "vcpu0"}, vm.trace))


# -- trap-one ----------------------------------------------------------------------------------------------------------


def not_owned(vm: labkit.Machine) -> None:
    """DRIVER_OK taken away first, and put back."""
    vm.guest.clear_driver_ok()
    kicked_by(4)(vm)
    vm.guest.set_driver_ok()


def nothing_to_do(vm: labkit.Machine) -> None:
    """A kick for an empty ring."""
    vm.guest.port_out(vm.proxy.queues[0].notifier.port or 0, 4, 0)


def closed(vm: labkit.Machine) -> None:
    """The machine is gone."""
    vm.close()


def test_a_write_of_four_bytes_traps(cpu: str) -> None:  # noqa: ARG001
    """Another length leaves the guest and is served."""
    assert course.check(TRAP, kicked_by(4))


@pytest.mark.parametrize(
    "function",
    [kicked_by(2), kicked_by(1), kicked_by(4, 1 << 16), not_owned, nothing_to_do, published, closed],
    ids=["matches", "known", "value", "not-owned", "empty", "no-kick", "closed"],
)
def test_no_trap_of_that_kind(cpu: str, function: Steps) -> None:  # noqa: ARG001
    """What KVM matches, what was tried, what nobody serves, a notifier given away, no work, no kick, no machine."""
    wrong(course.check(TRAP, function), "4")


# -- three-at-once -----------------------------------------------------------------------------------------------------


def kick_and_wait(vm: labkit.Machine, requests: int) -> None:
    """For so many in the ring."""
    vm.guest.kick()
    vm.guest.wait(completions=requests)


def three(vm: labkit.Machine) -> None:
    """The solution."""
    published(vm, 3)
    kick_and_wait(vm, 3)


def two(vm: labkit.Machine) -> None:
    """One request too few."""
    published(vm, 2)
    kick_and_wait(vm, 2)


def three_reads(vm: labkit.Machine) -> None:
    """A kick each."""
    for sector in range(3):
        vm.guest.read(sector=sector)


def three_sectors(vm: labkit.Machine) -> None:
    """One request that is three times as long."""
    vm.guest.read(sector=0, count=3)


def only_one_published(vm: labkit.Machine) -> None:
    """What is added later the device cannot see."""
    published(vm, 1)
    vm.guest.add(sector=1)
    vm.guest.add(sector=2)
    kick_and_wait(vm, 1)


def told_by_nobody(vm: labkit.Machine) -> None:
    """The kick is missing."""
    published(vm, 3)


def test_three_for_one(cpu: str) -> None:  # noqa: ARG001
    """A full ring and one kick."""
    assert course.check(THREE, three)


def kicked_twice(vm: labkit.Machine) -> None:
    """The second kick may still be in the eventfd when the requests are done."""
    published(vm, 3)
    vm.guest.kick(times=2)
    vm.guest.wait(completions=3)


@pytest.mark.parametrize(
    "function", [kicked_twice, two, three_reads, three_sectors, only_one_published, told_by_nobody, closed]
)
def test_not_three_for_one(cpu: str, function: Steps) -> None:  # noqa: ARG001
    """Too few, a kick each, one long request, some not published, no kick, no machine."""
    wrong(course.check(THREE, function), "publish()")
