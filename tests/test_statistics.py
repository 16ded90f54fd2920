"""Is the kernel's binary statistics file read as its header says? A file of the same format, written by the test."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from labkit.cpu.statistics import read_statistics

NAME_BYTES = 48
ID = b"kvm-1234/vcpu-0".ljust(NAME_BYTES, b"\0")
HEADER_BYTES, DESCRIPTOR_BYTES = 24, 16


def statistics_file(entries: Sequence[tuple[str, Sequence[int]]], gap: int = 0) -> int:
    """A memfd as KVM_GET_STATS_FD gives one: header, id, descriptors, then (after `gap` bytes) the values."""
    descriptors, data = b"", b""
    for name, values in entries:
        descriptors += struct.pack("<IhHII", 0, 0, len(values), len(data), 0) + name.encode().ljust(NAME_BYTES, b"\0")
        data += struct.pack(f"<{len(values)}Q", *values)
    descriptors_at = HEADER_BYTES + NAME_BYTES
    data_at = descriptors_at + len(descriptors) + gap
    header = struct.pack("<6I", 0, NAME_BYTES, len(entries), HEADER_BYTES, descriptors_at, data_at)
    fd = os.memfd_create("statistics")
    os.write(fd, header + ID + descriptors + bytes(gap) + data)
    return fd


def read_and_close(fd: int) -> dict[str, int]:
    """What read_statistics makes of it."""
    try:
        return read_statistics(fd)
    finally:
        os.close(fd)


def test_counters_are_read_by_name() -> None:
    """Each counter has its name and its 64-bit value, wherever the values stand."""
    entries = [("exits", [7]), ("io_exits", [(1 << 64) - 1]), ("halt_exits", [0])]
    expected = {"exits": 7, "io_exits": (1 << 64) - 1, "halt_exits": 0}
    assert read_and_close(statistics_file(entries)) == expected
    assert read_and_close(statistics_file(entries, gap=4096)) == expected


def test_histograms_are_left_out() -> None:
    """What has more than one value is no counter; those after it are still read from their own place."""
    assert read_and_close(statistics_file([("exits", [1]), ("halt_hist", [5] * 32), ("last", [9])])) == {
        "exits": 1,
        "last": 9,
    }


def test_a_kernel_that_counts_nothing() -> None:
    """No descriptors, no counters."""
    assert read_and_close(statistics_file([])) == {}
