"""What is said on the wire? Frames: a head with kind, size and checksum, and a payload no larger than its kind may be.

    source ──► HELLO  KERNEL?  (PAGES … ROUND) …  PAGES …  PARTS  DISK …  STATE      YOURS
    destination ──►      WELCOME                                              TAKEN      RUNS    or, before, REFUSED

Everything that comes in is hostile until checked: a head that is none, a frame out of turn, too large or damaged ends
the conversation with an error that says which.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from array import array
from collections.abc import Iterator
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

from labkit import abi
from labkit.errors import HostError, LabkitError, UsageError
from labkit.migration.channel import Channel

FORMAT = 1
MAGIC = 0x474D4B4C  # "LKMG"
HEAD = struct.Struct("<IHHII")  # magic, format, kind, bytes of payload, CRC-32 of what stands before it and the payload
PAGES_PER_FRAME = 256
DISK_BYTES_PER_FRAME = 1 << 20
SAID_MAX = 400  # characters of what the other side gives as its reason
ROUND, OFFSET, COUNT = struct.Struct("<II"), struct.Struct("<Q"), struct.Struct("<I")


class Kind(IntEnum):
    """Kinds of frame."""

    HELLO = 1  # JSON: what machine it is
    KERNEL = 2  # the ELF of a kernel of the user's own
    PAGES = 3  # count, so many page numbers, so many pages
    ROUND = 4  # the end of a round: its number, pages in it
    DISK = 5  # of a RAM disk: offset, bytes
    PARTS = 6  # every part's state but the CPU's (`pack_state`); the source has stopped
    STATE = 7  # the CPU's, and whether it ran; the source has let go of the disk
    YOURS = 8  # the source will not run the machine any more
    WELCOME = 16  # a machine was made that fits
    TAKEN = 17  # it is loaded, and has the disk
    RUNS = 18  # its next step is into the guest
    REFUSED = 19  # text: why the destination has thrown it away


SAID_BY_DESTINATION = (Kind.WELCOME, Kind.TAKEN, Kind.RUNS, Kind.REFUSED)

MOST_BYTES = {
    Kind.HELLO: 1 << 16,
    Kind.KERNEL: 64 << 20,
    Kind.PAGES: COUNT.size + PAGES_PER_FRAME * (4 + abi.PAGE_BYTES),
    Kind.ROUND: ROUND.size,
    Kind.DISK: OFFSET.size + DISK_BYTES_PER_FRAME,
    Kind.PARTS: 8 << 20,
    Kind.STATE: 8 << 20,
    Kind.REFUSED: 4 * SAID_MAX,
}


class Frame(NamedTuple):
    """What came."""

    kind: Kind
    payload: memoryview


class Refused(UsageError):
    """The other side does not want the machine, and says why."""


class Wire:
    """Frames over a channel. A frame that may not come now, or is damaged, is a UsageError; so is a refusal."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def send(self, kind: Kind, *parts: Any) -> None:
        """One frame; `parts` are bytes-like, and are its payload together. HostError: it cannot be sent.

        Refused, if the other side has said why it listens no more.
        """
        try:
            self._put(kind, parts)
        except HostError:
            self._look_for_refusal()
            raise

    def try_to_send(self, kind: Kind) -> bool:
        """A frame without payload, to somebody who may be gone: what they said before is there to be expected."""
        try:
            self._put(kind, ())
        except HostError:
            return False
        return True

    def _put(self, kind: Kind, parts: tuple[Any, ...]) -> None:
        size = sum(memoryview(part).nbytes for part in parts)
        head = HEAD.pack(MAGIC, FORMAT, kind, size, _checksum(kind, size, parts))
        self.channel.send(head, *parts)

    def expect(self, *kinds: Kind) -> Frame:
        """The next frame, which must be one of `kinds`."""
        magic, version, number, size, checksum = HEAD.unpack(self.channel.receive(HEAD.size))
        if magic != MAGIC:
            raise UsageError("what came is no migration of a labkit machine")
        if version != FORMAT:
            raise UsageError(f"the other side speaks format {version}, this labkit {FORMAT}: update one of them")
        kind = next((kind for kind in (*kinds, Kind.REFUSED) if kind == number), None)
        if kind is None:
            raise UsageError(f"frame {number} came where {' or '.join(kind.name for kind in kinds)} was due")
        if size > MOST_BYTES.get(kind, 0):
            raise UsageError(f"{kind.name} of {size} bytes: it has at most {MOST_BYTES.get(kind, 0)}")
        payload = memoryview(bytearray(size))
        self.channel.receive_into(payload)
        if checksum != _checksum(kind, size, [payload]):
            raise UsageError(f"{kind.name} was damaged on its way: its checksum is another")
        if kind is Kind.REFUSED:
            raise Refused(f"the destination refuses the machine: {_plain(payload)}")
        return Frame(kind, payload)

    def _look_for_refusal(self) -> None:
        """It may have said why before it closed; Refused then. What it said before that counts no more."""
        try:
            for _ in SAID_BY_DESTINATION:  # it can say each of them once, and the refusal comes last
                self.expect(*SAID_BY_DESTINATION)
        except Refused:
            raise
        except LabkitError:
            return


def _checksum(kind: int, size: int, parts: Any) -> int:
    checksum = zlib.crc32(HEAD.pack(MAGIC, FORMAT, kind, size, 0))
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum


def _plain(payload: memoryview) -> str:
    """Another process's words, so that they can stand in an error."""
    text = bytes(payload).decode(errors="replace")[:SAID_MAX]
    return "".join(character if character.isprintable() else " " for character in text)


# -- payloads ----------------------------------------------------------------------------------------------------------


def pack_json(value: Any) -> bytes:
    """For HELLO."""
    return json.dumps(value).encode()


def unpack_json(frame: Frame) -> Any:
    """UsageError: it is none."""
    try:
        return json.loads(bytes(frame.payload))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{frame.kind.name} cannot be read: {error}") from error


def pack_state(value: Any) -> bytes:
    """For states: how long its JSON is, the JSON with a size in the place of each bytes, and these in that order."""
    apart: list[bytes] = []

    def size(one: bytes) -> dict[str, int]:
        apart.append(one)
        return {"bytes": len(one)}

    text = json.dumps(value, default=size).encode()
    return b"".join([COUNT.pack(len(text)), text, *apart])


def unpack_state(frame: Frame) -> Any:
    """The value again. UsageError: it is none. Each byte is taken once, so it cannot be larger than the frame."""
    payload = bytes(frame.payload)
    text_bytes = COUNT.unpack_from(payload)[0] if len(payload) >= COUNT.size else 0
    begin = COUNT.size + text_bytes
    apart = io.BytesIO(payload[begin:])
    try:
        if begin > len(payload):
            raise ValueError("it ends too soon")
        value = json.loads(payload[COUNT.size : begin], object_hook=partial(_with_bytes, apart))
        if left := apart.read():
            raise ValueError(f"{len(left)} bytes of it belong nowhere")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{frame.kind.name} cannot be read: {error}") from error
    return value


def _with_bytes(apart: io.BytesIO, found: dict[str, Any]) -> Any:
    if found.keys() != {"bytes"}:
        return found
    size = found["bytes"]
    data = apart.read(size) if isinstance(size, int) and 0 <= size <= MOST_BYTES[Kind.STATE] else None
    if data is None or len(data) != size:
        raise ValueError(f"bytes that are not there: {size!r:.40}")
    return data


def page_lists(pages: array[int]) -> Iterator[array[int]]:
    """In pieces as long as a frame may be."""
    for at in range(0, len(pages), PAGES_PER_FRAME):
        yield pages[at : at + PAGES_PER_FRAME]


def unpack_pages(frame: Frame) -> tuple[array[int], memoryview]:
    """Their numbers and contents. UsageError: the two do not fit."""
    payload = frame.payload
    count = COUNT.unpack_from(payload)[0] if len(payload) >= COUNT.size else 0
    if len(payload) != COUNT.size + count * (4 + abi.PAGE_BYTES):
        raise UsageError(f"PAGES of {len(payload)} bytes is no list of {count} pages")
    contents = COUNT.size + 4 * count
    return array("I", bytes(payload[COUNT.size : contents])), payload[contents:]


def unpack_disk(frame: Frame) -> tuple[int, memoryview]:
    """Offset and bytes. UsageError: there is no offset."""
    if len(frame.payload) < OFFSET.size:
        raise UsageError("DISK without an offset")
    return OFFSET.unpack_from(frame.payload)[0], frame.payload[OFFSET.size :]


def unpack_round(frame: Frame) -> tuple[int, int]:
    """Number of the round, pages in it. UsageError: it is none."""
    if len(frame.payload) != ROUND.size:
        raise UsageError("ROUND without its numbers")
    number, pages = ROUND.unpack(frame.payload)
    return number, pages
