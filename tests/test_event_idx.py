"""Who wants to hear of what, and when? EVENT_IDX and the older flags, with the test as the driver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from rings import MEMORY_BYTES, NO_INTERRUPT, Rig, Ring

from labkit.abi import NUMBERS, BlkType, Feature
from labkit.native import lib

pytestmark = pytest.mark.usefixtures("leaves_nothing")

NO_NOTIFY = NUMBERS["USED_NO_NOTIFY"]
QUEUE = 8
LAPS = 65536
PUBLISHED, IN_FLIGHT = 2000, 2


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A RAM disk behind a queue of 8, EVENT_IDX accepted."""
    with closing(Rig(num=QUEUE)) as rig:
        rig.accept(Feature.EVENT_IDX)
        yield rig


@pytest.fixture
def plain() -> Iterator[Rig]:
    """The same without it."""
    with closing(Rig(num=QUEUE)) as rig:
        yield rig


def at_idx(rig: Rig, idx: int) -> None:
    """Both sides have come to `idx`, with nothing in the ring."""
    rig.vq.last_avail = rig.vq.used_idx = rig.ring.idx = idx
    rig.ring.set_avail_idx(idx)


def interrupts(rig: Rig, times: int) -> list[bool]:
    """Serve that many requests one by one; did the completion interrupt?"""
    said = []
    for _ in range(times):
        before = rig.vq.interrupts
        rig.serve(rig.request(BlkType.FLUSH, size=0))
        said.append(rig.vq.interrupts > before)
    return said


def wants_kick(ring: Ring, before: int) -> bool:
    """What a driver decides after it has moved avail.idx from `before`: did it pass avail_event?"""
    return (ring.avail_event - before) % LAPS < (ring.idx - before) % LAPS


# -- interrupts by used_event ------------------------------------------------------------------------------------------


def test_the_first_completion_always_interrupts(rig: Rig) -> None:
    """After a reset nothing is known of the past: the device interrupts once, whatever used_event says."""
    rig.ring.set_used_event(1000)
    assert interrupts(rig, 3) == [True, False, False]


def test_used_event_2_means_the_third(rig: Rig) -> None:
    """With used_event = 2 the second completion is silent and the third interrupts; then it is silent again."""
    rig.ring.set_used_event(2)
    assert interrupts(rig, 5) == [True, False, True, False, False]


def test_one_run_past_used_event_interrupts_once(rig: Rig) -> None:
    """Several completions in one run are one decision, on whether the run passed used_event."""
    interrupts(rig, 1)
    rig.ring.set_used_event(2)
    for completions, expected in ((3, True), (3, False)):
        before = rig.vq.interrupts
        rig.serve(*(rig.request(BlkType.FLUSH, size=0, slot=slot % 2) for slot in range(completions)))
        assert (rig.vq.interrupts > before) is expected


@pytest.mark.parametrize("start", [65533, 65534, 65535, 0, 32767])
@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_used_event_is_compared_modulo_65536(rig: Rig, start: int, ahead: int) -> None:
    """From wherever used.idx stands: the completion that passes used_event interrupts, and no other."""
    at_idx(rig, (start - 1) % LAPS)
    interrupts(rig, 1)
    rig.ring.set_used_event((start + ahead) % LAPS)
    assert interrupts(rig, 4) == [n == ahead for n in range(4)]


def test_more_than_half_way_round_without_a_decision_interrupts(rig: Rig) -> None:
    """A driver that never lets the ring run empty: before and after cannot be told apart, so the device interrupts."""
    interrupts(rig, 1)
    rig.ring.set_used_event(rig.vq.used_idx - 1)
    rig.vq.used_idx = (rig.vq.decided_at + 0x8000) % LAPS - 1
    assert interrupts(rig, 2) == [True, False]


def test_avail_flags_do_not_count_with_event_idx(rig: Rig) -> None:
    """NO_INTERRUPT is the older way to say it: with EVENT_IDX accepted it is ignored."""
    rig.ring.set_avail_flags(NO_INTERRUPT)
    rig.ring.set_used_event(1)
    assert interrupts(rig, 3) == [True, True, False]


def test_used_event_does_not_count_without_event_idx(plain: Rig) -> None:
    """The word behind the avail ring means nothing to a device that was not told of it."""
    plain.ring.set_used_event(1000)
    assert interrupts(plain, 3) == [True] * 3


def test_notify_on_empty_stands_beside_event_idx(rig: Rig) -> None:
    """Both accepted: an emptied ring interrupts, whatever used_event says, and the decision is not used up by it."""
    rig.accept(Feature.EVENT_IDX, Feature.NOTIFY_ON_EMPTY)
    rig.ring.set_used_event(1000)
    assert interrupts(rig, 3) == [True] * 3
    assert not rig.vq.decided


@pytest.mark.parametrize("forget", [lambda rig: lib.lk_device_reset(rig.device), lambda _: None])
def test_a_new_ring_begins_anew(rig: Rig, forget: Callable[[Rig], None]) -> None:
    """After a reset, or a new ring alone, the first completion interrupts again."""
    interrupts(rig, 2)
    forget(rig)
    rig.accept(Feature.EVENT_IDX)
    rig.ring = rig.new_ring()
    rig.ring.set_used_event(1000)
    assert interrupts(rig, 2) == [True, False]


# -- kicks by avail_event ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suppress", [0, 1])
@pytest.mark.parametrize("start", [0, 65534, 65535])
def test_an_emptied_ring_asks_for_the_next_kick(rig: Rig, suppress: int, start: int) -> None:
    """avail_event names the next entry: the driver kicks for it, whether it publishes one or several at once."""
    rig.device.suppress = suppress
    at_idx(rig, start)
    for published in (1, 3, 2):
        heads = [rig.request(BlkType.FLUSH, size=0, slot=slot) for slot in range(published) if slot < 2] * 2
        rig.serve(*heads[:published])
        assert rig.ring.avail_event == rig.ring.idx == rig.vq.last_avail
        before = rig.ring.idx
        rig.ring.publish(heads[0])
        assert wants_kick(rig.ring, before)
        rig.run()


def test_a_kick_without_work_asks_again(rig: Rig) -> None:
    """A run that finds nothing leaves avail_event at the next entry."""
    at_idx(rig, 5)
    rig.run()
    assert rig.ring.avail_event == 5


@pytest.mark.parametrize(("suppress", "behind"), [(0, 1), (1, 0)])
def test_while_it_drains_the_device_asks_or_not(rig: Rig, suppress: int, behind: int) -> None:
    """Cut short after one of two: avail_event follows each entry taken, or with suppression stays where it was."""
    rig.device.suppress, rig.device.stopping = suppress, 1
    rig.serve(*[rig.request(BlkType.FLUSH, size=0)] * 2)
    assert (rig.vq.last_avail, rig.ring.avail_event) == (1, behind)
    before = rig.ring.idx
    rig.ring.publish(0)
    assert not wants_kick(rig.ring, before), "the device comes to it by itself"
    rig.device.stopping = 0
    rig.run()
    assert rig.ring.avail_event == rig.ring.used_idx == 3


def test_event_idx_leaves_the_flags_alone(rig: Rig) -> None:
    """With EVENT_IDX the device writes no used.flags, suppression or not."""
    rig.device.suppress = rig.device.stopping = 1
    rig.serve(*[rig.request(BlkType.FLUSH, size=0)] * 2)
    assert (rig.ring.used_idx, rig.ring.used_flags) == (1, 0)


@pytest.mark.parametrize("suppress", [0, 1])
def test_without_event_idx_nothing_stands_behind_the_used_ring(plain: Rig, suppress: int) -> None:
    """The word behind the used ring is the driver's own as long as EVENT_IDX was not accepted."""
    plain.device.suppress = suppress
    at = plain.ring.used + 4 + 8 * QUEUE
    plain.memory.write(at, b"mine")
    interrupts(plain, 3)
    assert plain.memory.read(at, 4) == b"mine"


# -- the older suppression: used.flags ---------------------------------------------------------------------------------


def test_without_suppression_the_flags_are_never_written(plain: Rig) -> None:
    """Off, as before: used.flags stay as the driver initialised them."""
    plain.device.stopping = 1
    plain.serve(*[plain.request(BlkType.FLUSH, size=0)] * 2)
    assert (plain.ring.used_idx, plain.ring.used_flags) == (1, 0)


def test_a_draining_device_asks_for_no_kicks(plain: Rig) -> None:
    """NO_NOTIFY while the ring is being drained; once it is empty kicks are wanted again."""
    plain.device.suppress = plain.device.stopping = 1
    plain.serve(*[plain.request(BlkType.FLUSH, size=0)] * 2)
    assert (plain.ring.used_idx, plain.ring.used_flags) == (1, NO_NOTIFY)
    plain.device.stopping = 0
    plain.run()
    assert (plain.ring.used_idx, plain.ring.used_flags) == (2, 0)


def test_kicks_are_wanted_before_the_ring_is_given_up(plain: Rig) -> None:
    """A run that finds nothing withdraws a NO_NOTIFY that was left behind: a migration may bring such a ring."""
    plain.device.suppress = 1
    plain.memory.write(plain.ring.used, bytes([NO_NOTIFY, 0]))
    plain.run()
    assert plain.ring.used_flags == 0


@pytest.mark.parametrize("accepted", [(), (Feature.EVENT_IDX,)])
def test_a_ring_that_is_not_the_devices_is_not_written(plain: Rig, accepted: tuple[Feature, ...]) -> None:
    """A broken device, and one that was reset, write neither flags nor avail_event."""
    plain.accept(*accepted)
    plain.device.suppress, plain.device.broken = 1, 1
    plain.ring.publish(plain.request(BlkType.FLUSH, size=0))
    before = plain.memory.read(0, MEMORY_BYTES)
    plain.run()
    lib.lk_device_reset(plain.device)
    plain.run()
    assert plain.memory.read(0, MEMORY_BYTES) == before


def test_a_reset_keeps_the_suppression(plain: Rig) -> None:
    """It is the revision's choice and not the driver's."""
    plain.device.suppress = 1
    lib.lk_device_reset(plain.device)
    assert plain.device.suppress == 1


@pytest.mark.parametrize("accepted", [(), (Feature.EVENT_IDX,)])
def test_no_request_is_left_behind_while_both_sides_run(plain: Rig, accepted: tuple[Feature, ...]) -> None:
    """A driver that kicks only when asked, beside a device that drains: whatever is published comes back.

    A request is published each time while the one before may still be served, which is when a kick can be lost.
    """
    plain.accept(*accepted)
    plain.device.suppress = 1
    head = plain.request(BlkType.FLUSH, size=0)
    kick, over = threading.Semaphore(0), threading.Event()

    def device() -> None:
        while kick.acquire() and not over.is_set():
            plain.run()

    thread = threading.Thread(target=device)
    thread.start()
    try:
        for done in range(PUBLISHED):
            before = plain.ring.idx
            plain.ring.publish(head)
            if wants_kick(plain.ring, before) if accepted else not plain.ring.used_flags & NO_NOTIFY:
                kick.release()
            while (plain.ring.idx - plain.ring.used_idx) % LAPS >= IN_FLIGHT:
                assert not plain.device.broken, f"after {done}"
    finally:
        over.set()
        kick.release()
        thread.join()
