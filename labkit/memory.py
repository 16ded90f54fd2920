"""Where is the guest's RAM, and who may touch it? One shared file in memory, one checked door."""

from __future__ import annotations

import os
from typing import Any

from labkit.errors import HostError, UsageError
from labkit.native import ffi, lib

CONSOLE_STEP_BYTES = 1 << 16  # read at a time
FEED_CAPACITY = 1 << 16  # events; 4 MiB, taken from the kernel only as far as used


class GuestMemory:
    """RAM of one machine: a memfd, so that a backend process can map it too. Owns the C core's machine."""

    def __init__(self, mib: int) -> None:
        self.size_bytes = mib << 20
        try:
            self.fd = os.memfd_create("labkit-ram", os.MFD_CLOEXEC)
        except OSError as error:
            raise HostError("memfd_create", error.errno or 0, f"{mib} MiB of guest memory") from error
        try:
            os.ftruncate(self.fd, self.size_bytes)
        except OSError as error:
            os.close(self.fd)
            raise HostError("ftruncate(memfd)", error.errno or 0, f"{mib} MiB of guest memory") from error
        self.native: Any = lib.lk_machine_new(self.fd, self.size_bytes, FEED_CAPACITY)
        if self.native == ffi.NULL:
            os.close(self.fd)
            raise HostError("mmap(guest RAM)", ffi.errno, f"{mib} MiB of guest memory")

    @property
    def is_open(self) -> bool:
        """Is there memory to read? Not after `close`."""
        return self.native is not None

    def open_native(self) -> Any:
        """`native`. UsageError after `close`."""
        if self.native is None:
            raise UsageError("the machine is closed: its memory is gone")
        return self.native

    def _is_sane(self, gpa: int, size: int) -> bool:
        """Does it fit in 64 bits, so that the C core can judge it?"""
        return 0 <= gpa <= self.size_bytes and 0 <= size <= self.size_bytes

    def _outside(self, gpa: int, size: int) -> UsageError:
        return UsageError(f"guest memory [{gpa:#x}, +{size:#x}) is outside its {self.size_bytes >> 20} MiB")

    def read(self, gpa: int, size: int) -> bytes:
        """`size` bytes from guest-physical `gpa`. UsageError outside RAM."""
        memory = self.open_native().memory
        if not (0 <= gpa <= gpa + size <= memory.bytes):
            raise self._outside(gpa, size)
        found: bytes = ffi.buffer(memory.host + gpa, size)[:]
        return found

    def contents(self) -> bytes:
        """All of it. Pages that nobody has touched cost nothing, then or later."""
        self.open_native()
        whole = bytearray()
        while len(whole) < self.size_bytes:
            whole += os.pread(self.fd, self.size_bytes - len(whole), len(whole))
        return bytes(whole)

    def write(self, gpa: int, data: bytes) -> None:
        """Store `data` at guest-physical `gpa`. UsageError outside RAM."""
        native, size = self.open_native(), len(data)
        if not self._is_sane(gpa, size) or lib.lk_memory_write(native, gpa, ffi.from_buffer(data), size):
            raise self._outside(gpa, size)

    def clear(self) -> None:
        """All of it is zero, as before anybody wrote. The vCPUs are stopped, and nobody notes what is written."""
        if (failed := lib.lk_memory_clear(self.open_native())) < 0:
            raise HostError("madvise(MADV_REMOVE)", -failed)

    def console(self) -> bytes:
        """What the guest wrote to the console port since the last reset; the C core keeps it beside RAM."""
        native, text = self.open_native(), b""
        out = ffi.new("char[]", CONSOLE_STEP_BYTES)
        while count := lib.lk_console_read(native, len(text), out, CONSOLE_STEP_BYTES):
            text += bytes(ffi.buffer(out, count))
        return text

    def u16(self, gpa: int) -> int:
        """A little-endian 16-bit value."""
        return int.from_bytes(self.read(gpa, 2), "little")

    def close(self) -> None:
        """Unmap and close; idempotent."""
        if self.native is not None:
            lib.lk_machine_free(self.native)
            self.native = None
            os.close(self.fd)
