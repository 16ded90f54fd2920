"""03, rings and barriers: walk a chain, make a request by hand, count across 65536, an order that loses a kick."""

from __future__ import annotations

import struct
from typing import Any

import labkit
from labkit.abi import NUMBERS, SECTOR_BYTES, BlkType
from labkit.course.exercise import Exercise
from labkit.course.n02 import other_steps
from labkit.course.verdict import Verdict, not_yet, right, shown

DESCRIPTOR = struct.Struct("<QIHH")
NEXT, WRITE = NUMBERS["DESC_NEXT"], NUMBERS["DESC_WRITE"]
KICKS = ("KICK", "PORT_OUT")
LOOKS = ("LOAD", "PORT_IN", "PCI_READ")
INDICES = 1 << 16
BARRIER, KICK_LOST = "driver-barrier", "every-kick-is-served"


# -- walk a chain ------------------------------------------------------------------------------------------------------


def links(vm: Any, head: int) -> list[tuple[int, int, bool]]:
    """Address, bytes and who writes, of each descriptor of a chain."""
    found, at = [], head
    while True:
        address, size, flags, following = DESCRIPTOR.unpack(
            vm.memory.read((vm.proxy.queues[0].pfn << 12) + DESCRIPTOR.size * at, DESCRIPTOR.size)
        )
        found.append((address, size, bool(flags & WRITE)))
        if not flags & NEXT:
            return found
        at = following


def walk(function: Any) -> Verdict:
    """A function that follows a chain, tried on chains of several lengths."""
    with labkit.boot("blk", irq="poll") as vm:
        for asked in ({}, {"type": BlkType.OUT, "bytes": 2 * SECTOR_BYTES}, {"type": BlkType.FLUSH}):
            head = vm.guest.add(**asked).head
            truth, found = links(vm, head), function(vm, head)
            if (verdict := _same_chain(found, truth)) is not None:
                return verdict
    return right("two descriptors or three, and only one of them said that it was the last")


def _same_chain(found: object, truth: list[tuple[int, int, bool]]) -> Verdict | None:
    if not isinstance(found, list) or any(not isinstance(one, tuple) or len(one) != 3 for one in found):
        return not_yet(
            f"{shown(found)} has not the form", "a list of (address, bytes, True if the device writes there)"
        )
    if len(found) != len(truth):
        return not_yet(
            f"{len(found)} descriptors of a chain of {len(truth)}", "one flag says whether `next` means anything"
        )
    for n, (one, other) in enumerate(zip(found, truth, strict=True)):
        for name, mine, yours in zip(("the address", "the length", "who writes"), other, one, strict=True):
            if type(yours) is not type(mine) or yours != mine:
                return not_yet(
                    f"descriptor {n} of the chain: not {name}, {shown(yours)}",
                    "64, 32, 16 and 16 bits; look at one flag",
                )
    return None


# -- a read by hand ----------------------------------------------------------------------------------------------------


def read_by_hand(function: Any) -> Verdict:
    """A function that reads a sector, on machines whose rings have been used before."""
    for before, sector in ((3, 7), (130, 9)):
        with labkit.boot("blk", irq="poll", ioeventfd=False) as vm:
            for _ in range(before):
                vm.guest.read(sector=0)
            mark = vm.trace.mark()
            found = function(vm, sector)
            events, broken = vm.trace.events("step", "request", "broken", since=mark), vm.proxy.broken
            with labkit.boot("blk", irq="poll") as other:
                truth = other.guest.read(sector)
        if (verdict := _read(found, truth, events, sector, broken=broken)) is not None:
            return verdict
    return right("header, chain, entry, index, and one kick: a driver does no more than that")


def _read(found: object, truth: bytes, events: list[Any], sector: int, *, broken: bool) -> Verdict | None:
    if others := other_steps(events, (*KICKS, *LOOKS)):
        return not_yet(
            f"the guest also did {', '.join(others)}", "vm.memory.write for the ring, vm.guest.kick() for the kick"
        )
    if broken:
        return not_yet("the device is broken", 'vm.trace.events("broken") says what it could not make sense of')
    requests = [event for event in events if event.name == "request"]
    if not any(event.name == "step" and event["command"] in KICKS for event in events):
        return not_yet("nobody kicked", "the device looks at the ring when it is told to")
    if not requests:
        return not_yet("the device found nothing new", "avail.idx counts on from where it stands: did it move?")
    if len(requests) > 1 or requests[0]["type"] != BlkType.IN.name or requests[0]["sector"] != sector:
        said = ", ".join(f"{event['type']} of sector {event['sector']}" for event in requests)
        return not_yet(
            f"the device was asked for: {said}", "which entry of the ring is the next one? What is in the header?"
        )
    if requests[0]["status"] != "OK" or requests[0]["bytes"] != SECTOR_BYTES:
        return not_yet(f"the device answered {requests[0]['status']}", "how long is each part, and who writes it?")
    if found != truth:
        return not_yet(f"{shown(found)} is not what the sector holds", "return the bytes that the device wrote")
    return None


# -- across 65536 ------------------------------------------------------------------------------------------------------


def waiting(function: Any) -> Verdict:
    """A function of two indices, before and after they have gone round."""
    for last in (0, 5, 127, 128, 65_000, 65_408, 65_535):
        for count in (0, 1, 7, 128):
            avail = (last + count) % INDICES
            found = function(avail, last)
            if type(found) is not int:
                return not_yet(f"{shown(found)} is no number of entries", "return a number")
            if found != count:
                return not_yet(
                    f"of avail.idx {avail} and last_avail {last} it makes {found}",
                    "both count on without end, and only their last 16 bits are kept",
                )
    return right("a difference of 16 bits: what has gone round does not show")


# -- an order that loses a kick ----------------------------------------------------------------------------------------


def orders(answer: object) -> Verdict:
    """Two schedules of the driver without its barrier: one loses a kick, one does not."""
    kinds = ("loses", "keeps")
    if (
        not isinstance(answer, dict)
        or set(answer) != set(kinds)
        or any(type(one) is not str for one in answer.values())
    ):
        return not_yet(f"{shown(answer)} has not the form", 'a dict of two schedules, {"loses": ..., "keeps": ...}')
    for kind in kinds:
        broken = labkit.races.replay(BARRIER, answer[kind], [BARRIER]).broken
        if (KICK_LOST in broken) != (kind == "loses"):
            said = ", ".join(broken) or "nothing"
            return not_yet(
                f"{answer[kind]} breaks {said}",
                "explore() reports one that loses it; in the other, who must not look while the driver is in between?",
            )
    return right("the same code, the same guest: only the order differs, and no test decides the order")


EXERCISES = (
    Exercise("03.walk", "a function of a machine and a head that returns the chain's descriptors", walk),
    Exercise("03.read-by-hand", "a function of a machine and a sector that returns its bytes", read_by_hand),
    Exercise("03.waiting", "a function of avail.idx and last_avail: how many entries wait?", waiting),
    Exercise("03.two-orders", "a schedule that loses a kick, and one that does not", orders),
)
