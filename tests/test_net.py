"""Does a virtio-net card give its guest what it should, and send what the guest says? The C core, without a CPU."""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from cards import CTRL, FRAME_MAX, HEADER, MAC, NUM, OTHER, RX, TX, Card, frame
from frames import read_pcap
from rings import NO_INTERRUPT, WRITE, Descriptor, chained

from labkit.abi import NUMBERS
from labkit.native import lib
from labkit.virtio.backends.pcap import FILE_HEADER, RECORD_HEADER, open_capture
from labkit.virtio.devices.net import Frames

pytestmark = pytest.mark.usefixtures("leaves_nothing")

OK, ERR = NUMBERS["NET_CTRL_OK"], NUMBERS["NET_CTRL_ERR"]
CLASS_RX, PROMISC, ALLMULTI = (NUMBERS[f"NET_CTRL_{name}"] for name in ("CLASS_RX", "RX_PROMISC", "RX_ALLMULTI"))
BROADCAST = b"\xff" * 6
MULTICAST = bytes.fromhex("01005e000001")


@pytest.fixture
def card(leaves_nothing: None) -> Iterator[Card]:  # noqa: ARG001 - ordered around this one
    """A card with its cable; the iothread is not started."""
    card = Card()
    yield card
    card.close()


@pytest.fixture
def open_card(card: Card) -> Card:
    """A card that may give frames to its guest, with the iothread at work."""
    card.start()
    card.live()
    return card


# -- to the cable ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [14, 60, FRAME_MAX])
def test_a_frame_is_sent_without_its_header(card: Card, size: int) -> None:
    """What comes out of the cable is the frame and nothing else; the chain goes back with nothing written."""
    card.send(frame(size))
    assert card.far.recv(4096) == frame(size)
    assert card.rings[TX].used_entry(0) == (0, 0)
    assert card.model.frames == Frames(1, 0, 0, 0, 0, 0)
    assert [(e.queue, e["way"], e["bytes"]) for e in card.events("frame")] == [(TX, "sent", size)]


@pytest.mark.parametrize("cuts", [(), (3,), (HEADER,), (HEADER, 11), (1, 2, 3, 9, 12, 40)])
def test_a_frame_may_lie_in_any_pieces(card: Card, cuts: tuple[int, ...]) -> None:
    """Header and frame in one descriptor, or cut anywhere: the same frame goes out."""
    data, at = bytes(HEADER) + frame(60), card.buffer(TX, 0)
    card.memory.write(at, data)
    edges = [0, *cuts, len(data)]
    parts = [Descriptor(at + a, b - a) for a, b in itertools.pairwise(edges)]
    card.rings[TX].put(chained(parts))
    card.rings[TX].publish(0)
    card.run(TX)
    assert card.far.recv(4096) == frame(60)


def test_all_frames_of_a_kick_are_sent_in_order(card: Card) -> None:
    """One run takes the whole ring, with one interrupt at its end."""
    for chain in range(4):
        at = card.buffer(TX, chain)
        card.memory.write(at, bytes(HEADER) + frame(fill=chain))
        card.put(TX, [Descriptor(at, HEADER), Descriptor(at + HEADER, 60)], chain)
    card.run(TX)
    assert [card.far.recv(4096)[-1] for _ in range(4)] == [0, 1, 2, 3]
    assert (card.rings[TX].used_idx, card.device.vq[TX].interrupts) == (4, 1)


def test_a_driver_that_wants_no_interrupt_gets_none(card: Card) -> None:
    """NO_INTERRUPT in the ring of sent frames."""
    card.rings[TX].set_avail_flags(NO_INTERRUPT)
    card.send(frame())
    assert card.events("interrupt") == []


@pytest.mark.parametrize("size", [1, 13, FRAME_MAX + 1, 4000])
def test_what_is_no_frame_is_not_sent(card: Card, size: int) -> None:
    """Shorter than an Ethernet header or longer than a frame may be: dropped and counted, and the next one goes."""
    card.send(frame(size)[:size])
    card.send(frame(60))
    assert card.far.recv(4096) == frame(60)
    assert card.model.frames == Frames(1, 0, 1, 0, 0, 0)
    assert card.events("frame")[0]["way"] == "dropped_to_host"
    assert card.rings[TX].used_idx == 2


def test_a_cable_that_leads_nowhere_takes_nothing(leaves_nothing: None) -> None:  # noqa: ARG001
    """Without a cable every frame is dropped and counted, and the guest gets its chain back all the same."""
    card = Card(cable=False)
    card.send(frame())
    assert card.model.frames == Frames(0, 0, 1, 0, 0, 0)
    assert card.rings[TX].used_idx == 1
    card.close()


def test_a_full_cable_is_not_waited_for(card: Card) -> None:
    """A far side that takes nothing: the frames it has no room for are dropped, and the guest goes on."""
    while not card.model.frames.dropped_to_host:
        card.send(frame(FRAME_MAX))
    sent = card.model.frames.sent
    assert sent > NUM
    assert {len(card.far.recv(4096)) for _ in range(sent)} == {FRAME_MAX}
    card.send(frame(60))
    assert card.far.recv(4096) == frame(60)


def test_a_far_side_that_is_gone_hurts_nobody(card: Card) -> None:
    """The other machine has closed: what is sent is dropped, and nobody watches the cable any more."""
    card.start()
    card.post()
    card.far.close()
    card.live()
    card.wait_for(lambda: card.net.gone)
    card.send(frame())
    card.run(RX)
    assert card.model.frames == Frames(0, 0, 1, 0, 0, 0)
    assert not card.net.watched


def test_what_was_sent_before_the_far_side_went_still_comes(card: Card) -> None:
    """Frames in the cable outlive their sender, also one that has not read what we sent."""
    card.send(frame())
    card.far.send(frame(fill=1))
    card.far.send(frame(fill=2))
    card.far.close()
    card.post(chain=0)
    card.post(chain=1)
    card.post(chain=2)
    card.start()
    card.live()
    card.wait_for(lambda: card.net.gone)
    assert [card.got(n)[-1] for n in range(2)] == [1, 2]
    assert not card.net.watched


def test_a_stop_cuts_a_long_run_short(card: Card) -> None:
    """While the machine is being stopped a run ends after one frame, and says that it is not finished."""
    card.device.stopping = 1
    for chain in range(3):
        at = card.buffer(TX, chain)
        card.memory.write(at, bytes(HEADER) + frame())
        card.put(TX, [Descriptor(at, HEADER), Descriptor(at + HEADER, 60)], chain)
    card.run(TX)
    assert (card.rings[TX].used_idx, card.device.vq[TX].unfinished) == (1, 1)
    card.device.stopping = 0
    card.run(TX)
    assert (card.rings[TX].used_idx, card.device.vq[TX].unfinished) == (3, 0)


# -- to the guest ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [14, 60, FRAME_MAX])
def test_a_frame_reaches_the_guest_behind_a_header(open_card: Card, size: int) -> None:
    """Ten bytes of zeros, then the frame; used.len counts both, and nothing behind them is touched."""
    open_card.memory.write(open_card.buffer(RX, 0), b"\xee" * 2048)
    open_card.post_and_kick()
    open_card.far.send(frame(size))
    open_card.wait_for_frames(1)
    assert open_card.got(0) == frame(size)
    assert open_card.rings[RX].used_entry(0) == (0, HEADER + size)
    assert set(open_card.memory.read(open_card.buffer(RX, 0) + HEADER + size, 100)) == {0xEE}
    assert open_card.model.frames == Frames(0, 1, 0, 0, 0, 0)


def test_a_frame_is_no_kick(open_card: Card) -> None:
    """R14: queue_notify is a kick's; a frame that came by itself is its own event, by the iothread."""
    open_card.post_and_kick()
    open_card.far.send(frame())
    open_card.wait_for_frames(1)
    assert [e.actor for e in open_card.events("queue_notify")] == ["host"]
    assert [(e.actor, e.queue, e["way"]) for e in open_card.events("frame")] == [("iothread", RX, "received")]
    assert [e.queue for e in open_card.events("interrupt")] == [RX]


@pytest.mark.parametrize("sizes", [(HEADER + 60,), (4, 6, 60), (HEADER, 1, 1, 58), (3, 10, 57, 2000)])
def test_a_buffer_may_lie_in_any_pieces(open_card: Card, sizes: tuple[int, ...]) -> None:
    """One descriptor for all, or cut anywhere: header and frame fill them in order."""
    at, parts = open_card.buffer(RX, 0), []
    for size in sizes:
        parts.append(Descriptor(at, size, WRITE))
        at += size
    open_card.rings[RX].put(chained(parts))
    open_card.rings[RX].publish(0)
    open_card.run(RX)
    open_card.far.send(frame(60))
    open_card.wait_for_frames(1)
    assert open_card.got(0) == frame(60)


def test_nothing_comes_before_the_guest_may_have_it(card: Card) -> None:
    """Not running, or without DRIVER_OK: the frame stays in the cable, and comes when both are there."""
    card.start()
    card.post_and_kick()
    card.far.send(frame())
    assert not card.net.watched
    before = card.memory.read(0, card.memory.size_bytes)
    card.live()
    card.wait_for_frames(1)
    assert card.got(0) == frame()
    card.live(False)
    assert not card.net.watched
    assert before != card.memory.read(0, card.memory.size_bytes)


def test_without_a_buffer_the_cable_is_left_alone(open_card: Card) -> None:
    """Three frames, two buffers: the third waits in the cable, unwatched, until a kick brings a buffer."""
    open_card.post(chain=0)
    open_card.post_and_kick(chain=1)
    for fill in range(3):
        open_card.far.send(frame(fill=fill))
    open_card.wait_for(lambda: open_card.rings[RX].used_idx == 2 and not open_card.net.watched)
    assert open_card.model.frames == Frames(0, 2, 0, 0, 0, 0)
    open_card.post_and_kick(chain=2)
    open_card.wait_for_frames(3)
    assert [open_card.got(n)[-1] for n in range(3)] == [0, 1, 2]


def test_nobody_spins_on_a_frame_that_cannot_be_given(open_card: Card) -> None:
    """With a frame waiting and no buffer the iothread sleeps: only what is watched wakes it."""
    open_card.far.send(frame())
    open_card.run(RX)
    assert not open_card.net.watched
    before = lib.lk_loop_wakeups(open_card.loop)
    open_card.run(TX)
    open_card.run(RX)
    assert lib.lk_loop_wakeups(open_card.loop) == before


@pytest.mark.parametrize("size", [0, 1, 13, FRAME_MAX + 1, 9000])
def test_what_is_no_frame_is_not_given(open_card: Card, size: int) -> None:
    """Too short for an Ethernet header, or too long: dropped and counted; the buffer takes the next one."""
    open_card.post_and_kick(4000)
    open_card.far.send(bytes(size))
    open_card.far.send(frame(60))
    open_card.wait_for_frames(2)
    assert open_card.got(0) == frame(60)
    assert open_card.model.frames == Frames(0, 1, 0, 1, 0, 0)


def test_a_buffer_too_small_for_a_frame_keeps_for_a_smaller_one(open_card: Card) -> None:
    """The frame is dropped whole, nothing of it is written, and the buffer is still the guest's next."""
    open_card.memory.write(open_card.buffer(RX, 0), b"\xee" * 200)
    open_card.post_and_kick(99)
    open_card.far.send(frame(100))
    open_card.wait_for_frames(1)
    assert set(open_card.memory.read(open_card.buffer(RX, 0), 200)) == {0xEE}
    open_card.far.send(frame(99))
    open_card.wait_for_frames(2)
    assert open_card.got(0) == frame(99)
    assert open_card.model.frames == Frames(0, 1, 0, 1, 0, 0)
    assert open_card.device.vq[RX].inuse == 0


def test_many_frames_wrap_the_ring(open_card: Card) -> None:
    """Buffers used again and again, ten times round the ring: each frame in its place."""
    for number in range(10 * NUM):
        open_card.post_and_kick(chain=number % 4)
        open_card.far.send(frame(fill=number))
        open_card.wait_for_frames(number + 1)
        assert open_card.got(number)[-1] == number


# -- whom the guest hears ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("promiscuous", "all_multicast", "heard"),
    [
        (1, 0, {"own", "other", "broadcast", "multicast"}),
        (0, 0, {"own", "broadcast"}),
        (0, 1, {"own", "broadcast", "multicast"}),
    ],
)
def test_the_guest_hears_what_it_asked_for(
    open_card: Card, promiscuous: int, all_multicast: int, heard: set[str]
) -> None:
    """Unicast to others only when promiscuous, multicast when it is asked for, broadcast and one's own always."""
    assert open_card.order(bytes([CLASS_RX, PROMISC, promiscuous])) == OK
    assert open_card.order(bytes([CLASS_RX, ALLMULTI, all_multicast])) == OK
    for chain in range(4):
        open_card.post(chain=chain)
    open_card.run(RX)
    senders = {"own": MAC, "other": OTHER, "broadcast": BROADCAST, "multicast": MULTICAST}
    for to in senders.values():
        open_card.far.send(frame(to=to))
    open_card.wait_for_frames(4)
    assert [open_card.got(n)[:6] for n in range(len(heard))] == [to for name, to in senders.items() if name in heard]
    assert open_card.model.frames == Frames(0, len(heard), 0, 0, 4 - len(heard), 0)


def test_after_a_reset_the_card_hears_all(open_card: Card) -> None:
    """Promiscuous on, all multicast off: what a driver asked for before is forgotten."""
    open_card.order(bytes([CLASS_RX, PROMISC, 0]))
    open_card.order(bytes([CLASS_RX, ALLMULTI, 1]))
    open_card.reset()
    assert (open_card.net.promiscuous, open_card.net.all_multicast) == (1, 0)
    assert not open_card.net.watched


@pytest.mark.parametrize(
    ("order", "answer"),
    [
        (bytes([CLASS_RX, PROMISC, 1]), OK),
        (bytes([CLASS_RX, ALLMULTI, 7]), OK),
        (bytes([CLASS_RX, PROMISC]), ERR),  # on or off?
        (bytes([CLASS_RX, 2, 1]), ERR),
        (bytes([1, 0, 0]), ERR),  # the table of addresses is not offered
        (bytes([0xFF, 0xFF, 0xFF]), ERR),
        (bytes([CLASS_RX, PROMISC, 1]) + bytes(100), OK),
    ],
)
def test_an_order_is_answered(card: Card, order: bytes, answer: int) -> None:
    """OK for what the card can do, ERR for anything else; one byte is written."""
    assert card.order(order) == answer
    assert card.rings[CTRL].used_entry(0) == (0, 1)
    assert not card.device.broken


# -- guests that break their rings -------------------------------------------------------------------------------------

SHORT = HEADER - 1
HOSTILE = {
    "tx without room for a header": (TX, [Descriptor(0x60000, SHORT)]),
    "tx that the device would have to write": (TX, [Descriptor(0x60000, 100, WRITE)]),
    "rx without room for a header": (RX, [Descriptor(0x40000, SHORT, WRITE)]),
    "rx that the device cannot write": (RX, [Descriptor(0x40000, 2000)]),
    "an order without a command": (CTRL, [Descriptor(0x80000, 1), Descriptor(0x80001, 1, WRITE)]),
    "an order without room for the answer": (CTRL, [Descriptor(0x80000, 3)]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_chain_that_cannot_be_meant_breaks_the_device(open_card: Card, name: str) -> None:
    """The device says why, leaves the cable alone until it is reset, and works again then."""
    queue, parts = HOSTILE[name]
    if queue != RX:
        open_card.post_and_kick()
        assert open_card.net.watched
    open_card.put(queue, parts)
    open_card.run(queue)
    open_card.far.send(frame())
    open_card.wait_for(lambda: open_card.device.broken)
    open_card.wait_for(lambda: not open_card.net.watched)
    assert [e["reason"] for e in open_card.events("broken")] == ["request_header"]
    assert open_card.run(queue) == 0

    open_card.reset()
    open_card.rings = {number: open_card.new_ring(number) for number in open_card.rings}
    open_card.post(chain=0)
    open_card.post_and_kick(chain=1)
    open_card.far.send(frame(fill=9))
    came = [] if queue == RX else [0xAB]  # the first one was not even read, or dropped at the broken chain
    open_card.wait_for(lambda: open_card.rings[RX].used_idx == len([*came, 9]))
    assert [open_card.got(n)[-1] for n in range(len(came) + 1)] == [*came, 9]


@pytest.mark.parametrize("queue", [RX, TX, CTRL])
def test_a_ring_that_jumped_breaks_the_device(open_card: Card, queue: int) -> None:
    """avail.idx past the ring's size: broken, whichever queue it is, and the cable is left alone."""
    open_card.rings[queue].set_avail_idx(NUM + 1)
    open_card.run(queue)
    open_card.far.send(frame())
    open_card.wait_for(lambda: open_card.device.broken and not open_card.net.watched)
    assert [e["reason"] for e in open_card.events("broken")] == ["avail_jumped"]


def test_a_ring_outside_memory_breaks_the_device(open_card: Card) -> None:
    """The ring of received frames lies nowhere: the kick says so, and nothing is watched."""
    lib.lk_queue_set_pfn(open_card.device, RX, 0xFFFFFF)
    open_card.run(RX)
    assert [e["reason"] for e in open_card.events("broken")] == ["ring_outside"]
    assert not open_card.net.watched


def test_a_queue_that_is_not_there_is_nothing(open_card: Card) -> None:
    """A ring given to queue 5, and a kick of it: looked at, and left alone."""
    lib.lk_queue_set_pfn(open_card.device, 5, 0x10)
    open_card.post()
    open_card.run(5)
    assert not open_card.device.broken


# -- the capture -------------------------------------------------------------------------------------------------------


def test_frames_both_ways_are_in_the_capture(tmp_path: Path) -> None:
    """In order and whole; what was in the file before is gone; frames that nobody took are there."""
    path = tmp_path / "lab.pcap"
    path.write_bytes(b"something else" * 100)
    card = Card(capture=open_capture(path))
    card.start()
    card.live()
    card.send(frame(60, fill=1))
    card.post_and_kick()
    card.far.send(frame(FRAME_MAX, fill=2))
    card.wait_for_frames(1)
    card.far.close()
    card.send(frame(14))
    card.send(bytes(5))
    card.close()
    assert read_pcap(path) == [frame(60, fill=1), frame(FRAME_MAX, fill=2), frame(14)]


def test_a_capture_that_cannot_grow_loses_whole_frames_only(tmp_path: Path) -> None:
    """A full disk in the middle of a record: the guest goes on, the loss is counted, and the file stays readable."""
    path = tmp_path / "lab.pcap"
    card = Card(capture=open_capture(path))
    card.send(frame(60, fill=1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    one_record = FILE_HEADER.size + RECORD_HEADER.size + 60
    resource.setrlimit(resource.RLIMIT_FSIZE, (one_record + RECORD_HEADER.size + 10, hard))
    try:
        card.send(frame(60, fill=2))
        card.send(frame(60, fill=3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.stat(path).st_size == one_record
    card.send(frame(60, fill=4))
    assert [card.far.recv(4096)[-1] for _ in range(4)] == [1, 2, 3, 4]
    assert card.model.frames == Frames(4, 0, 0, 0, 0, 2)
    assert "not in the pcap" in " ".join(card.model.values())
    card.close()
    assert [data[-1] for data in read_pcap(path)] == [1, 4]
