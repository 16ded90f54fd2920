"""What does a driver put into a ring? The split ring of the legacy layout and blk requests, written by hand.

There is no guest and no CPU here: `Rig` is a device of the C core on a little guest memory, and the test is the driver.
The layout is computed from its description (two tables on two pages, little-endian), not taken from the C core.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit.abi import NUMBERS, BlkType, Feature
from labkit.memory import GuestMemory
from labkit.native import ffi, lib
from labkit.trace.events import Event, Run
from labkit.trace.feed import Feed
from labkit.virtio.backends.image import Image, ram_disk
from labkit.virtio.devices.blk import Blk

NEXT, WRITE, INDIRECT = (NUMBERS[f"DESC_{flag}"] for flag in ("NEXT", "WRITE", "INDIRECT"))
NO_INTERRUPT = NUMBERS["AVAIL_NO_INTERRUPT"]
SECTOR = NUMBERS["SECTOR_BYTES"]

MEMORY_MIB = 1
MEMORY_BYTES = MEMORY_MIB << 20
RING_PFN = 0x10
HEADERS = 0x30000  # header and status byte of request slot n: HEADERS + n * HEADER_STRIDE
HEADER_STRIDE = 0x40
STATUS_OFFSET = 0x20
DATA = 0x40000  # data of slot n: DATA + n * DATA_STRIDE
DATA_STRIDE = 0x1000
TABLES = 0x38000  # room for indirect tables
UNTOUCHED = 0xEE  # a status byte before the device has written it

DESCRIPTOR = struct.Struct("<QIHH")
HEADER = struct.Struct("<IIQ")


@dataclass(frozen=True)
class Descriptor:
    """One entry of a descriptor table: struct vring_desc."""

    gpa: int
    size: int
    flags: int = 0
    next: int = 0

    def packed(self) -> bytes:
        """Its 16 bytes."""
        return DESCRIPTOR.pack(self.gpa, self.size, self.flags, self.next)


def chained(parts: Sequence[Descriptor], first: int = 0) -> list[Descriptor]:
    """The same descriptors linked one to the next, to stand at `first` and after."""
    last = len(parts) - 1
    return [
        part if n == last else Descriptor(part.gpa, part.size, part.flags | NEXT, first + n + 1)
        for n, part in enumerate(parts)
    ]


class Ring:
    """The driver's side of one split ring."""

    def __init__(self, memory: GuestMemory, num: int, pfn: int = RING_PFN) -> None:
        self.memory, self.num, self.pfn = memory, num, pfn
        self.desc = pfn << 12
        self.avail = self.desc + 16 * num
        self.used = (self.avail + 4 + 2 * num + 2 + 4095) // 4096 * 4096
        self.idx = 0

    def put(self, descriptors: Sequence[Descriptor], first: int = 0) -> None:
        """Store descriptors at `first` and after, as they are."""
        self.memory.write(self.desc + 16 * first, b"".join(d.packed() for d in descriptors))

    def publish(self, *heads: int) -> None:
        """Offer chains to the device: the avail entries, then avail.idx."""
        for head in heads:
            self.memory.write(self.avail + 4 + 2 * (self.idx % self.num), struct.pack("<H", head))
            self.idx = (self.idx + 1) & 0xFFFF
        self.set_avail_idx(self.idx)

    def set_avail_idx(self, idx: int) -> None:
        """Write avail.idx, whatever it says."""
        self.memory.write(self.avail + 2, struct.pack("<H", idx))

    def set_avail_flags(self, flags: int) -> None:
        """Write avail.flags."""
        self.memory.write(self.avail, struct.pack("<H", flags))

    def set_used_event(self, idx: int) -> None:
        """Write used_event, behind the avail ring: interrupt when used.idx passes it."""
        self.memory.write(self.avail + 4 + 2 * self.num, struct.pack("<H", idx))

    @property
    def avail_event(self) -> int:
        """avail_event as the device left it, behind the used ring."""
        return self.memory.u16(self.used + 4 + 8 * self.num)

    @property
    def used_flags(self) -> int:
        """used.flags as the device left them."""
        return self.memory.u16(self.used)

    @property
    def used_idx(self) -> int:
        """used.idx as the device left it."""
        return self.memory.u16(self.used + 2)

    def used_entry(self, at: int) -> tuple[int, int]:
        """(id, len) of the used entry for completion number `at`."""
        id_, length = struct.unpack("<II", self.memory.read(self.used + 4 + 8 * (at % self.num), 8))
        return id_, length


class Rig:
    """A block device with queue 0 on 1 MiB of guest memory, and the driver's hands."""

    def __init__(self, *, num: int = 8, image: Image | None = None) -> None:
        self.memory = GuestMemory(MEMORY_MIB)
        self.feed = Feed(self.memory.native)
        self.image = ram_disk() if image is None else image
        self.device: Any = ffi.gc(lib.lk_device_new(self.memory.native, lib.DEVICE_BLK), lib.lk_device_free)
        Blk(self.image).attach(self.device)
        self.vq = self.device.vq[0]
        self.vq.num = num
        self.ring = self.new_ring()

    def new_ring(self, pfn: int = RING_PFN) -> Ring:
        """An empty ring at `pfn`, given to the device as QUEUE_PFN does."""
        ring = Ring(self.memory, self.vq.num, pfn)
        self.memory.write(ring.desc, bytes(ring.used + 6 + 8 * ring.num - ring.desc))
        lib.lk_queue_set_pfn(self.device, 0, pfn)
        return ring

    def accept(self, *features: Feature) -> None:
        """What the driver acknowledged."""
        self.device.guest_features = sum(features)

    def header(self, slot: int, type: int, sector: int = 0) -> Descriptor:
        """Write the header of request `slot`, and make its status byte one that the device never writes."""
        gpa = HEADERS + slot * HEADER_STRIDE
        self.memory.write(gpa, HEADER.pack(type, 0, sector))
        self.memory.write(gpa + STATUS_OFFSET, bytes([UNTOUCHED]))
        return Descriptor(gpa, HEADER.size)

    def data(self, slot: int, size: int = SECTOR, *, writable: bool = True) -> Descriptor:
        """The data buffer of `slot`: for the device to write, or to read."""
        return Descriptor(DATA + slot * DATA_STRIDE, size, WRITE if writable else 0)

    def status_byte(self, slot: int) -> Descriptor:
        """The status byte of `slot`."""
        return Descriptor(HEADERS + slot * HEADER_STRIDE + STATUS_OFFSET, 1, WRITE)

    def request(self, type: int = BlkType.IN, sector: int = 0, size: int = SECTOR, *, slot: int = 0) -> int:
        """A request of the usual three descriptors (two without data), at 3 * slot. Returns its head, unpublished."""
        data = [self.data(slot, size, writable=type != BlkType.OUT)] if size else []
        head = 3 * slot
        self.ring.put(chained([self.header(slot, type, sector), *data, self.status_byte(slot)], head), head)
        return head

    def run(self, how: int = Run.TRAP) -> int:
        """Let the device look at queue 0, as a kick does. 1 if it did."""
        lib.lk_lock_take(self.memory.native)
        try:
            return int(lib.lk_queue_run(self.device, 0, how))
        finally:
            lib.lk_lock_release(self.memory.native)

    def serve(self, *heads: int) -> None:
        """Publish and run."""
        self.ring.publish(*heads)
        self.run()

    def status(self, slot: int = 0) -> int:
        """The status byte of `slot` now."""
        return self.memory.read(HEADERS + slot * HEADER_STRIDE + STATUS_OFFSET, 1)[0]

    def data_of(self, slot: int = 0, size: int = SECTOR) -> bytes:
        """What is in the data buffer of `slot`."""
        return self.memory.read(DATA + slot * DATA_STRIDE, size)

    def events(self, *names: str, since: int = 0) -> list[Event]:
        """The events of these kinds, oldest first."""
        return [event for event in self.feed.read(since)[0] if event.name in names]

    def close(self) -> None:
        """Give everything back."""
        self.feed.keep()
        self.memory.close()
        self.image.close()
