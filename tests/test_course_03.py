"""Notebook 03: which answers are right, and which only look like it?"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from classroom import wrong

import labkit
from labkit import course

WALK, READ, WAITING, ORDERS = "03.walk", "03.read-by-hand", "03.waiting", "03.two-orders"
FREE = 0xB0_0000
Chain = list[tuple[int, int, bool]]


# -- walk a chain ------------------------------------------------------------------------------------------------------


def walked(vm: labkit.Machine, head: int, *, most: int = 99, flag: int = 2) -> Chain:
    """The solution; or one that ends early, or looks at another flag."""
    chain: Chain = []
    while True:
        at = (vm.proxy.queues[0].pfn << 12) + 16 * head
        address, length, flags, head = struct.unpack("<QIHH", vm.memory.read(at, 16))
        chain.append((address, length, bool(flags & flag)))
        if not flags & 1 or len(chain) == most:
            return chain


def three_in_a_row(vm: labkit.Machine, head: int) -> Chain:
    """Whatever NEXT says."""
    return [link for n in range(3) for link in walked(vm, head + n, most=1)]


def test_a_chain_is_walked(cpu: str) -> None:  # noqa: ARG001
    """To the descriptor without NEXT."""
    assert course.check(WALK, walked)


@pytest.mark.parametrize(
    "function",
    [
        three_in_a_row,
        lambda vm, head: walked(vm, head, most=1),
        lambda vm, head: walked(vm, head, flag=1),
        lambda vm, head: walked(vm, 0 * head),
        lambda vm, head: [(hex(a), length, w) for a, length, w in walked(vm, head)],
        lambda vm, head: [(a, length, int(w)) for a, length, w in walked(vm, head)],
        lambda vm, head: tuple(walked(vm, head)),
        lambda vm, head: [link[:2] for link in walked(vm, head)],
    ],
)
def test_chains_walked_otherwise(cpu: str, function: Callable[..., object]) -> None:  # noqa: ARG001
    """Always three, always one, the wrong flag, another head, and other forms."""
    wrong(course.check(WALK, function))


# -- a read by hand ----------------------------------------------------------------------------------------------------


def by_hand(vm: labkit.Machine, sector: int, **other: int) -> bytes:
    """The solution, or one with something else in it."""
    usual = {
        "type": 0,
        "idx": vm.proxy.queues[0].avail_idx or 0,
        "by": 1,
        "bytes": 512,
        "flags": 3,
        "head": 100,
        "kick": 1,
    }
    it = usual | other
    queue, memory = vm.proxy.queues[0], vm.memory
    desc = queue.pfn << 12
    avail = desc + 16 * queue.num
    memory.write(FREE, struct.pack("<IIQ", it["type"], 0, sector))
    parts = [(FREE, 16, 1, 101), (FREE + 0x400, it["bytes"], it["flags"], 102), (FREE + 0x100, 1, 2, 0)]
    for n, part in enumerate(parts, 100):
        memory.write(desc + 16 * n, struct.pack("<QIHH", *part))
    memory.write(avail + 4 + 2 * (it["idx"] % queue.num), struct.pack("<H", it["head"]))
    memory.write(avail + 2, struct.pack("<H", (it["idx"] + it["by"]) % 65536))
    if it["kick"]:
        vm.guest.kick()
    return memory.read(FREE + 0x400, 512)


def test_a_sector_is_read_by_hand(cpu: str) -> None:  # noqa: ARG001
    """In a ring that has gone round, and in one that has not."""
    assert course.check(READ, by_hand)


@pytest.mark.parametrize(
    "other",
    [
        {"idx": 0},
        {"by": 0},
        {"by": 2},
        {"type": 8},
        {"bytes": 1024},
        {"flags": 1},
        {"head": 101},
        {"head": 200},
        {"kick": 0},
    ],
    ids=str,
)
def test_requests_that_are_no_read(cpu: str, other: dict[str, int]) -> None:  # noqa: ARG001
    """The first entry, an idx that stays or jumps, another type, length, flag or head, and nobody told."""
    wrong(course.check(READ, lambda vm, sector: by_hand(vm, sector, **other)), "% ", "65536")


@pytest.mark.parametrize(
    "function",
    [
        lambda vm, sector: vm.guest.read(sector),
        lambda vm, sector: by_hand(vm, sector + 1),
        lambda vm, sector: by_hand(vm, sector)[:25],
        lambda vm, sector: by_hand(vm, sector) and None,
        lambda vm, sector: b"labkit RAM disk, sector %d" % sector,  # noqa: ARG005
        lambda vm, sector: vm.close(),  # noqa: ARG005
    ],
)
def test_bytes_from_elsewhere(cpu: str, function: Callable[..., object]) -> None:  # noqa: ARG001
    """The lab's driver, another sector, a part of it, nothing, a guess, and a machine that is gone."""
    wrong(course.check(READ, function))


# -- across 65536 ------------------------------------------------------------------------------------------------------


def test_what_waits_is_counted() -> None:
    """Any way of taking a difference of 16 bits."""
    assert course.check(WAITING, lambda avail, last: (avail - last) % 65536)
    assert course.check(WAITING, lambda avail, last: avail - last & 0xFFFF)
    assert course.check(WAITING, lambda avail, last: avail - last if avail >= last else avail - last + 65536)


@pytest.mark.parametrize(
    "function",
    [
        lambda avail, last: avail - last,
        lambda avail, last: abs(avail - last),
        lambda avail, last: max(avail - last, 0),
        lambda avail, last: (avail - last) % 65535,
        lambda avail, last: (avail - last) % 128,
        lambda avail, last: avail > last,
    ],
)
def test_counts_that_do_not_go_round(function: Callable[[int, int], int]) -> None:
    """Right until the index goes round, or as long as the ring is not full."""
    wrong(course.check(WAITING, function), "65536", "0xFFFF")


# -- an order that loses a kick ----------------------------------------------------------------------------------------

LOSES, KEEPS = "publishes-and-looks:{}:vx3 ix6 v", "publishes-and-looks:{}:vx4 ix6"


def schedules(cpu: str) -> tuple[str, str]:
    """One of each kind, of the scenario as it is now."""
    with labkit.races.stepper("driver-barrier", ["driver-barrier"], cpu=cpu) as stepper:
        mark = stepper.rest().schedule.split(":")[1]
    return LOSES.format(mark), KEEPS.format(mark)


def test_two_orders_are_told_apart(cpu: str) -> None:
    """One loses a kick, one does not; neither the other way round, nor one of them for both."""
    loses, keeps = schedules(cpu)
    assert course.check(ORDERS, {"loses": loses, "keeps": keeps})
    wrong(course.check(ORDERS, {"loses": keeps, "keeps": loses}), loses)
    wrong(course.check(ORDERS, {"loses": loses, "keeps": loses}), keeps)
    wrong(course.check(ORDERS, {"loses": keeps, "keeps": keeps}), loses)


@pytest.mark.parametrize(
    "answer", [LOSES, (LOSES, KEEPS), {"loses": LOSES}, {"loses": "vx3", "keeps": "x"}, {"loses": 1, "keeps": 2}]
)
def test_what_is_no_schedule(cpu: str, answer: object) -> None:  # noqa: ARG001
    """Of another form, or of no scenario."""
    wrong(course.check(ORDERS, answer))
