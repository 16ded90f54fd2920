"""What does a device written in Python hold of a queue? Chains to read, to write and to push, while it handles a kick.

The bytes stay in guest memory until they are read; the addresses were checked when the chain was taken
(native/queue.c).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from labkit.errors import GuestError, UsageError
from labkit.native import ffi, lib

READ_MAX_BYTES = 16 << 20  # at once: a chain may name the same memory again and again, and claim terabytes
Bytes = bytes | bytearray | memoryview


class Chain:
    """One request: `readable` bytes to read, room for `capacity` bytes. Good inside `handle` until it is pushed."""

    __slots__ = ("_native", "_queue", "capacity", "head", "readable", "written")

    def __init__(self, queue: DeviceQueue, native: Any) -> None:
        self._queue: DeviceQueue | None = queue
        self._native = native
        self.head = int(native.head)
        self.readable = int(native.out_bytes)
        self.capacity = int(native.in_bytes)
        self.written = 0  # by us so far: used.len when it is pushed

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        """The bytes the guest lets the device read: all, or `size` from `offset` on, or what there is of them.

        GuestError if they are more than 16 MiB at once, which no driver sends: the same memory named many times.
        """
        self._usable()
        offset = max(0, offset)
        rest = max(0, self.readable - offset)
        size = rest if size is None else max(0, min(size, rest))
        if size > READ_MAX_BYTES:
            raise GuestError(f"{self!r}: {size} bytes at once are not read; give read() a size")
        data = bytearray(size)
        lib.lk_taken_read(self._native, offset, ffi.from_buffer(data), size)
        return bytes(data)

    def write(self, data: Bytes) -> None:
        """Write after what was written before. UsageError if there is no room for all of it: nothing is written."""
        self._usable()
        view = memoryview(data).cast("B")
        room = self.capacity - self.written
        if len(view) > room:
            raise UsageError(f"{self!r}: {len(view)} bytes, and there is room for {room}")
        lib.lk_taken_write(self._native, self.written, ffi.from_buffer(view), len(view))
        self.written += len(view)

    def _usable(self) -> DeviceQueue:
        """Its queue. UsageError if the chain is the guest's again."""
        if self._queue is None:
            raise UsageError(f"{self!r} was pushed already: it is the guest's again")
        if not self._queue.is_open:
            raise UsageError(f"{self!r} was kept after handle() had returned: a chain is good until then")
        return self._queue

    def __repr__(self) -> str:
        return f"chain {self.head} ({self.readable} bytes to read, room for {self.capacity})"


class DeviceQueue:
    """One queue of a device, from the device's side. Iterating takes chains until the ring is empty."""

    def __init__(self, native: Any, index: int) -> None:
        self._native, self.index = native, index
        self._left = 0  # chains that may still be taken in this call of handle
        self._inside = False
        self._unpushed = 0
        self._pushed = False

    @property
    def num(self) -> int:
        """Number of descriptors."""
        return int(self._native.vq[self.index].num)

    @property
    def accepted(self) -> int:
        """The feature bits that the driver accepted."""
        return int(self._native.guest_features)

    @property
    def is_open(self) -> bool:
        """Is the caller inside `handle`, in the thread that runs it?"""
        return self._inside and bool(lib.lk_lock_is_mine(self._native.machine))

    def pop(self) -> Chain | None:
        """The next chain. None: the ring is empty, or the guest broke it, or `num` chains were taken in this call.

        In that last case `handle` is called again at once, so that a machine can be stopped in between.
        """
        if not self.is_open:
            raise UsageError(f"queue {self.index}: chains can be taken only while handle() runs, and in its thread")
        if not self._left:
            return None
        native = lib.lk_python_pop(self._native, self.index)
        if native == ffi.NULL:
            return None
        self._left -= 1
        self._unpushed += 1
        return Chain(self, ffi.gc(native, lib.lk_taken_free))

    def __iter__(self) -> Iterator[Chain]:
        while (chain := self.pop()) is not None:
            yield chain

    def push(self, chain: Chain, data: Bytes = b"") -> None:
        """Write `data` and give the chain back; used.len is all that was written. UsageError: no room, or not ours."""
        queue = chain._usable()
        if queue is not self:
            raise UsageError(f"{chain!r} was taken from queue {queue.index}, not from queue {self.index}")
        chain.write(data)
        lib.lk_python_push(self._native, self.index, chain._native, chain.written)
        chain._queue = None
        self._unpushed -= 1
        self._pushed = True

    # -- for the one that calls handle ---------------------------------------------------------------------------------

    def _enter(self) -> None:
        self._left, self._unpushed, self._pushed, self._inside = self.num, 0, False, True

    def _leave(self) -> bool:
        """One interrupt if anything was pushed. True if there may be more than one call may take."""
        self._inside = False
        if self._pushed:
            lib.lk_python_interrupt(self._native, self.index)
        return not self._left

    def __repr__(self) -> str:
        return f"queue {self.index} of {self.num}"
