"""Can a guest that writes anything into the rings of its network card do more than break the card?

As in test_fuzz_rings.py the device's RAM is a window in a larger mapping, and what it writes outside shows up around.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import closing, contextmanager
from random import Random
from typing import Any

import pytest
from cards import CTRL, HEADER, RX, TX, Card, frame
from hypothesis import given, settings
from hypothesis import strategies as st
from rings import INDIRECT, MEMORY_BYTES, NEXT, WRITE, Descriptor, Ring

from labkit.abi import NUMBERS, Feature
from labkit.native import lib

PAGE = NUMBERS["PAGE_BYTES"]
LEAD, WINDOW = 4 * PAGE, 24 * PAGE  # the window's place in the mapping, and its size
CANARY = 0xC5
NUM = 8
RING_PAGES = {RX: 1, TX: 3, CTRL: 5}  # and the used ring on the page behind
TABLE = 8 * PAGE  # an indirect table, where the guest likes one
AROUND = bytes([CANARY]) * (MEMORY_BYTES - WINDOW)

deterministic = settings(derandomize=True, database=None, deadline=None, max_examples=150)

PLACES = (0, PAGE, 3 * PAGE + 16, TABLE, WINDOW - 1, WINDOW, 1 << 32, 1 << 63, (1 << 64) - 16)
SIZES = (0, 1, 2, HEADER - 1, HEADER, 24, 48, 1524, 1525, 4096, WINDOW, 0xFFFFFFFF)
FLAGS = (0, NEXT, WRITE, NEXT | WRITE, INDIRECT, INDIRECT | NEXT, 0xFFFF)
PAIRS = {  # sizes of the two descriptors of a good chain, and their flags
    RX: ((1, HEADER, 16, 74), (60, 1514, 2000), NEXT | WRITE, WRITE),
    TX: ((4, HEADER, 24), (20, 60, 1514, 1515), NEXT, 0),
    CTRL: ((2, 3, 4), (1,), NEXT, WRITE),
}
ORDERS = st.one_of(
    st.binary(min_size=2, max_size=8), st.builds(bytes, st.lists(st.integers(0, 2), min_size=2, max_size=4))
)


def table(dice: Random, queue: int) -> list[Descriptor]:
    """Four good chains at 0, 2, 4 and 6; in one table of three a wild descriptor stands among them."""
    first, second, first_flags, second_flags = PAIRS[queue]
    made = []
    for head in range(0, NUM, 2):
        home = (dice.randrange(8 * PAGE, WINDOW - 2048) for _ in range(2))
        made.append(Descriptor(next(home), dice.choice(first), first_flags, head + 1))
        made.append(Descriptor(next(home), dice.choice(second), second_flags))
    if not dice.randrange(3):
        place = dice.choice((*PLACES, dice.randrange(WINDOW), dice.randrange(WINDOW)))
        wild = Descriptor(place, dice.choice(SIZES), dice.choice(FLAGS), dice.randrange(NUM + 1))
        made[dice.randrange(NUM)] = wild
    return made


def step(dice: Random) -> tuple[str, Any]:
    """What the guest, the far side or the machine does next: mostly kicks and frames."""
    queue = dice.choice((RX, TX, CTRL))
    match dice.choices(
        ("kick", "frame", "table", "odd kick", "jump", "pfn", "live", "reset"), (9, 9, 2, 1, 1, 1, 1, 1)
    )[0]:
        case "kick":
            return "kick", (queue, [dice.randrange(0, NUM, 2) for _ in range(dice.randrange(1, 3))])
        case "frame":
            return "frame", dice.choice((0, 13, 14, 60, 60, 1514, 1515))
        case "table":
            return "table", (queue, table(dice, queue))
        case "odd kick":
            return "kick", (queue, [dice.randrange(NUM + 1)])
        case "jump":
            return "jump", (queue, dice.choice((NUM, NUM + 1, dice.randrange(1 << 16))))
        case "pfn":
            return "pfn", (queue, dice.choice((1, 3, 5, 23, 24, 0xFFFFF, 0xFFFFFFFF)))
        case "live":
            return "live", dice.randrange(3) > 0
        case _:
            return "reset", None


@contextmanager
def small_card() -> Iterator[Card]:
    """A live card whose RAM is WINDOW bytes, LEAD bytes into its mapping, with its iothread."""
    card = Card()
    memory = card.memory.native.memory
    whole = memory.host, memory.bytes
    memory.host, memory.bytes = memory.host + LEAD, WINDOW
    os.pwrite(card.memory.fd, bytes([CANARY]) * MEMORY_BYTES, 0)
    give_rings(card)
    card.device.guest_features = Feature.INDIRECT_DESC
    card.far.setblocking(False)
    card.start()
    card.live()
    try:
        yield card
    finally:
        card.stop()
        memory.host, memory.bytes = whole
        card.close()


def give_rings(card: Card) -> None:
    """Three empty rings in the window."""
    for queue, page in RING_PAGES.items():
        card.rings[queue] = Ring(card.memory, NUM, page)
        card.memory.write(page * PAGE, bytes(2 * PAGE))
        lib.lk_queue_set_pfn(card.device, queue, page)


def surroundings(card: Card) -> bytes:
    """What lies around the window."""
    memory = os.pread(card.memory.fd, MEMORY_BYTES, 0)
    return memory[:LEAD] + memory[LEAD + WINDOW :]


def take(card: Card, what: str, argument: Any) -> None:
    """One step of the guest, of the far side or of the machine."""
    match what:
        case "tables":
            for queue, descriptors in argument.items():
                take(card, "table", (queue, descriptors))
        case "table":
            card.rings[argument[0]].put(argument[1])
            card.memory.write(TABLE, b"".join(descriptor.packed() for descriptor in argument[1][:3]))
        case "kick":
            card.rings[argument[0]].publish(*argument[1])
            card.run(argument[0])
        case "frame":
            card.far.send(frame(argument)[:argument])
        case "jump":
            card.rings[argument[0]].set_avail_idx(argument[1])
            card.run(argument[0])
        case "pfn":
            lib.lk_lock_take(card.memory.native)
            lib.lk_queue_set_pfn(card.device, *argument)
            lib.lk_lock_release(card.memory.native)
        case "live":
            card.live(argument)
        case "reset":
            card.reset()
            give_rings(card)


def settle(card: Card) -> None:
    """Until the iothread has nothing to do: what is watched has been read."""
    card.wait_for(lambda: not card.net.watched or not waiting(card))
    lib.lk_lock_take(card.memory.native)
    lib.lk_lock_release(card.memory.native)


def waiting(card: Card) -> bool:
    """Is there a frame in the cable?"""
    return bool(select.select([card.cable.fd], [], [], 0)[0])


def working_card(card: Card) -> None:
    """After all that and a reset a frame goes out and one comes in."""
    card.live(False)
    while waiting(card):
        os.read(card.cable.fd, 4096)
    while select.select([card.far], [], [], 0)[0]:
        card.far.recv(4096)
    card.reset()
    give_rings(card)
    card.live()
    at = 9 * PAGE
    card.memory.write(at, bytes(HEADER) + frame(60, fill=1))
    card.put(TX, [Descriptor(at, HEADER), Descriptor(at + HEADER, 60)])
    card.put(RX, [Descriptor(at + 2048, HEADER, WRITE), Descriptor(at + 2048 + HEADER, 1514, WRITE)])
    card.run(RX)
    card.run(TX)
    assert card.far.recv(4096) == frame(60, fill=1)
    card.far.send(frame(60, fill=2))
    card.wait_for(lambda: card.rings[RX].used_idx == 1)
    assert card.memory.read(at + 2048, HEADER + 60) == bytes(HEADER) + frame(60, fill=2)


@pytest.mark.slow
@deterministic
@given(dice=st.randoms(use_true_random=True))
def test_nothing_a_guest_writes_reaches_beyond_its_memory(dice: Random) -> None:
    """Any chains in any ring, frames in between: the memory around stays, and after a reset the card works."""
    tables = {queue: table(dice, queue) for queue in RING_PAGES}
    with small_card() as card:
        for what, argument in [("tables", tables), *(step(dice) for _ in range(20))]:
            take(card, what, argument)
            if what == "reset":
                take(card, "tables", tables)
            settle(card)
            assert not (card.device.broken and card.net.watched)
        working_card(card)
        assert surroundings(card) == AROUND  # what was written there at any time


@pytest.mark.slow
@deterministic
@given(data=st.binary(max_size=1600), order=ORDERS, cut=st.integers(1, 40))
def test_any_bytes_are_a_frame_or_an_order_or_nothing(data: bytes, order: bytes, cut: int) -> None:
    """Whatever a well-formed chain carries: used.len is right, and what went out is what was put in."""
    with closing(Card()) as card:
        at = card.buffer(TX, 0)
        whole = bytes(HEADER) + data
        card.memory.write(at, whole)
        sizes = [cut, len(whole) - cut] if cut < len(whole) else [len(whole)]
        parts = [Descriptor(at, sizes[0])] + [Descriptor(at + sizes[0], size) for size in sizes[1:]]
        card.put(TX, parts)
        card.run(TX)
        assert card.rings[TX].used_entry(0) == (0, 0)
        good = 14 <= len(data) <= 1514
        assert card.model.frames.sent == good
        if good:
            assert card.far.recv(4096) == data
        assert card.order(order) == (0 if order[0] == 0 and order[1] in (0, 1) and len(order) > 2 else 1)
