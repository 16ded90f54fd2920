"""Can a guest that writes anything at all into its ring do more than break its own device?

The device is told that its RAM is 64 KiB in the middle of a larger mapping, so whatever it writes outside shows up
in the memfd around. The examples are the same on every run.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rings import HEADER, INDIRECT, MEMORY_BYTES, NEXT, SECTOR, WRITE, Descriptor, Rig, Ring

from labkit.abi import NUMBERS, BlkType, Feature
from labkit.native import lib

PAGE = NUMBERS["PAGE_BYTES"]
LEAD = 4 * PAGE  # bytes of the mapping before the device's RAM
WINDOW = 16 * PAGE  # the device's RAM
CANARY = 0xC5
NUM = 8

# the tame layout, in pages of the window; all others are canaries
RING_PAGE = 1  # and the used ring on the page behind
TABLE = 4 * PAGE  # an indirect table, read only
TABLE_ENTRIES = 4
OUT_HEADERS = TABLE + PAGE // 2  # headers, read only
IN_BUFFERS = range(6 * PAGE, 10 * PAGE)  # the only memory a tame descriptor lets the device write

deterministic = settings(derandomize=True, database=None, deadline=None, max_examples=200)


@contextmanager
def small_rig() -> Iterator[Rig]:
    """A device whose RAM is WINDOW bytes, LEAD bytes into its mapping."""
    rig = Rig(num=NUM)
    memory = rig.memory.native.memory
    whole = memory.host, memory.bytes
    memory.host, memory.bytes = memory.host + LEAD, WINDOW
    os.pwrite(rig.memory.fd, bytes([CANARY]) * MEMORY_BYTES, 0)
    os.pwrite(rig.image.fd, bytes(range(256)) * 32, 0)
    try:
        yield rig
    finally:
        memory.host, memory.bytes = whole
        rig.close()


def everything(rig: Rig) -> bytes:
    """The whole memfd: the device's RAM and what lies around it."""
    return os.pread(rig.memory.fd, MEMORY_BYTES, 0)


def ram(rig: Rig) -> bytes:
    """The device's RAM."""
    return everything(rig)[LEAD : LEAD + WINDOW]


def surroundings(rig: Rig) -> bytes:
    """What lies around it."""
    memory = everything(rig)
    return memory[:LEAD] + memory[LEAD + WINDOW :]


AROUND = bytes([CANARY]) * (MEMORY_BYTES - WINDOW)


class Watch:
    """What holds after every step, whatever the guest does."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.breaks, self.was_broken = rig, 0, False

    def run(self, trap: bool) -> None:
        """Run the queue, as a kick by trap or as the iothread, and check."""
        rig, device = self.rig, self.rig.device
        before = ram(rig) if device.broken else b""
        looked = lib.lk_queue_trap(device, 0, 2, 0xC010) if trap else rig.run()
        if self.was_broken:
            assert not looked
            assert ram(rig) == before, "a broken device writes nothing"
            assert device.broken, "only a reset mends it"
        self.breaks += bool(device.broken) and not self.was_broken
        self.was_broken = bool(device.broken)
        taken = (rig.vq.last_avail - rig.vq.used_idx) & 0xFFFF
        assert taken == 0 or (taken == 1 and device.broken), "a chain is given back before the next is taken"
        assert rig.vq.inuse == 0 or device.broken
        assert surroundings(rig) == AROUND

    def reset(self) -> None:
        """Reset the device: it is as new."""
        lib.lk_device_reset(self.rig.device)
        assert not self.rig.device.broken
        assert (self.rig.vq.desc, self.rig.vq.inuse, self.rig.vq.last_avail, self.rig.vq.used_idx) == (0, 0, 0, 0)
        self.was_broken = False

    def over(self) -> None:
        """Each time the device broke, it said so once."""
        assert len(self.rig.events("broken")) == self.breaks
        self.rig.device.broken = 0
        self.reset()
        working_disk(self.rig)


def working_disk(rig: Rig) -> None:
    """After all that and a reset the device serves a plain read."""
    ring = Ring(rig.memory, NUM, RING_PAGE)
    rig.memory.write(ring.desc, bytes(2 * PAGE))
    rig.memory.write(OUT_HEADERS, HEADER.pack(BlkType.IN, 0, 0))
    lib.lk_queue_set_pfn(rig.device, 0, RING_PAGE)
    buffer = Descriptor(IN_BUFFERS.start, SECTOR + 1, WRITE)
    ring.put([Descriptor(OUT_HEADERS, HEADER.size, NEXT, 1), buffer])
    ring.publish(0)
    assert rig.run() == 1
    assert (ring.used_idx, ring.used_entry(0)) == (1, (0, SECTOR + 1))
    assert rig.memory.read(buffer.gpa + SECTOR, 1) == b"\0"


# -- tame: the chains allow some memory, and the device writes there and nowhere else ----------------------------------

LENGTHS = st.sampled_from([0, 1, 15, 16, 17, 20, 511, 512, 513, 1024, 4096])
TYPES = st.sampled_from([*BlkType, BlkType.IN, BlkType.OUT, 2, 0xFFFFFFFF])
SECTORS = st.sampled_from([0, 1, 7, (16 << 11) - 1, 16 << 11, 1 << 63, (1 << 64) - 1])
WELL_FORMED = ("header", "in", "status", "header", "out", "status", "header", "table")  # three requests


@st.composite
def tame_descriptor(draw: st.DrawFn, kind: str, at: int) -> Descriptor:
    """One of a kind; readable ones on the pages of headers and tables, writable ones in IN_BUFFERS."""
    if kind == "header":
        return Descriptor(OUT_HEADERS + HEADER.size * at, HEADER.size, NEXT, at + 1)
    if kind == "in":
        size = draw(st.sampled_from([SECTOR, SECTOR, 2 * SECTOR, 1, SECTOR - 1]))  # the last two are IOERR
        return Descriptor(draw(st.integers(IN_BUFFERS.start, IN_BUFFERS.stop - size)), size, WRITE | NEXT, at + 1)
    if kind == "out":
        return Descriptor(OUT_HEADERS, draw(st.sampled_from([SECTOR, SECTOR, 1])), NEXT, at + 1)
    if kind == "status":
        beyond = draw(st.integers(0, 7)) == 0  # by one byte
        return Descriptor(WINDOW if beyond else draw(st.integers(IN_BUFFERS.start, IN_BUFFERS.stop - 1)), 1, WRITE)
    return Descriptor(TABLE, 16 * TABLE_ENTRIES, INDIRECT)


@st.composite
def odd_descriptor(draw: st.DrawFn) -> Descriptor:
    """One that fits nowhere in particular, and still lets the device write to IN_BUFFERS alone."""
    flags, follows = draw(st.sampled_from([0, NEXT])), draw(st.integers(0, NUM + 1))
    match draw(st.sampled_from(["header", "in", "table", "outside"])):
        case "header":
            return Descriptor(OUT_HEADERS, draw(st.sampled_from([1, 15, 16, 528])), flags, follows)
        case "in":
            size = draw(LENGTHS)
            return Descriptor(draw(st.integers(IN_BUFFERS.start, IN_BUFFERS.stop - size)), size, flags | WRITE, follows)
        case "table":
            return Descriptor(TABLE, 16 * draw(st.integers(0, TABLE_ENTRIES)), flags | INDIRECT, follows)
        case _:
            outside = draw(st.sampled_from([WINDOW, WINDOW - 1, (1 << 64) - 1, 1 << 40]))
            return Descriptor(outside, 2, flags | draw(st.sampled_from([0, WRITE])), follows)


@st.composite
def tame_descriptors(draw: st.DrawFn, kinds: tuple[str, ...]) -> list[Descriptor]:
    """Well-formed requests, of which up to three descriptors are replaced by odd ones."""
    made = [draw(tame_descriptor(kind, at)) for at, kind in enumerate(kinds)]
    for at in draw(st.lists(st.integers(0, len(made) - 1), max_size=3)):
        made[at] = draw(odd_descriptor())
    return made


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Eight request headers."""
    return b"".join(HEADER.pack(draw(TYPES), 0, draw(SECTORS)) for _ in range(8))


HEADS = st.one_of(st.sampled_from([0, 3, 6]), st.sampled_from([0, 3, 6]), st.integers(0, NUM))
TAME_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("kick"), st.lists(HEADS, max_size=4)),
        st.tuples(st.just("kick"), st.lists(HEADS, min_size=1, max_size=4)),
        st.tuples(st.just("reset"), st.none()),
    ),
    min_size=1,
    max_size=8,
)


def allowed(ring: Ring, descriptors: list[Descriptor]) -> list[range]:
    """The used ring, and every buffer that some descriptor calls writable."""
    writable = [range(d.gpa, d.gpa + d.size) for d in descriptors if d.flags & WRITE]
    return [range(ring.used, ring.used + 4 + 8 * ring.num), *writable]


@pytest.mark.slow
@deterministic
@given(
    table=tame_descriptors(WELL_FORMED),
    inner=tame_descriptors(("header", "in", "in", "status")),
    requests=headers(),
    features=st.booleans(),
    steps=TAME_STEPS,
)
def test_the_device_writes_only_what_the_chains_allow(
    table: list[Descriptor],
    inner: list[Descriptor],
    requests: bytes,
    features: bool,
    steps: list[tuple[str, Any]],
) -> None:
    """Used ring and writable buffers change, and no other byte of RAM, whatever descriptors, links and types say."""
    with small_rig() as rig:
        watch, ring = Watch(rig), Ring(rig.memory, NUM, RING_PAGE)

        def set_up() -> None:
            rig.memory.write(ring.desc, bytes(2 * PAGE))
            ring.idx = 0
            ring.put(table)
            lib.lk_queue_set_pfn(rig.device, 0, RING_PAGE)
            rig.accept(*([Feature.INDIRECT_DESC] if features else []))

        rig.memory.write(TABLE, b"".join(descriptor.packed() for descriptor in inner))
        rig.memory.write(OUT_HEADERS, requests)
        set_up()
        may_change = allowed(ring, table + inner)
        for what, argument in steps:
            if what == "reset":
                watch.reset()
                set_up()
            else:
                ring.publish(*argument)
                before = ram(rig)
                watch.run(trap=len(argument) % 2 == 0)
                after = bytearray(ram(rig))
                for part in may_change:
                    after[part.start : part.stop] = before[part.start : part.stop]
                assert after == before
                assert ring.used_idx == rig.vq.used_idx
        watch.over()


# -- wild: anything, anywhere, also the device writing over its own ring -----------------------------------------------

ADDRESSES = st.one_of(
    st.integers(0, WINDOW - 4 * PAGE),
    st.integers(0, WINDOW),
    st.sampled_from([0, RING_PAGE * PAGE, 2 * PAGE, WINDOW - 1, WINDOW, WINDOW + 1, 1 << 32, 1 << 63, (1 << 64) - 16]),
    st.integers(0, (1 << 64) - 1),
)
SIZES = st.one_of(LENGTHS, st.sampled_from([WINDOW, 0x7FFFFFFF, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF))
WORDS = st.one_of(st.integers(0, NUM + 1), st.integers(0, 0xFFFF))
PAGES = st.one_of(
    st.integers(1, 13), st.integers(1, 13), st.integers(1, 17), st.sampled_from([0xFFFFF, 0x100000, 0xFFFFFFFF])
)


@dataclass(frozen=True)
class Wild:
    """What a guest may put anywhere: a ring at some page, and some bytes at some address."""

    page: int
    descriptors: list[Descriptor]
    heads: list[int]
    idx: int
    requests: list[tuple[int, int]]  # type and sector of the headers that descriptors 0, 3 and 6 lead to


@st.composite
def wild_rings(draw: st.DrawFn) -> Wild:
    """Well-formed requests whose buffers lie anywhere, also over the ring itself, with wild ones between them."""
    flags = (NEXT, NEXT | WRITE, WRITE, NEXT, NEXT, WRITE, NEXT, INDIRECT)
    sizes = (16, SECTOR, 1, 16, SECTOR, 1, 16, 64)
    home = st.integers(0, WINDOW - PAGE)
    made = [
        Descriptor(draw(home), size, flag, at + 1) for at, (flag, size) in enumerate(zip(flags, sizes, strict=True))
    ]
    for at in draw(st.lists(st.integers(0, NUM - 1), max_size=2)):
        made[at] = Descriptor(draw(ADDRESSES), draw(SIZES), draw(st.integers(0, 0xFFFF)), draw(WORDS))
    heads = draw(st.lists(HEADS, min_size=NUM, max_size=NUM))
    idx = draw(st.one_of(st.integers(1, NUM), st.integers(1, NUM), WORDS))
    return Wild(draw(PAGES), made, heads, idx, draw(st.lists(st.tuples(TYPES, SECTORS), min_size=3, max_size=3)))


wild_ring = wild_rings()
WILD_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ring"), wild_ring),
        st.tuples(st.just("run"), st.booleans()),
        st.tuples(st.just("run"), st.booleans()),
        st.tuples(st.just("header"), st.tuples(st.integers(0, WINDOW - 16), TYPES, SECTORS)),
        st.tuples(st.just("noise"), st.tuples(st.integers(0, WINDOW - 64), st.binary(min_size=1, max_size=64))),
        st.tuples(st.just("num"), st.sampled_from([0, 1, 2, NUM, NUM, 128, 1024])),
        st.tuples(st.just("features"), st.integers(0, 0xFFFFFFFF)),
        st.tuples(st.just("reset"), st.none()),
    ),
    min_size=3,
    max_size=16,
)


def store(rig: Rig, gpa: int, data: bytes) -> None:
    """What a guest stores as far as it has memory."""
    if gpa < WINDOW:
        rig.memory.write(gpa, data[: WINDOW - gpa])


def put_ring(rig: Rig, wild: Wild) -> None:
    """Write a ring where its page is, as far as there is memory, and give it to the device."""
    num = int(rig.vq.num)
    desc = wild.page * PAGE
    for at, (type_, sector) in zip((0, 3, 6), wild.requests, strict=True):
        store(rig, wild.descriptors[at].gpa, HEADER.pack(type_, 0, sector))
    store(rig, desc, b"".join(descriptor.packed() for descriptor in wild.descriptors))
    store(rig, desc + 16 * num, struct.pack(f"<HH{NUM}H", 0, wild.idx, *wild.heads))
    lib.lk_queue_set_pfn(rig.device, 0, wild.page)


@pytest.mark.slow
@deterministic
@given(start=wild_ring, steps=WILD_STEPS)
def test_nothing_a_guest_writes_reaches_beyond_its_memory(start: Wild, steps: list[tuple[str, Any]]) -> None:
    """Any ring anywhere, any step in any order: the process lives, the memory around stays, and a reset mends all."""
    with small_rig() as rig:
        watch = Watch(rig)
        put_ring(rig, start)
        for what, argument in [*steps, ("run", True)]:
            if what == "ring":
                put_ring(rig, argument)
            elif what == "run":
                watch.run(argument)
            elif what == "header":
                store(rig, argument[0], HEADER.pack(argument[1], 0, argument[2]))
            elif what == "noise":
                store(rig, *argument)
            elif what == "num":
                rig.vq.num = argument
            elif what == "features":
                rig.device.guest_features = argument
            else:
                watch.reset()
        rig.vq.num = NUM
        watch.over()


@settings(deterministic, max_examples=60)
@given(value=st.one_of(st.integers(0, 80), st.integers(0, 0xFFFFFFFF)), width=st.sampled_from([1, 2, 4]))
def test_any_value_can_be_kicked(value: int, width: int) -> None:
    """Any 32-bit value written to QUEUE_NOTIFY runs queue 0, or is ignored: the other queues have no ring."""
    with closing(Rig(num=NUM)) as rig:
        assert lib.lk_queue_trap(rig.device, value, width, 0xC010) == (value == 0)
        assert len(rig.events("kick_ignored")) == (value != 0)
