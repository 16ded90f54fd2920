"""How does a recording become a file, and can a file be trusted? Everything in it is checked on load.

    magic, format u16, bytes of the header u32, bytes of the events u32
    header    JSON: facts, how many events there are and were lost, the value of every field at the save
    events    zlib: a column of time steps, then of kind, actor, queue, a, b, c, d, e
    checksum  SHA-256 of everything before

A new kind of event, or a new field, is a new format: the number is raised, and older files stay readable.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from labkit import abi
from labkit.errors import UsageError
from labkit.files import write_whole
from labkit.trace import fields
from labkit.trace.events import Actor, Kind
from labkit.trace.fields import Key
from labkit.trace.recorded import FEATURE_BITS, TEXT_MAX, Facts, Record, Recorded, Values, plain

MAGIC = b"labkit recording\n"
FORMAT = 3
PREFIX = struct.Struct(f"<{len(MAGIC)}sHII")
CHECKSUM_BYTES = 32
EVENTS_MAX = 1 << 18
COLUMNS = "QHHiQQQQQ"
EVENT_BYTES = struct.calcsize("<" + COLUMNS)
HEADER_MAX_BYTES = 1 << 20
FILE_MAX_BYTES = HEADER_MAX_BYTES + EVENTS_MAX * EVENT_BYTES
TIME_MAX_NS = (1 << 63) - 1
QUEUE_SIZE_MAX = abi.NUMBERS["QUEUE_SIZE_MAX"]
SAID = ("name", "cpu", "guest", "device", "remark", "revision")  # the facts that are texts
COUNTED = {  # and those that are numbers
    "vcpus": (1, abi.VCPUS_MAX),
    "memory_mib": (abi.MEMORY_MIN_MIB, abi.MEMORY_MAX_MIB),
    "queue_indices": (1, 1 << 16),
    "vectors": (0, abi.NUMBERS["MSIX_VECTORS_MAX"]),
    "host_features": (0, fields.U32),
}


# -- writing -----------------------------------------------------------------------------------------------------------


def pack(recorded: Recorded) -> bytes:
    """The file."""
    header = json.dumps(_header(recorded), separators=(",", ":")).encode()
    events = zlib.compress(_columns(recorded.records), 9)
    whole = PREFIX.pack(MAGIC, FORMAT, len(header), len(events)) + header + events
    return whole + hashlib.sha256(whole).digest()


def _header(recorded: Recorded) -> dict[str, Any]:
    queues = range(len(recorded.facts.queue_sizes))
    return {
        "labkit": recorded.labkit,
        "facts": recorded.facts._asdict(),
        "events": len(recorded.records),
        "lost": recorded.lost,
        "device": {name: recorded.final[name, fields.DEVICE] for name in fields.OF_DEVICE},
        "queues": [{name: recorded.final[name, queue] for name in fields.OF_QUEUE} for queue in queues],
    }


def _columns(records: list[Record]) -> bytes:
    """Each column by itself, which packs four times better than rows. Times as steps: two threads may cross."""
    if not records:
        return b""
    _, times, *columns = zip(*records, strict=True)
    steps = (times[0], *((after - before) & fields.U64 for before, after in pairwise(times)))
    packed = zip(COLUMNS, (steps, *columns), strict=True)
    return b"".join(struct.pack(f"<{len(records)}{code}", *column) for code, column in packed)


def write(path: str | os.PathLike[str], recorded: Recorded) -> None:
    """All of the file or nothing of it. UsageError: not there. HostError: the disk is full or fails."""
    write_whole(path, "recording", pack(recorded))


# -- reading -----------------------------------------------------------------------------------------------------------


class _Damaged(Exception):
    """What is wrong with the file."""


def load(path: str | os.PathLike[str]) -> Recorded:
    """Read and check. UsageError: no such file, no recording, a damaged one, or one of a newer labkit."""
    try:
        with open(path, "rb") as file:
            whole = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"recording {os.fspath(path)}: {error.strerror}") from error
    name = plain(os.fspath(path))
    if not whole.startswith(MAGIC):
        raise UsageError(f"{name} is not a recording of labkit (vm.trace.save makes one)")
    try:
        return unpack(whole, name)
    except _Damaged as error:
        raise UsageError(f"{name} is a damaged recording: {error}") from None


def unpack(whole: bytes, name: str) -> Recorded:
    """The contents of a file that begins with the magic."""
    _need(PREFIX.size + CHECKSUM_BYTES <= len(whole) <= FILE_MAX_BYTES, f"{len(whole)} bytes long")
    _, version, header_bytes, events_bytes = PREFIX.unpack_from(whole)
    if version > FORMAT:
        raise _newer(name, f"format {version}; this one reads up to {FORMAT}")
    _need(version >= 1, "format 0")
    _need(header_bytes <= HEADER_MAX_BYTES, f"a header of {header_bytes} bytes")
    _need(len(whole) == PREFIX.size + header_bytes + events_bytes + CHECKSUM_BYTES, "its parts are not all there")
    _need(hashlib.sha256(whole[:-CHECKSUM_BYTES]).digest() == whole[-CHECKSUM_BYTES:], "the checksum is wrong")
    header = _json(whole[PREFIX.size : PREFIX.size + header_bytes])
    facts = _facts(_part(header, "facts", dict))
    (version,) = _texts([_part(header, "labkit", str)], "its version")
    count, lost = _number(header, "events", 0, EVENTS_MAX), _number(header, "lost", 0, 1 << 62)
    packed = whole[PREFIX.size + header_bytes : -CHECKSUM_BYTES]
    records = _records(_inflate(packed, count * EVENT_BYTES), count, lost, name)
    return Recorded(facts, lost, records, _final(header, len(facts.queue_sizes)), version)


def _newer(name: str, detail: str) -> UsageError:
    return UsageError(f"{name} was written by a newer labkit ({detail}): update labkit")


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Damaged(otherwise)


def _json(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text, parse_float=_no_number, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise _Damaged("its header is no JSON") from None
    _need(isinstance(header, dict), "its header is no table")
    result: dict[str, Any] = header
    return result


def _no_number(text: str) -> None:
    raise _Damaged(f"its header has {text[:20]}, which is no whole number")


def _part(table: Mapping[str, Any], name: str, kind: type) -> Any:
    _need(type(table.get(name)) is kind, f"{name} is missing or no {kind.__name__}")
    return table[name]


def _number(table: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value: int = _part(table, name, int)
    _need(least <= value <= most, f"{name} is not between {least} and {most}")
    return value


def _texts(values: list[Any], name: str) -> tuple[str, ...]:
    good = all(type(value) is str and len(value) <= TEXT_MAX and value.isprintable() for value in values)
    _need(good, f"{name} is no plain text")
    return tuple(values)


def _facts(table: Mapping[str, Any]) -> Facts:
    sizes, names = _part(table, "queue_sizes", list), _part(table, "feature_names", list)
    _need(1 <= len(sizes) <= abi.QUEUE_MAX, f"{len(sizes)} queues")
    _need(all(type(size) is int and 0 < size <= QUEUE_SIZE_MAX for size in sizes), "a queue has no possible size")
    _need(len(names) == FEATURE_BITS, f"{len(names)} names of features")
    texts = [_part(table, name, str) for name in SAID]
    found: dict[str, Any] = dict(zip(SAID, _texts(texts, "a fact"), strict=True))
    found |= {name: _number(table, name, least, most) for name, (least, most) in COUNTED.items()}
    return Facts(
        **found,
        ioeventfd=_part(table, "ioeventfd", bool),
        queue_sizes=tuple(sizes),
        feature_names=_texts(names, "a feature's name"),
    )


def _final(header: Mapping[str, Any], queues: int) -> Values:
    device, each = _part(header, "device", dict), _part(header, "queues", list)
    _need(len(each) == queues and all(type(one) is dict for one in each), f"values of {len(each)} queues")
    return {key: _value(device if key[1] == fields.DEVICE else each[key[1]], key) for key in fields.keys(queues)}


def _value(table: Mapping[str, Any], key: Key) -> int | None:
    _need(key[0] in table, f"{fields.label(key)} is missing")
    field = fields.field(key)
    return None if table[key[0]] is None else _number(table, key[0], field.least, field.most)


def _inflate(packed: bytes, size: int) -> bytes:
    """Never more than was announced, whatever the file holds."""
    inflater = zlib.decompressobj()
    try:
        columns = inflater.decompress(packed, size + 1)
    except zlib.error:
        raise _Damaged("its events cannot be unpacked") from None
    whole = len(columns) == size and inflater.eof and not inflater.unused_data
    _need(whole, "its events are not as many as it says")
    return columns


def _records(columns: bytes, count: int, lost: int, name: str) -> list[Record]:
    at, parts = 0, []
    for code in COLUMNS:
        parts.append(struct.unpack_from(f"<{count}{code}", columns, at))
        at += struct.calcsize(f"<{count}{code}")
    steps, kinds, actors, queues, *numbers = parts
    if unknown := set(kinds) - set(Kind):
        raise _newer(name, f"it knows events of kind {max(unknown)}")
    _need(all(_is_actor(actor) for actor in set(actors)), "an event of no known thread")
    _need(all(-1 <= queue < abi.QUEUE_MAX for queue in set(queues)), "an event of no possible queue")
    times, now = [], 0
    for step in steps:
        now = (now + step) & fields.U64
        times.append(now)
    _need(all(time <= TIME_MAX_NS for time in times), "an event of no possible time")
    return list(zip(range(lost + 1, lost + count + 1), times, kinds, actors, queues, *numbers, strict=True))


def _is_actor(actor: int) -> bool:
    return actor < Actor.VCPU0 + abi.VCPUS_MAX if actor >= Actor.VCPU0 else actor in set(Actor)
