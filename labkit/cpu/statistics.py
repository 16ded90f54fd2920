"""What does KVM itself count? The binary statistics file of a vCPU (KVM_GET_STATS_FD), as a dict."""

from __future__ import annotations

import os
import struct

HEADER = struct.Struct("<6I")  # flags, name_size, num_desc, id_offset, desc_offset, data_offset
DESCRIPTOR = struct.Struct("<IhHII")  # flags, exponent, size (values), offset, bucket_size; then the name
VALUE_BYTES = 8


def read_statistics(fd: int) -> dict[str, int]:
    """Counters and gauges of one value each; histograms are left out."""
    _, name_bytes, count, _, descriptors_at, data_at = HEADER.unpack(os.pread(fd, HEADER.size, 0))
    step = DESCRIPTOR.size + name_bytes
    descriptors = os.pread(fd, count * step, descriptors_at)
    values: dict[str, int] = {}
    for at in range(0, len(descriptors), step):
        _, _, size, offset, _ = DESCRIPTOR.unpack_from(descriptors, at)
        if size != 1:
            continue
        name = descriptors[at + DESCRIPTOR.size : at + step].split(b"\0", 1)[0].decode()
        values[name] = int.from_bytes(os.pread(fd, VALUE_BYTES, data_at + offset), "little")
    return values
