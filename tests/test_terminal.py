"""What does a console do with the chains of a hostile guest? Written by hand; no guest, no machine, no KVM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from rings import DATA, DATA_STRIDE, MEMORY_BYTES, MEMORY_MIB, WRITE, Descriptor, Ring, chained

from labkit.abi import NUMBERS
from labkit.memory import GuestMemory
from labkit.native import ffi, lib
from labkit.trace.events import Run
from labkit.trace.feed import Feed
from labkit.virtio.devices.console import Console

INPUT, OUTPUT = NUMBERS["CONSOLE_INPUT"], NUMBERS["CONSOLE_OUTPUT"]


class Rig:
    """A console with both queues on 1 MiB of guest memory; the test is the driver."""

    def __init__(self) -> None:
        self.memory = GuestMemory(MEMORY_MIB)
        self.feed = Feed(self.memory.native)
        self.device: Any = ffi.gc(lib.lk_device_new(self.memory.native, lib.DEVICE_CONSOLE), lib.lk_device_free)
        self.console = Console()
        self.console.attach(self.device)
        self.rings = []
        for queue in (INPUT, OUTPUT):
            self.device.vq[queue].num = 8
            self.rings.append(Ring(self.memory, 8, 0x10 + 2 * queue))
            lib.lk_queue_set_pfn(self.device, queue, self.rings[queue].pfn)

    def offer(self, queue: int, *parts: Descriptor) -> None:
        """A chain at descriptor 0, and a kick."""
        self.rings[queue].put(chained(parts))
        self.rings[queue].publish(0)
        self.kick(queue)

    def kick(self, queue: int) -> None:
        """The device looks at the queue."""
        lib.lk_lock_take(self.memory.native)
        lib.lk_queue_run(self.device, queue, Run.TRAP)
        lib.lk_lock_release(self.memory.native)

    def type(self, text: bytes) -> int:
        """0, or why not."""
        return int(lib.lk_terminal_type(self.console.terminal, text, len(text)))

    def output(self) -> bytes:
        """What can be read of what was written."""
        most = lib.TERMINAL_OUTPUT_MAX
        first, out = max(0, self.written() - most), ffi.new("char[]", most)
        return bytes(ffi.buffer(out, lib.lk_terminal_read(self.console.terminal, first, out, most)))

    def written(self) -> int:
        """Bytes, ever."""
        return int(lib.lk_terminal_written(self.console.terminal))

    def close(self) -> None:
        """Give everything back."""
        self.feed.keep()
        self.console.close()
        self.memory.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A console of its own for each test."""
    made = Rig()
    yield made
    made.close()


def test_output_in_pieces_is_put_together(rig: Rig) -> None:
    """A chain of several descriptors is one text; room to write in it is left alone."""
    rig.memory.write(DATA, b"abcdef")
    rig.offer(OUTPUT, Descriptor(DATA, 1), Descriptor(DATA + 1, 2), Descriptor(DATA + 3, 3), Descriptor(DATA, 6, WRITE))
    assert rig.output() == b"abcdef"
    assert rig.rings[OUTPUT].used_entry(0) == (0, 0)


def test_the_newest_output_is_kept(rig: Rig) -> None:
    """More than fits: the end of it stays, whole and in order, and the beginning cannot be read any more."""
    piece = bytes(range(251)) * 300
    rig.memory.write(DATA, piece)
    for _ in range(20):
        rig.offer(OUTPUT, Descriptor(DATA, len(piece)))
    everything = piece * 20
    assert rig.written() == len(everything) > lib.TERMINAL_OUTPUT_MAX
    assert rig.output() == everything[-lib.TERMINAL_OUTPUT_MAX :]
    out = ffi.new("char[]", 1)
    assert lib.lk_terminal_read(rig.console.terminal, 0, out, 1) == 0


def test_a_chain_that_names_all_memory_again_and_again(rig: Rig) -> None:
    """Eight times the whole of memory: counted whole, its newest MiB kept, and nothing else touched."""
    rig.memory.write(DATA, b"marker")
    rig.offer(OUTPUT, *[Descriptor(0, MEMORY_BYTES)] * 7, Descriptor(DATA, 6))
    assert rig.written() == 7 * MEMORY_BYTES + 6
    assert rig.output()[-6:] == b"marker"
    assert len(rig.output()) == lib.TERMINAL_OUTPUT_MAX


def test_input_fills_the_pieces_in_order(rig: Rig) -> None:
    """What is typed is spread over the writable parts; what the chain lets the device read is not touched."""
    rig.memory.write(DATA, b"........")
    assert rig.type(b"xyz") == 0
    rig.offer(INPUT, Descriptor(DATA, 2), Descriptor(DATA + 2, 1, WRITE), Descriptor(DATA + 4, 4, WRITE))
    assert rig.memory.read(DATA, 8) == b"..x.yz.."
    assert rig.rings[INPUT].used_entry(0) == (0, 3)


def test_an_input_chain_without_room_comes_back_empty(rig: Rig) -> None:
    """A driver that posts a buffer it lets nobody write to gets it back with 0 bytes, and nothing typed is lost."""
    assert rig.type(b"kept") == 0
    rig.offer(INPUT, Descriptor(DATA, 4))
    assert rig.rings[INPUT].used_entry(0) == (0, 0)
    rig.offer(INPUT, Descriptor(DATA + DATA_STRIDE, 9, WRITE))
    assert rig.memory.read(DATA + DATA_STRIDE, 4) == b"kept"


def test_input_wraps_around_its_buffer(rig: Rig) -> None:
    """After more than 64 KiB in all the bytes still come out as they were typed."""
    for turn in range(5):
        text = bytes([65 + turn]) * 20000 + b"|"
        assert rig.type(text) == 0
        rig.offer(INPUT, Descriptor(0x80000, 0x10000, WRITE))
        assert rig.memory.read(0x80000, len(text)) == text
    assert rig.type(b"x" * (lib.TERMINAL_INPUT_MAX + 1)) < 0


@pytest.mark.parametrize("queue", [INPUT, OUTPUT])
def test_a_broken_ring_breaks_the_console_until_reset(rig: Rig, queue: int) -> None:
    """A buffer outside memory: broken, nothing given back, nothing typed lost; a reset mends it."""
    assert rig.type(b"safe") == 0
    rig.offer(queue, Descriptor(MEMORY_BYTES, 16, WRITE if queue == INPUT else 0))
    assert rig.device.broken
    assert (rig.rings[queue].used_idx, rig.written()) == (0, 0)
    assert lib.lk_terminal_waiting(rig.console.terminal) == 4
    lib.lk_device_reset(rig.device)
    assert not rig.device.broken


def test_a_queue_that_is_not_there_is_looked_at_and_left(rig: Rig) -> None:
    """A ring given to a queue without a size, and kicked: nothing comes of it."""
    rig.type(b"x")
    lib.lk_queue_set_pfn(rig.device, 5, 0x30)
    rig.kick(5)
    assert not rig.device.broken
    assert lib.lk_terminal_waiting(rig.console.terminal) == 1
