"""A device that does nothing: its one queue is looked at and left alone. For measuring a kick and nothing else."""

from __future__ import annotations

from labkit.abi import NUMBERS
from labkit.native import lib
from labkit.virtio.devices.base import Device


class Null(Device):
    """One queue, no requests, no interrupts."""

    name = "null"
    kind = lib.DEVICE_NULL
    pci_device = NUMBERS["VIRTIO_DEVICE_NULL"]
    virtio_type = NUMBERS["VIRTIO_TYPE_NULL"]
    queue_sizes = (NUMBERS["NULL_QUEUE_SIZE"],)
    vectors = NUMBERS["BLK_VECTORS"]
