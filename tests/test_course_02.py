"""Notebook 02: which answers are right, and which only look like it?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from classroom import wrong
from rulebook import Boot

import labkit
from labkit import course
from labkit.abi import Feature, Register, Status
from labkit.trace import Trace

FIND, UP, TWICE, WHICH = "02.find-bar0", "02.bring-up", "02.read-twice", "02.which-write"
BASE = 0xC000
UP_STATUS = Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK
WRITES = {"R2": ("STATUS", "0x0"), "R6": ("QUEUE_PFN", "0x0"), "R8": ("COMMAND", "0x3")}
Function = Callable[[labkit.Machine], object]


# -- find BAR0 ---------------------------------------------------------------------------------------------------------


def asked(vm: labkit.Machine, register: int = 0x10, slot: int = 1) -> int:
    """A dword of config space, by the two ports."""
    vm.guest.port_out(0xCF8, 4, 0x8000_0000 | slot << 11 | register)
    return vm.guest.port_in(0xCFC, 4)


def resized(vm: labkit.Machine) -> int:
    """The right port, and the BAR left somewhere else."""
    port = asked(vm) & ~3
    vm.guest.port_out(0xCFC, 4, 0xC001)
    return port


def remembered(_: labkit.Machine) -> int:
    """Where the firmware puts it."""
    return BASE


def peeked(vm: labkit.Machine) -> int:
    """What the host knows."""
    return vm.proxy.notify_base


def by_the_step(vm: labkit.Machine) -> int:
    """The lab's own read of config space."""
    return vm.guest.pci_read(0x10, 4) & ~3


def test_bar0_is_found(cpu: str) -> None:  # noqa: ARG001
    """By two ports, wherever it is."""
    assert course.check(FIND, lambda vm: asked(vm) & ~3)


@pytest.mark.parametrize(
    "function",
    [
        asked,
        lambda vm: asked(vm, 0x14) & ~3,
        lambda vm: asked(vm, slot=2) & ~3,
        lambda vm: hex(asked(vm) & ~3),
        *(resized, remembered, peeked, by_the_step, labkit.Machine.close),
    ],
)
def test_ports_that_are_not_bar0(cpu: str, function: Function) -> None:  # noqa: ARG001
    """A bit too many, another BAR or slot, a text, a BAR that was moved, a guess, and what was not asked by hand."""
    wrong(course.check(FIND, function), "0xd040:", "& ~3")


# -- bring up ----------------------------------------------------------------------------------------------------------

Access = tuple[str, int, int]
ACCEPTED = ("GUEST_FEATURES", 4, 0xFFFF_FFFF & ~Feature.BAD_FEATURE)
SELECTED, RING = ("QUEUE_SEL", 2, 0), ("QUEUE_PFN", 4, 0x200)
GREETING: tuple[Access, ...] = tuple(("STATUS", 1, value) for value in (0, 1, 3))
DONE = ("STATUS", 1, int(UP_STATUS))


def driver(*accesses: Access, master: bool = True) -> Function:
    """A driver that writes these registers, and COMMAND before them."""

    def bring_up(vm: labkit.Machine) -> None:
        if master:
            vm.guest.pci_write(0x04, 2, 0x7)
        for name, width, value in accesses:
            vm.guest.port_out(BASE + Register[name], width, value)

    return bring_up


def test_a_device_is_brought_up(cpu: str) -> None:  # noqa: ARG001
    """In the order of the book, and with bus-master set at the last moment."""
    assert course.check(UP, driver(*GREETING, ACCEPTED, SELECTED, RING, DONE))
    late = driver(*GREETING, ACCEPTED, RING, master=False)
    assert course.check(UP, lambda vm: (late(vm), driver(DONE)(vm)))


@pytest.mark.parametrize(
    "function",
    [
        driver(),
        driver(*GREETING, ACCEPTED, SELECTED, RING),
        driver(ACCEPTED, RING, DONE),
        driver(("STATUS", 1, 0), ("STATUS", 1, 3), ACCEPTED, RING, DONE),
        driver(*GREETING, ACCEPTED, RING, ("STATUS", 1, 4)),
        driver(*GREETING, RING, DONE),
        driver(*GREETING, ("GUEST_FEATURES", 4, 0xFFFF_FFFF), RING, DONE),
        driver(*GREETING, ACCEPTED, DONE),
        driver(*GREETING, ACCEPTED, ("QUEUE_PFN", 4, 0x20_0000), DONE),
        driver(*GREETING, ACCEPTED, SELECTED, RING, DONE, master=False),
        driver(*GREETING, RING, DONE, ACCEPTED),
        driver(*GREETING, ACCEPTED, DONE, RING),
        driver(*GREETING, ACCEPTED, RING, DONE, ("QUEUE_PFN", 4, 0), ACCEPTED, RING),
        lambda vm: vm.guest.negotiate(driver_ok=True),
        labkit.Machine.close,
    ],
)
def test_drivers_that_forgot_something(cpu: str, function: Function) -> None:  # noqa: ARG001
    """No DRIVER_OK, bits at once or lost, no features or all, no ring or one outside, no bus-master, a wrong order."""
    wrong(course.check(UP, function), "0x200")


# -- read twice --------------------------------------------------------------------------------------------------------

WIDTHS = {0: 4, 4: 4, 8: 4, 12: 2, 14: 2, 18: 1, 19: 1}


def twice(vm: labkit.Machine, base: int) -> list[int]:
    """The solution."""
    return [
        at for at, width in WIDTHS.items() if vm.guest.port_in(base + at, width) != vm.guest.port_in(base + at, width)
    ]


def first_all_then_all(vm: labkit.Machine, base: int) -> list[int]:
    """As good."""
    one, other = ([vm.guest.port_in(base + at, width) for at, width in WIDTHS.items()] for _ in range(2))
    return [at for at, a, b in zip(WIDTHS, one, other, strict=True) if a != b]


def learnt_by_heart(vm: labkit.Machine, base: int) -> list[int]:
    """What it was in the notebook."""
    twice(vm, base)
    return [int(Register.ISR)]


def written_over(vm: labkit.Machine, base: int) -> list[int]:
    """A reset in between."""
    vm.guest.port_out(base + Register.STATUS, 1, 0)
    return twice(vm, base)


def test_what_a_read_changes(cpu: str) -> None:  # noqa: ARG001
    """One after the other, or all of them and then all once more."""
    assert course.check(TWICE, twice)
    assert course.check(TWICE, first_all_then_all)


@pytest.mark.parametrize(
    "function",
    [
        *(learnt_by_heart, written_over),
        lambda vm, base: [base + at for at in twice(vm, base)],
        lambda vm, base: twice(vm, base) and None,
        lambda vm, base: [],  # noqa: ARG005
        lambda vm, base: [at for at in (18, 19) if vm.guest.port_in(base + at, 1) != vm.guest.port_in(base + at, 1)],
        lambda vm, base: vm.close(),  # noqa: ARG005
    ],
)
def test_looks_that_were_not_looked(cpu: str, function: Callable[..., object]) -> None:  # noqa: ARG001
    """Known by heart, with a write, ports for offsets, no list, nothing read, and some left out."""
    wrong(course.check(TWICE, function), *([] if function is learnt_by_heart else ["19"]))


# -- which write -------------------------------------------------------------------------------------------------------


@pytest.fixture
def trace(boot: Boot) -> Trace:
    """The events of three stops."""
    vm = boot("blk", irq="poll", bring_up=False)
    for stop in (("STATUS", 1, 0), ("QUEUE_PFN", 4, 0)):
        vm.guest.negotiate(driver_ok=True)
        driver(stop)(vm)
    vm.guest.negotiate(driver_ok=True)
    vm.guest.pci_write(0x04, 2, 0x3)
    return vm.trace


def test_the_writes_that_stop(trace: Trace) -> None:
    """What the log says."""
    assert course.check(WHICH, WRITES, trace)


@pytest.mark.parametrize(
    "answer",
    [
        WRITES | {"R6": ("QUEUE_PFN", "0x200")},
        WRITES | {"R2": ("STATUS", "0x7")},
        WRITES | {"R2": ("STATUS", 0)},
        WRITES | {"R8": ("0x4", "0x3")},
        WRITES | {"R8": ["COMMAND", "0x3"]},
        WRITES | {"R3": ("STATUS", "0x7")},
        {"R2": WRITES["R2"]},
        {2: WRITES["R2"], 6: WRITES["R6"], 8: WRITES["R8"]},
        list(WRITES.values()),
        "STATUS",
    ],
)
def test_writes_that_did_not_stop_it(trace: Trace, answer: object) -> None:
    """Another value, a number for a text, an offset, a rule too many, rules missing, and other forms."""
    told = "'QUEUE_PFN', '0x0'"
    wrong(course.check(WHICH, answer, trace), *([] if told in repr(answer) else [told]))


def test_no_stop_is_no_evidence(boot: Boot) -> None:
    """A machine that nobody stopped is no evidence."""
    wrong(course.check(WHICH, WRITES, boot("blk").trace))
