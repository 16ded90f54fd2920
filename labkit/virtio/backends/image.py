"""Where do a disk's sectors live? In a raw image file, opened with care, or in memory."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from labkit.abi import BLK_ID_BYTES, SECTOR_BYTES
from labkit.errors import HostError, UsageError

RAM_DISK_BYTES = 16 << 20
EXTENT_MAX_BYTES = 1 << 20
LOCK_STEP_S = 0.005  # between two tries for a lock: the kernel's own wait for one knows no end
RAM_DISK_LABEL = b"labkit RAM disk, sector 0\n"
IMAGE_MAX_BYTES = 1 << 41  # 2 TiB: 2**32 sectors, as far as a guest with 32-bit sector numbers can reach
NOT_RAW = {b"QFI\xfb": "qcow2", b"KDMV": "VMDK", b"conectix": "VHD", b"vhdxfile": "VHDX"}


class Image:
    """An open image. `fd` belongs to it; `sectors` counts 512-byte sectors. `is_ram`: memory, which nobody else has."""

    delay_ns = 0  # how much longer a data request takes than the transfer

    def __init__(self, fd: int, size_bytes: int, *, writable: bool, name: str, is_ram: bool = False) -> None:
        self.fd, self.writable, self.name, self.is_ram = fd, writable, name, is_ram
        self.sectors = size_bytes // SECTOR_BYTES

    @property
    def identity(self) -> bytes:
        """What GET_ID answers: the file's name, cut to 20 bytes."""
        return os.fsencode(self.name)[:BLK_ID_BYTES].ljust(BLK_ID_BYTES, b"\0")

    def resize(self, size_bytes: int) -> None:
        """Grow with zeros, or cut. UsageError: read-only, no file, or no size a disk can have. HostError: no room."""
        if not self.writable:
            raise UsageError(f"disk {self.name}: it is read-only: boot with writable=True to resize it")
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            raise UsageError(f"disk {self.name}: a block device has the size it has")
        if isinstance(size_bytes, bool) or not isinstance(size_bytes, int) or size_bytes <= 0:
            raise UsageError(f"a disk of {size_bytes!r} bytes: a whole number of sectors, and at least one")
        _check_size(size_bytes, f"disk {self.name}")
        try:
            os.ftruncate(self.fd, size_bytes)
        except OSError as error:
            raise HostError("ftruncate", error.errno or 0, f"disk {self.name} stays as it is") from error
        self.sectors = size_bytes // SECTOR_BYTES

    @property
    def arbitrates(self) -> bool:
        """Does its lock decide which of two machines may write it?"""
        return self.writable and not self.is_ram

    def let_go(self, *, durable: bool = False) -> None:
        """Drop the lock and keep it open: another may take it. Idempotent.

        `durable`: what was written is on the disk first. HostError: it could not be written there; the lock stays.
        """
        if self.is_ram or self.fd < 0:
            return
        if durable and self.writable:
            try:
                os.fdatasync(self.fd)
            except OSError as error:
                raise HostError("fdatasync", error.errno or 0, f"disk {self.name} is still locked") from error
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def take_lock(self, patience_s: float = 0.0) -> None:
        """Take the lock as `open_image` does, trying for `patience_s`. UsageError: another has it; this is closed."""
        if self.is_ram:
            return
        if self.fd < 0:
            raise UsageError(f"disk {self.name}: it is closed")
        until = time.monotonic() + patience_s
        while not _try_lock(self.fd, f"disk {self.name}", writable=self.writable):
            if time.monotonic() >= until:
                raise _in_use(f"disk {self.name}")
            time.sleep(LOCK_STEP_S)

    def extents(self) -> Iterator[tuple[int, bytes]]:
        """Where there is data, as (offset in bytes, at most 1 MiB of it), in order. What lies between is zero."""
        end, start = self.sectors * SECTOR_BYTES, 0
        while (start := self._seek(start, os.SEEK_DATA, end)) < end:
            hole = self._seek(start, os.SEEK_HOLE, end)
            while start < hole and (data := os.pread(self.fd, min(hole - start, EXTENT_MAX_BYTES), start)):
                yield start, data
                start += len(data)

    def put(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `offset` bytes. UsageError: read-only, beyond the disk. HostError: the host has no room."""
        if not self.writable:
            raise UsageError(f"disk {self.name}: it is read-only")
        left, size = memoryview(data).cast("B"), self.sectors * SECTOR_BYTES
        if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset <= size - left.nbytes:
            raise UsageError(f"disk {self.name}: {left.nbytes} bytes at {offset!r}, of {size}")
        try:
            while left.nbytes:
                count = os.pwrite(self.fd, left, offset)
                left, offset = left[count:], offset + count
        except OSError as error:
            raise HostError("pwrite", error.errno or 0, f"disk {self.name}") from error

    def _seek(self, start: int, what: int, end: int) -> int:
        """Where the next data or hole is; `end` if there is none."""
        try:
            return min(os.lseek(self.fd, start, what), end)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return end
            raise HostError("lseek", error.errno or 0, f"disk {self.name}") from error

    def close(self) -> None:
        """Close it (which drops its lock); idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def ram_disk() -> Image:
    """16 MiB of memory as a writable disk; sector 0 says what it is. HostError: no fd, or no memory."""
    fd = -1
    try:
        fd = os.memfd_create("labkit-disk", os.MFD_CLOEXEC)
        os.ftruncate(fd, RAM_DISK_BYTES)
        os.pwrite(fd, RAM_DISK_LABEL, 0)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise HostError("memfd_create(disk)", error.errno or 0) from error
    return Image(fd, RAM_DISK_BYTES, writable=True, name="RAM disk", is_ram=True)


def open_image(path: Path, *, writable: bool, locked: bool = True) -> Image:
    """Open a raw image or block device; read-only unless `writable`. Not `locked`: `take_lock` comes before any use.

    UsageError: missing, not a file, not raw, empty, not a multiple of 512 bytes, over 2 TiB, no permission, or in use
    by a writer (a writer needs the image for itself).
    """
    try:
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"disk {path}: {error.strerror}") from error
    try:
        size = _checked_size(fd, path)
        if locked and not _try_lock(fd, f"disk {path}", writable=writable):
            raise _in_use(f"disk {path}")
    except BaseException:
        os.close(fd)
        raise
    return Image(fd, size, writable=writable, name=path.name)


def _checked_size(fd: int, path: Path) -> int:
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise UsageError(f"disk {path}: neither a file nor a block device")
    size = os.lseek(fd, 0, os.SEEK_END)
    start = os.pread(fd, 8, 0)
    for magic, form in NOT_RAW.items():
        if start.startswith(magic):
            raise UsageError(f"disk {path}: a {form} image; labkit reads raw ones: qemu-img convert -O raw")
    if not size:
        raise UsageError(f"disk {path}: it is empty")
    _check_size(size, f"disk {path}")
    return size


def _check_size(size: int, disk: str) -> None:
    if size % SECTOR_BYTES:
        raise UsageError(f"{disk}: {size} bytes are not a whole number of {SECTOR_BYTES}-byte sectors")
    if size > IMAGE_MAX_BYTES:
        raise UsageError(f"{disk}: {size} bytes are more than the {IMAGE_MAX_BYTES >> 40} TiB labkit offers")


def _try_lock(fd: int, disk: str, *, writable: bool) -> bool:
    """One writer, or any number of readers. False: another has it."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise UsageError(f"{disk}: cannot be locked: {error.strerror}") from error
        return False
    return True


def _in_use(disk: str) -> UsageError:
    return UsageError(f"{disk}: in use by another machine that may write it")
