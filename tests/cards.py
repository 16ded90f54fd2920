"""A network card without a guest and without a CPU: the test is the driver, and holds the far end of the cable."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from rings import MEMORY_MIB, WRITE, Descriptor, Ring, chained

from labkit.abi import NUMBERS
from labkit.memory import GuestMemory
from labkit.native import ffi, lib
from labkit.trace.events import Event, Run
from labkit.trace.feed import Feed
from labkit.virtio.backends.cable import Cable
from labkit.virtio.backends.pcap import Capture
from labkit.virtio.devices.net import Net

RX, TX, CTRL = (NUMBERS[f"NET_{queue}"] for queue in ("RX", "TX", "CTRL"))
HEADER = NUMBERS["NET_HEADER_BYTES"]
FRAME_MAX = NUMBERS["NET_FRAME_MAX"]
MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525400abcdef")
NUM = 8
PFNS = {RX: 0x10, TX: 0x14, CTRL: 0x18}
BUFFERS = {RX: 0x40000, TX: 0x60000, CTRL: 0x80000}  # of queue q, chain n: BUFFERS[q] + n * STRIDE
STRIDE = 0x1000


def frame(size: int = 60, *, to: bytes = MAC, fill: int = 0xAB) -> bytes:
    """A frame of `size` bytes from OTHER."""
    return (to + OTHER + b"\x88\xb5").ljust(size, bytes([fill]))


class Card:
    """A net device of the C core with three rings of eight, its loop (not started), and the far end of its cable."""

    def __init__(self, *, cable: bool = True, capture: Capture | None = None) -> None:
        self.memory = GuestMemory(MEMORY_MIB)
        self.feed = Feed(self.memory.native)
        self.loop = lib.lk_loop_new(self.memory.native)
        self.device: Any = ffi.gc(lib.lk_device_new(self.memory.native, lib.DEVICE_NET), lib.lk_device_free)
        near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setblocking(False)
        self.far.settimeout(60)
        self.cable = Cable(near.detach(), "test", is_socket=True)
        self.model = Net(MAC, self.cable if cable else None, capture)
        self.model.attach(self.device)
        self.net = self.device.net
        self.rings = {queue: self.new_ring(queue) for queue in PFNS}

    def new_ring(self, queue: int) -> Ring:
        """An empty ring, given to the device as QUEUE_PFN does."""
        self.device.vq[queue].num = NUM
        ring = Ring(self.memory, NUM, PFNS[queue])
        self.memory.write(ring.desc, bytes(ring.used + 4 + 8 * NUM - ring.desc))
        lib.lk_queue_set_pfn(self.device, queue, PFNS[queue])
        return ring

    # -- the driver's hands --------------------------------------------------------------------------------------------

    def buffer(self, queue: int, chain: int) -> int:
        """Where chain number `chain` of a queue has its bytes."""
        return BUFFERS[queue] + chain * STRIDE

    def put(self, queue: int, parts: list[Descriptor], chain: int = 0) -> None:
        """A chain of at most two descriptors at 2 * `chain`, published."""
        self.rings[queue].put(chained(parts, 2 * chain), 2 * chain)
        self.rings[queue].publish(2 * chain)

    def post(self, size: int = FRAME_MAX, chain: int = 0) -> None:
        """A receive buffer for a frame of `size` bytes, header apart."""
        at = self.buffer(RX, chain)
        self.put(RX, [Descriptor(at, HEADER, WRITE), Descriptor(at + HEADER, size, WRITE)], chain)

    def post_and_kick(self, size: int = FRAME_MAX, chain: int = 0) -> None:
        """And tell the device."""
        self.post(size, chain)
        self.run(RX)

    def send(self, data: bytes, chain: int = 0) -> None:
        """A frame to send, header apart, and a kick."""
        at = self.buffer(TX, chain)
        self.memory.write(at, bytes(HEADER) + data)
        self.put(TX, [Descriptor(at, HEADER), Descriptor(at + HEADER, len(data))], chain)
        self.run(TX)

    def order(self, data: bytes) -> int:
        """An order to the control queue: the answer's byte."""
        at = self.buffer(CTRL, 0)
        self.memory.write(at, data + b"\xee")
        self.put(CTRL, [Descriptor(at, len(data)), Descriptor(at + len(data), 1, WRITE)])
        self.run(CTRL)
        return self.memory.read(at + len(data), 1)[0]

    def got(self, at: int) -> bytes:
        """The frame of completion number `at` of the receive queue, after a header of zeros."""
        head, written = self.rings[RX].used_entry(at)
        data = self.memory.read(self.buffer(RX, head // 2), written)
        assert data[:HEADER] == bytes(HEADER)
        return data[HEADER:]

    # -- the machine around --------------------------------------------------------------------------------------------

    def run(self, queue: int, how: int = Run.TRAP) -> int:
        """A kick."""
        lib.lk_lock_take(self.memory.native)
        try:
            return int(lib.lk_queue_run(self.device, queue, how))
        finally:
            lib.lk_lock_release(self.memory.native)

    def live(self, live: bool = True) -> None:
        """The machine runs and DRIVER_OK is set, or not."""
        lib.lk_lock_take(self.memory.native)
        self.model.follow(live)
        lib.lk_lock_release(self.memory.native)

    def reset(self) -> None:
        """A virtio reset."""
        lib.lk_lock_take(self.memory.native)
        lib.lk_device_reset(self.device)
        lib.lk_lock_release(self.memory.native)

    def start(self) -> None:
        """Start the iothread."""
        assert lib.lk_loop_start(self.loop, b"iothread") == 0

    def stop(self) -> None:
        """Stop it; what it was doing is done then."""
        lib.lk_loop_free(self.loop)

    def wait_for(self, happened: Callable[[], object]) -> None:
        """Until the iothread has done it; a test that waits in vain is ended by its own time limit."""
        while not happened():
            os.sched_yield()

    def wait_for_frames(self, count: int) -> None:
        """Until that many frames from the cable have gone somewhere, and the iothread has done with them."""
        self.wait_for(lambda: sum(self.net.frames[way] for way in (1, 3, 4)) >= count)
        lib.lk_lock_take(self.memory.native)
        lib.lk_lock_release(self.memory.native)

    def events(self, *names: str) -> list[Event]:
        """Events of these kinds."""
        return [event for event in self.feed.read()[0] if event.name in names]

    def close(self) -> None:
        """Stop, and give everything back."""
        if self.memory.native.loop:
            self.stop()
        self.far.close()
        self.feed.keep()
        self.memory.close()
        self.cable.close()
        self.model.close()
