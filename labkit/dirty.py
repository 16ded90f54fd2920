"""Which pages of guest RAM were written since the last look, and how does RAM go back to what it was?

Two give one answer: the CPU tells what the guest wrote, the C core what it wrote itself (native/dirty.c). A process
that has mapped the memory's file writes without being seen.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from labkit.abi import NUMBERS
from labkit.cpu import Cpu
from labkit.errors import HostError, UsageError
from labkit.memory import GuestMemory
from labkit.native import ffi, lib

PAGE_BYTES = NUMBERS["PAGE_BYTES"]
Pages = array  # of "I": indices of pages, the lowest first; page n begins at guest-physical n * PAGE_BYTES


class DirtyPages:
    """Tracks the pages of one machine; off until asked for. For one thread at a time, whether the guest runs or not."""

    def __init__(self, memory: GuestMemory, cpu: Cpu) -> None:
        self._memory, self._cpu = memory, cpu
        self.count = memory.size_bytes // PAGE_BYTES  # pages of the whole RAM
        self._found: Any = ffi.NULL

    @property
    def on(self) -> bool:
        """Are writes noted?"""
        return self._memory.is_open and bool(self._memory.native.tracking)

    def track(self, on: bool) -> None:
        """Begin, with no page dirty, or end. To begin again is to forget. HostError: no memory, or KVM refuses."""
        native = self._memory.open_native()
        if self.on:
            self._cpu.log_writes(False)
            lib.lk_dirty_track(native, False)
        if not on:
            return
        if (failed := lib.lk_dirty_track(native, True)) < 0:
            raise HostError("calloc(dirty pages)", -failed)
        try:
            self._cpu.log_writes(True)
        except HostError:
            lib.lk_dirty_track(native, False)
            raise
        self._found = ffi.new("uint32_t[]", self.count)

    def take(self) -> Pages[int]:
        """The pages written since `track(True)` or the last `take`, and begin anew. UsageError: not tracking.

        While the guest runs a page may be told that is not yet written again, never the other way round.
        """
        if not self.on:
            raise UsageError("nobody notes what is written: track(True) first")
        found = lib.lk_dirty_take(self._memory.native, self._cpu.written(), self._found)
        return array("I", bytes(ffi.buffer(self._found, found * ffi.sizeof("uint32_t"))))

    def copy(self, pages: Iterable[int]) -> bytearray:
        """Contents of `pages`, PAGE_BYTES each, in their order: those that the next `take` tells changes of.

        UsageError: a page outside RAM.
        """
        wanted = _pages(pages)
        out = bytearray(len(wanted) * PAGE_BYTES)
        native = self._memory.open_native()
        self._check(lib.lk_dirty_copy(native, _indices(wanted), len(wanted), ffi.from_buffer(out)))
        return out

    def put_back(self, pages: Iterable[int], image: bytes | memoryview) -> None:
        """Make `pages` again what they are in `image`, a copy of all of RAM (bytes, or a mapping of a file).

        The vCPUs are stopped. It makes no page dirty. UsageError: a page outside RAM, or an image of another size.
        """
        source = ffi.from_buffer(image)
        if len(source) != self._memory.size_bytes:
            raise UsageError(f"an image of {len(source)} bytes for a RAM of {self._memory.size_bytes}")
        wanted = _pages(pages)
        native = self._memory.open_native()
        self._check(lib.lk_dirty_put_back(native, _indices(wanted), len(wanted), source))

    def put(self, pages: Iterable[int], contents: bytes | memoryview) -> None:
        """The same from what `copy` gave, perhaps elsewhere. UsageError: they do not fit, or a page is outside RAM."""
        wanted, source = _pages(pages), ffi.from_buffer(contents)
        if len(source) != len(wanted) * PAGE_BYTES:
            raise UsageError(f"{len(source)} bytes for {len(wanted)} pages")
        self._check(lib.lk_dirty_put(self._memory.open_native(), _indices(wanted), len(wanted), source))

    def touched(self) -> Pages[int]:
        """The pages that anybody has ever written, which are not many in a young machine. All others are zero."""
        pages, end, fd = array("I"), 0, self._memory.fd
        self._memory.open_native()
        with suppress(OSError):  # ENXIO: no data beyond
            while True:
                begin = os.lseek(fd, end, os.SEEK_DATA)
                end = os.lseek(fd, begin, os.SEEK_HOLE)
                pages.extend(range(begin // PAGE_BYTES, -(-end // PAGE_BYTES)))
        return pages

    def _check(self, failed: int) -> None:
        if failed < 0:
            raise UsageError(f"a page outside the {self.count} of this RAM")


def _pages(pages: Iterable[int]) -> Pages[int]:
    if isinstance(pages, array) and pages.typecode == "I":
        return pages
    try:
        return array("I", pages)
    except (OverflowError, TypeError) as error:
        raise UsageError(f"pages are told by their indices: {error}") from error


def _indices(pages: Pages[int]) -> Any:
    return ffi.from_buffer("uint32_t[]", pages)
