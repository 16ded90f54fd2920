"""What do other people's tests ask of a virtio-net device? Their checklist, a line a test: two guests on a cable."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

import labkit
from labkit import Machine
from labkit.abi import NUMBERS
from labkit.answers import Added

Boot = Callable[..., Machine]
RX, TX = NUMBERS["NET_RX"], NUMBERS["NET_TX"]
HEADER = bytes(NUMBERS["NET_HEADER_BYTES"])
ROOM = len(HEADER) + NUMBERS["NET_FRAME_MAX"] + 1  # for the longest frame, and a byte that none reaches
UNTOUCHED = b"\xee"
TO_EVERYONE = b"\xff" * NUMBERS["MAC_BYTES"] + bytes.fromhex("525400000002") + b"\x88\xb5"
FRAME = TO_EVERYONE + bytes(range(46))


class Pair(NamedTuple):
    """Two machines at the ends of one cable, their drivers up and no buffer posted."""

    sender: Machine
    receiver: Machine

    def post(self) -> Added:
        """Room for one frame, in the receiver's receive queue."""
        added = self.receiver.guest.add_buffers(RX, receive_bytes=ROOM)
        self.receiver.memory.write(added.buffer_gpa, UNTOUCHED * ROOM)
        self.receiver.guest.publish(RX)
        self.receiver.guest.kick(RX)
        return added

    def send(self, frame: bytes = FRAME) -> None:
        """From the sender's transmit queue, and it is done."""
        assert self.sender.guest.exchange(HEADER + frame, queue=TX) == b""

    def received(self, added: Added) -> bytes:
        """What the receiver's guest finds in that buffer when it is given back."""
        done = self.receiver.guest.wait(RX)
        assert done.head == added.head
        data = self.receiver.memory.read(added.buffer_gpa, done.used_len)
        assert data.startswith(HEADER)
        return data[len(HEADER) :]


@pytest.fixture(params=[False, True], ids=["trap", "eventfd"])
def pair(boot: Boot, request: pytest.FixtureRequest) -> Pair:
    """The two, with their kicks by trap and by eventfd."""
    first, second = labkit.link()
    return Pair(*(boot("net", net=end, ioeventfd=request.param) for end in (first, second)))


def test_send(pair: Pair) -> None:
    """virtio-net: send: the buffer comes back, and the frame is on the cable as the guest wrote it, counted once."""
    added = pair.post()
    pair.send()
    assert pair.received(added) == FRAME
    assert pair.sender.proxy.model.frames == (1, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("size", [14, 60, 1514])
def test_receive(pair: Pair, size: int) -> None:
    """virtio-net: receive: a frame of any length fills the posted buffer no further than it reaches."""
    frame = (TO_EVERYONE + b"x" * size)[:size]
    added = pair.post()
    pair.send(frame)
    assert pair.received(added) == frame
    assert pair.receiver.memory.read(added.buffer_gpa + len(HEADER) + size, 1) == UNTOUCHED
    assert pair.receiver.proxy.model.frames == (0, 1, 0, 0, 0, 0)


def test_receive_while_stopped(pair: Pair) -> None:
    """virtio-net: rx while stopped, then cont: a frame for a stopped machine waits in the cable and comes with cont."""
    added = pair.post()
    pair.receiver.pause()
    pair.send()
    assert pair.receiver.memory.read(added.buffer_gpa, ROOM) == UNTOUCHED * ROOM
    assert pair.receiver.proxy.model.frames.received == 0
    pair.receiver.resume()
    assert pair.received(added) == FRAME
