"""Where are the frames kept for tcpdump and Wireshark? In a pcap file: a header from here, a record a frame from C."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

from labkit.errors import UsageError

MAGIC_MICROSECONDS = 0xA1B2C3D4
VERSION = (2, 4)
SNAPLEN = 65535
LINKTYPE_ETHERNET = 1
FILE_HEADER = struct.Struct("<IHHiIII")  # magic, version, time zone, accuracy, longest record, what a record holds
RECORD_HEADER = struct.Struct("<IIII")  # seconds and microseconds since 1970, bytes kept, bytes of the frame


class Capture:
    """An open pcap file. `fd` belongs to it; records follow at `FILE_HEADER.size`."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd, self.path = fd, path

    def close(self) -> None:
        """Close it; idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_capture(path: Path) -> Capture:
    """A new, empty capture at `path`; what was in the file goes.

    UsageError: not a file, no permission, no room for the header, or another machine writes there.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise UsageError(f"pcap {path}: {error.strerror}") from error
    try:
        _begin(fd, path)
    except OSError as error:
        os.close(fd)
        raise UsageError(f"pcap {path}: {error.strerror}") from error
    except BaseException:
        os.close(fd)
        raise
    return Capture(fd, path)


def _begin(fd: int, path: Path) -> None:
    """Nothing is lost of a file that is no capture's to take: looked at and locked before it is cut."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise UsageError(f"pcap {path}: not a file")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise UsageError(f"pcap {path}: another machine writes its frames there") from error
    os.ftruncate(fd, 0)
    header = FILE_HEADER.pack(MAGIC_MICROSECONDS, *VERSION, 0, 0, SNAPLEN, LINKTYPE_ETHERNET)
    if os.pwrite(fd, header, 0) != len(header):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
