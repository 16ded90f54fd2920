"""What if a disk is slow? Each read or write takes a while longer, in whichever thread runs the queue.

The thread sleeps (native/blk.c); it burns no CPU, and it keeps the big lock, as a device that knows only synchronous
requests would. A stop waits for the request that is being served, not for the rest of the ring.
"""

from __future__ import annotations

from labkit.abi import SECTOR_BYTES
from labkit.errors import UsageError
from labkit.virtio.backends.image import Image

DELAY_MAX_NS = 1_000_000_000  # a stop waits that long for one request


class Slow(Image):
    """`image`, each data request `delay_ns` later. It takes the fd over: `image` is empty afterwards."""

    def __init__(self, image: Image, delay_ns: int) -> None:
        self.delay_ns = checked_delay(delay_ns)
        size_bytes = image.sectors * SECTOR_BYTES
        super().__init__(image.fd, size_bytes, writable=image.writable, name=image.name, is_ram=image.is_ram)
        image.fd = -1


def checked_delay(delay_ns: int) -> int:
    """UsageError: not a whole number of nanoseconds from 0 to 1 s."""
    if isinstance(delay_ns, bool) or not isinstance(delay_ns, int) or not 0 <= delay_ns <= DELAY_MAX_NS:
        raise UsageError(f"delay_ns={delay_ns!r}: a whole number from 0 to {DELAY_MAX_NS}")
    return delay_ns
