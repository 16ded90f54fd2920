"""virtio-blk: a disk image behind one queue. Requests are parsed and run in native/blk.c."""

from __future__ import annotations

import struct
from typing import Any

from labkit.abi import NUMBERS, SECTOR_BYTES, BlkFeature
from labkit.errors import UsageError
from labkit.native import lib
from labkit.state import U64, Shape, State
from labkit.virtio.backends.image import Image
from labkit.virtio.devices.base import Device

HEADS, SECTORS_PER_TRACK, CYLINDERS_MAX = 16, 63, 16383  # the geometry every PC disk pretends to have


class Blk(Device):
    """A block device on `image`."""

    name = "blk"
    kind = lib.DEVICE_BLK
    pci_device = NUMBERS["VIRTIO_DEVICE_BLK"]
    virtio_type = NUMBERS["VIRTIO_TYPE_BLK"]
    pci_class = 0x0100  # SCSI storage, as the legacy device says
    queue_sizes = (NUMBERS["BLK_QUEUE_SIZE"],)
    vectors = NUMBERS["BLK_VECTORS"]
    ioeventfd_default = True
    starts_on_kick = True
    own_features = tuple(BlkFeature)

    def __init__(self, image: Image) -> None:
        self.image = image

    def host_features(self) -> int:
        """SEG_MAX, GEOMETRY, BLK_SIZE and FLUSH; RO when the image may not be written."""
        own = BlkFeature.SEG_MAX | BlkFeature.GEOMETRY | BlkFeature.BLK_SIZE | BlkFeature.FLUSH
        return super().host_features() | own | (0 if self.image.writable else BlkFeature.RO)

    def config(self) -> bytes:
        """capacity in sectors, size_max, seg_max, geometry, blk_size."""
        cylinders = min(self.image.sectors // (HEADS * SECTORS_PER_TRACK), CYLINDERS_MAX)
        seg_max = self.queue_sizes[0] - 2  # header and status take one each
        geometry = struct.pack("<HBB", cylinders, HEADS, SECTORS_PER_TRACK)
        return struct.pack("<QII", self.image.sectors, 0, seg_max) + geometry + struct.pack("<I", SECTOR_BYTES)

    def attach(self, native: Any) -> None:
        """Image and identity to the C core."""
        native.blk.fd = self.image.fd
        native.blk.sectors = self.image.sectors
        native.blk.writable = self.image.writable
        native.blk.id = self.image.identity
        native.blk.delay_ns = self.image.delay_ns

    def state_shape(self) -> Shape:
        """How large the guest knows the disk to be."""
        return {"sectors": U64}

    def save_state(self) -> State:
        """The same; not what is on it."""
        return {"sectors": self.image.sectors}

    def check_state(self, state: State) -> None:
        """UsageError: the disk has another size now."""
        if state["sectors"] != self.image.sectors:
            raise UsageError(f"saved state: its disk has {state['sectors']} sectors, this one {self.image.sectors}")

    def remark(self) -> str:
        """A slow disk says so."""
        return f"each request {self.image.delay_ns / 1000:g} us longer" if self.image.delay_ns else ""

    def resize(self, native: Any, size_bytes: int) -> None:
        """Image and C core; under the big lock, so that a request sees the old size or the new one."""
        self.image.resize(size_bytes)
        native.blk.sectors = self.image.sectors

    def close(self) -> None:
        """Close the image."""
        self.image.close()
