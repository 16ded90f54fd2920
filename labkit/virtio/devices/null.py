"""A device that does nothing: its queues are looked at and left alone. For measuring a kick and nothing else."""

from __future__ import annotations

from labkit.abi import NUMBERS, QUEUE_MAX
from labkit.errors import UsageError
from labkit.native import lib
from labkit.virtio.devices.base import Device


class Null(Device):
    """Any number of queues, no requests, no interrupts."""

    name = "null"
    kind = lib.DEVICE_NULL
    pci_device = NUMBERS["VIRTIO_DEVICE_NULL"]
    virtio_type = NUMBERS["VIRTIO_TYPE_NULL"]
    vectors = NUMBERS["BLK_VECTORS"]

    def __init__(self, queues: int = 1) -> None:
        if not 1 <= queues <= QUEUE_MAX:
            raise UsageError(f"queues={queues!r}: the null device has 1 to {QUEUE_MAX}")
        self.queue_sizes = (NUMBERS["NULL_QUEUE_SIZE"],) * queues
