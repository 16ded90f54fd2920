"""What did a source say, and how can it be said wrong? A migration's stream on tape, and mutants of it by a seed."""

from __future__ import annotations

import copy
import errno
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import labkit
from labkit import HostError, Machine
from labkit.migration.address import parse
from labkit.migration.channel import connect
from labkit.migration.source import Limits, Source
from labkit.migration.wire import (
    COUNT,
    FORMAT,
    HEAD,
    MAGIC,
    MOST_BYTES,
    Frame,
    Kind,
    Wire,
    pack_json,
    pack_state,
    unpack_json,
    unpack_state,
)

Stream = list[tuple[int, bytes]]  # kind and payload of each frame

DEEP = "@deep@"  # what JSON's own writer cannot nest
DEEP_TEXT = b"[" * 100_000 + b"]" * 100_000
LONG_NUMBER, LONG_NUMBER_TEXT = "@long@", b"9" * 5000  # more digits than Python reads
EDGES = tuple(
    edge + more for edge in (0, *(1 << bit for bit in (8, 12, 15, 16, 20, 31, 32, 63, 64))) for more in (-1, 0, 1)
)
NONSENSE: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0.5,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x" * 5000,
        "\0",
        "\ud800",
        "é",
        "../../etc/passwd",
    ),
    *(
        [],
        {},
        [[]],
        [0] * 1000,
        {"": 0},
        {"bytes": "AAAA"},
        {"bytes": 5},
        {"bytes": "!"},
        {"bytes": "é"},
        {"bytes": []},
    ),
    *(DEEP, LONG_NUMBER),
)
KEYS = ("", "bytes", "\ud800", "\x1b[2J", "x" * 5000)


class Tee:
    """A channel, and all that was sent through it."""

    def __init__(self, channel: Any) -> None:
        self._channel, self.sent = channel, bytearray()

    def send(self, *parts: Any) -> None:
        """On, and onto the tape."""
        for part in parts:
            self.sent += memoryview(part).cast("B")
        self._channel.send(*parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


class Memory:
    """A channel whose other side has said all it will say, and hears nothing; then it is gone."""

    peer_is_me = is_local = True

    def __init__(self, said: bytes) -> None:
        self._said, self._at = memoryview(said), 0

    def receive(self, size: int) -> bytes:
        """As a Channel does."""
        if size > len(self._said) - self._at:
            raise HostError("recv", errno.ECONNRESET, "the tape is over")
        self._at += size
        return bytes(self._said[self._at - size : self._at])

    def receive_into(self, view: memoryview) -> None:
        """As a Channel does."""
        view[:] = self.receive(len(view))

    def send(self, *parts: Any) -> None:
        """To nobody."""


def record(vm: Machine, address: str, **options: Any) -> Stream:
    """Move `vm` to a machine that is closed at once; what its source said."""
    with labkit.listen(address, **options) as arrival:
        with connect(parse(arrival.address), timeout_s=10) as channel:
            tee: Any = Tee(channel)
            Source(vm._board, vm._irq, Wire(tee), Limits(0.005, 16), lambda _: None).move(vm._board.owner.call)
        arrival.machine(10).close()
    return list(unpacked(bytes(tee.sent)))


def unpacked(said: bytes) -> Iterator[tuple[int, bytes]]:
    """Its frames."""
    at = 0
    while at < len(said):
        _, _, kind, size, _ = HEAD.unpack_from(said, at)
        at += HEAD.size + size
        yield kind, said[at - size : at]


def packed(stream: Stream) -> bytes:
    """Frames with the heads and checksums that are due to them."""
    return b"".join(head(kind, payload) + payload for kind, payload in stream)


def head(kind: int, payload: bytes, *, magic: int = MAGIC, version: int = FORMAT, size: int | None = None) -> bytes:
    """A frame's head, with the checksum that fits it, whatever it says."""
    fields = (magic, version, kind, len(payload) if size is None else size)
    return HEAD.pack(*fields, zlib.crc32(payload, zlib.crc32(HEAD.pack(*fields, 0))))


# -- mutants -----------------------------------------------------------------------------------------------------------


def mutant(stream: Stream, chance: random.Random) -> tuple[str, bytes]:
    """What was done to it, and the bytes. Mostly with right checksums: the first check would catch all others."""
    change = chance.choices(tuple(CHANGES), tuple(CHANGES.values()))[0]
    return change.__name__, change(list(stream), chance)


def flipped(stream: Stream, chance: random.Random) -> bytes:
    """Bits as a bad line changes them; the checksums are not mended."""
    said = bytearray(packed(stream))
    for _ in range(chance.randint(1, 4)):
        said[chance.randrange(len(said))] ^= 1 << chance.randrange(8)
    return bytes(said)


def cut(stream: Stream, chance: random.Random) -> bytes:
    """The end is missing."""
    said = packed(stream)
    return said[: chance.randrange(len(said))]


def another_head(stream: Stream, chance: random.Random) -> bytes:
    """Magic, format, kind or size are something else, and the checksum fits."""
    at = chance.randrange(len(stream))
    kind, payload = stream[at]
    odd: dict[str, Any] = {
        "magic": chance.getrandbits(32),
        "version": chance.choice([0, FORMAT + 1, 0xFFFF]),
        "size": chance.choice([0, len(payload) + 1, MOST_BYTES.get(Kind(kind), 0) + 1, 0xFFFFFFFF]),
    }
    name = chance.choice(list(odd))
    bad = head(kind, payload, **{name: odd[name]}) + payload
    return packed(stream[:at]) + bad + packed(stream[at + 1 :])


def shuffled(stream: Stream, chance: random.Random) -> bytes:
    """Frames are missing, doubled, in another place, of another kind, or too many."""
    for _ in range(chance.randint(1, 3)):
        at, to = chance.randrange(len(stream)), chance.randrange(len(stream))
        match chance.randrange(5):
            case 0 if len(stream) > 1:
                del stream[at]
            case 1:
                stream.insert(to, stream[at])
            case 2:
                stream.insert(to, stream.pop(at))
            case 3:
                stream[at] = (chance.choice([*Kind, 0, 99, 0xFFFF]), stream[at][1])
            case _:
                stream.insert(at, (chance.choice(list(Kind)), chance.randbytes(chance.randrange(64))))
    return packed(stream)


def spoilt(stream: Stream, chance: random.Random) -> bytes:
    """A payload whose bytes are changed, cut or more, and the checksum fits; numbers stand at its beginning."""
    at = chance.randrange(len(stream))
    payload = bytearray(stream[at][1])
    place = chance.randrange(min(len(payload), chance.choice([12, 4096, len(payload)])) or 1) if payload else 0
    match chance.randrange(5):
        case 0:
            del payload[place:]
        case 1:
            payload[place:place] = chance.randbytes(chance.randint(1, 16))
        case 2:
            payload[place : place + 4] = (chance.choice(EDGES) & 0xFFFFFFFF).to_bytes(4, "little")
        case 3:
            payload[place : place + 8] = (chance.choice(EDGES) & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")
        case _:
            payload[place : place + 1] = chance.randbytes(1)
    stream[at] = (stream[at][0], bytes(payload)[: 1 << 20])
    return packed(stream)


def hello(stream: Stream, chance: random.Random) -> bytes:
    """HELLO says nonsense."""
    return _other_json(stream, Kind.HELLO, chance)


def state(stream: Stream, chance: random.Random) -> bytes:
    """PARTS or STATE says nonsense."""
    return _other_json(stream, chance.choice([Kind.PARTS, Kind.PARTS, Kind.STATE]), chance)


CHANGES: dict[Callable[[Stream, random.Random], bytes], int] = {
    flipped: 1, cut: 1, another_head: 1, shuffled: 3, spoilt: 3, hello: 4, state: 8,
}  # fmt: skip


def _other_json(stream: Stream, kind: Kind, chance: random.Random) -> bytes:
    at = next(at for at, frame in enumerate(stream) if frame[0] == kind)
    frame = Frame(kind, memoryview(stream[at][1]))
    said = unpack_json(frame) if kind is Kind.HELLO else unpack_state(frame)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        said = other_value(said, chance)
    payload = pack_json(said) if kind is Kind.HELLO else pack_state(said)
    for mark, instead in ((DEEP, DEEP_TEXT), (LONG_NUMBER, LONG_NUMBER_TEXT)):
        longer = len(instead) - len(mark) - 2 if f'"{mark}"'.encode() in payload else 0
        payload = payload.replace(f'"{mark}"'.encode(), instead, 1)
        if longer and kind is not Kind.HELLO:
            payload = COUNT.pack(COUNT.unpack_from(payload)[0] + longer) + payload[COUNT.size :]
    return packed([*stream[:at], (kind, payload), *stream[at + 1 :]])


def other_value(value: Any, chance: random.Random) -> Any:
    """One value somewhere in it is another, or is missing, or is one too many."""
    places = list(_places(value))
    if not places:
        return _nonsense(chance)
    holder, key = chance.choice(places)
    match chance.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[chance.choice([f"{key}+", *KEYS])] = holder[key]
        case 1:
            holder.append(holder[key])
        case 2:
            holder[key] = _nonsense(chance)
        case _:
            holder[key] = _near(holder[key], chance)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _places(one)


def _nonsense(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(NONSENSE))  # what is in it may be changed next


def _near(value: Any, chance: random.Random) -> Any:
    """Something of the same type, so that the checks behind the first see it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice([value + 1, value - 1, value ^ 1 << chance.randrange(16), chance.choice(EDGES)])
    if isinstance(value, bytes) and value:
        return _near_bytes(bytearray(value), chance)
    if isinstance(value, str):
        return chance.choice(
            [value + " ", value[:-1], value.upper(), chance.choice(["v6", "0.14", "kvm", "emulated", "net"])]
        )
    return _nonsense(chance)


def _near_bytes(value: bytearray, chance: random.Random) -> bytes:
    at, width = chance.randrange(len(value)), chance.choice([1, 2, 4, 8])
    match chance.randrange(6):
        case 0:
            return bytes(value[:at])
        case 1:
            return bytes(value) + chance.randbytes(chance.choice([1, 8, 4096]))
        case 2:
            return bytes(value).translate(bytes([chance.choice([0, 0xFF])]) * 256)
        case 3:
            value[at] ^= 1 << chance.randrange(8)
        case 4:
            value[at : at + width] = chance.randbytes(width)[: len(value) - at]
        case _:
            at -= at % width
            value[at : at + width] = (chance.choice(EDGES) % (1 << 8 * width)).to_bytes(width, "little")[
                : len(value) - at
            ]
    return bytes(value)
