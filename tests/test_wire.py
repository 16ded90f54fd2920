"""Do frames arrive as they were sent, and does anything else end in an error that says what came?"""

from __future__ import annotations

import json
import socket
import struct
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import DEEP_TEXT, LONG_NUMBER_TEXT, Memory, head, packed

from labkit import HostError, UsageError, abi
from labkit.migration.address import parse
from labkit.migration.channel import Channel
from labkit.migration.wire import (
    COUNT,
    DISK_BYTES_PER_FRAME,
    FORMAT,
    HEAD,
    MAGIC,
    MOST_BYTES,
    OFFSET,
    PAGES_PER_FRAME,
    ROUND,
    SAID_MAX,
    Frame,
    Kind,
    Refused,
    Wire,
    pack_json,
    page_lists,
    unpack_disk,
    unpack_json,
    unpack_pages,
    unpack_round,
)

FIRST = [kind for kind in Kind if kind is not Kind.REFUSED]
PAGE = abi.PAGE_BYTES

pytestmark = pytest.mark.usefixtures("leaves_nothing")


def heard(said: bytes) -> Wire:
    """A wire on which that came, and then nothing."""
    channel: Any = Memory(said)
    return Wire(channel)


def frame(kind: Kind, payload: bytes) -> Frame:
    """As `expect` gives it."""
    return Frame(kind, memoryview(bytearray(payload)))


@pytest.fixture
def pair() -> Iterator[tuple[Wire, Wire]]:
    """Two ends of one socket."""
    ends = [Channel(end, parse("unix:x.sock"), 10) for end in socket.socketpair()]
    yield Wire(ends[0]), Wire(ends[1])
    for end in ends:
        end.close()


# -- frames ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FIRST)
def test_a_frame_arrives_as_it_was_sent(pair: tuple[Wire, Wire], kind: Kind) -> None:
    """Kind and payload, put together of parts of any type; one without payload too."""
    parts: list[Any] = [b"ab", array("I", [1]), memoryview(b"xyz")[1:]] if kind in MOST_BYTES else []
    pair[0].send(kind, *parts[: MOST_BYTES.get(kind, 0) // 4])
    came = pair[1].expect(kind)
    assert (came.kind, bytes(came.payload)) == (kind, b"".join(map(bytes, parts[: MOST_BYTES.get(kind, 0) // 4])))


@given(st.lists(st.tuples(st.sampled_from(FIRST), st.binary(max_size=8)), max_size=5))
def test_frames_come_one_after_the_other(stream: list[tuple[Kind, bytes]]) -> None:
    """What was put on the wire comes off it, in order, and nothing else."""
    stream = [(kind, payload if kind in MOST_BYTES else b"") for kind, payload in stream]
    wire = heard(packed([(int(kind), payload) for kind, payload in stream]))
    assert [(kind, bytes(wire.expect(kind).payload)) for kind, _ in stream] == stream
    with pytest.raises(HostError):
        wire.expect(Kind.HELLO)


@pytest.mark.parametrize("kind", MOST_BYTES)
def test_a_frame_is_no_larger_than_its_kind_may_be(kind: Kind) -> None:
    """A size beyond is refused before a byte of it is waited for, or any memory is taken."""
    said = HEAD.pack(MAGIC, FORMAT, kind, MOST_BYTES[kind] + 1, 0)
    with pytest.raises(
        UsageError, match=f"{kind.name} of {MOST_BYTES[kind] + 1} bytes: it has at most {MOST_BYTES[kind]}"
    ):
        heard(said).expect(kind)


@pytest.mark.parametrize("kind", sorted(set(FIRST) - MOST_BYTES.keys()))
def test_a_word_without_a_payload_has_none(kind: Kind) -> None:
    """WELCOME, TAKEN, YOURS and RUNS are their head alone."""
    with pytest.raises(UsageError, match="of 1 bytes: it has at most 0"):
        heard(packed([(kind, b"!")])).expect(kind)


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.ROUND, Kind.STATE, Kind.PAGES])
def test_a_frame_of_the_largest_size_is_taken(kind: Kind) -> None:
    """The bound itself is allowed."""
    payload = bytes(MOST_BYTES[kind])
    assert len(heard(packed([(kind, payload)])).expect(kind).payload) == len(payload)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (head(Kind.HELLO, b"", magic=MAGIC ^ 1), "no migration of a labkit machine"),
        (b"GET / HTTP/1.1\r\n\r\n", "no migration of a labkit machine"),
        (head(Kind.HELLO, b"", version=FORMAT + 1), f"speaks format {FORMAT + 1}, this labkit {FORMAT}: update one"),
        (head(Kind.PAGES, b""), "frame 3 came where HELLO or KERNEL was due"),
        (head(99, b""), "frame 99 came where HELLO or KERNEL was due"),
    ],
)
def test_what_is_no_frame_that_is_due(said: bytes, why: str) -> None:
    """Magic, format and kind are looked at, in this order."""
    with pytest.raises(UsageError, match=why):
        heard(said).expect(Kind.HELLO, Kind.KERNEL)


@given(st.binary(min_size=1, max_size=40), st.data())
def test_any_flipped_bit_is_found(payload: bytes, data: st.DataObject) -> None:
    """Of head or payload: what comes is never taken for what was said."""
    said = bytearray(packed([(Kind.HELLO, payload)]))
    bit = data.draw(st.integers(0, 8 * len(said) - 1))
    said[bit // 8] ^= 1 << bit % 8
    with pytest.raises((UsageError, HostError)):
        heard(bytes(said)).expect(Kind.HELLO)


@given(st.binary(max_size=40), st.data())
def test_a_cut_frame_is_a_lost_connection(payload: bytes, data: st.DataObject) -> None:
    """Wherever it is cut."""
    said = packed([(Kind.HELLO, payload)])
    with pytest.raises(HostError, match="recv"):
        heard(said[: data.draw(st.integers(0, len(said) - 1))]).expect(Kind.HELLO)


# -- a refusal ---------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=MOST_BYTES[Kind.REFUSED]))
def test_a_refusal_is_printable(why: bytes) -> None:
    """Whatever the other side gives as its reason can stand in an error: no control characters, not too long."""
    with pytest.raises(Refused) as refused:
        heard(packed([(Kind.REFUSED, why)])).expect(Kind.WELCOME)
    said = str(refused.value).removeprefix("the destination refuses the machine: ")
    assert said.isprintable()
    assert len(said) <= SAID_MAX


def test_a_refusal_comes_whenever_it_likes(pair: tuple[Wire, Wire]) -> None:
    """In the place of any frame, with its reason."""
    for kind in (Kind.WELCOME, Kind.TAKEN, Kind.RUNS):
        pair[1].send(Kind.REFUSED, "no room é".encode())
        with pytest.raises(Refused, match="refuses the machine: no room é"):
            pair[0].expect(kind)


def test_who_cannot_send_hears_why(pair: tuple[Wire, Wire]) -> None:
    """The other side said why before it closed: that is the error, not the broken pipe."""
    pair[1].send(Kind.REFUSED, b"another disk")
    pair[1].channel.close()
    with pytest.raises(Refused, match="another disk"):
        pair[0].send(Kind.PAGES, bytes(100))


def test_a_refusal_is_heard_behind_what_was_said_before_it(pair: tuple[Wire, Wire]) -> None:
    """A welcome that nobody had read yet does not hide the reason."""
    for kind in (Kind.WELCOME, Kind.TAKEN, Kind.RUNS):
        pair[1].send(kind)
    pair[1].send(Kind.REFUSED, b"another disk")
    pair[1].channel.close()
    with pytest.raises(Refused, match="another disk"):
        pair[0].send(Kind.PAGES, bytes(100))


def test_who_cannot_send_and_hears_nothing(pair: tuple[Wire, Wire]) -> None:
    """Without a reason it is the broken connection."""
    pair[1].channel.close()
    with pytest.raises(HostError, match="closed the connection or died"):
        pair[0].send(Kind.PAGES, bytes(100))


def test_what_else_the_dead_had_said_is_no_reason(pair: tuple[Wire, Wire]) -> None:
    """Frames that nobody waits for any more do not hide that the connection broke."""
    pair[1].send(Kind.YOURS)
    pair[1].channel.close()
    with pytest.raises(HostError, match="closed the connection or died"):
        pair[0].send(Kind.PAGES, bytes(100))


# -- payloads ----------------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=10,
)


@given(plain)
def test_json_is_what_it_was(value: object) -> None:
    """HELLO and STATE are plain values."""
    assert unpack_json(frame(Kind.STATE, pack_json(value))) == value


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"nope", DEEP_TEXT, b'{"a":' * 100_000, LONG_NUMBER_TEXT])
def test_what_is_no_json(text: bytes) -> None:
    """Damaged, too deep, or too long to count: one clear error, which is short."""
    with pytest.raises(UsageError, match="HELLO cannot be read") as refused:
        unpack_json(frame(Kind.HELLO, text))
    assert len(str(refused.value)) < SAID_MAX


@pytest.mark.parametrize("count", [0, 1, PAGES_PER_FRAME])
def test_pages_are_numbers_and_contents(count: int) -> None:
    """As many of one as of the other."""
    numbers, contents = array("I", range(7, 7 + count)), bytes(range(256)) * (count * PAGE // 256)
    found, data = unpack_pages(frame(Kind.PAGES, COUNT.pack(count) + numbers.tobytes() + contents))
    assert (found, bytes(data)) == (numbers, contents)


@given(st.integers(0, (1 << 32) - 1), st.integers(0, 3 * PAGE))
def test_pages_of_another_length_are_refused(count: int, size: int) -> None:
    """A count that does not fit the payload; one that would wrap a 32-bit product too."""
    if size != count * (PAGE + 4):
        with pytest.raises(UsageError, match="is no list of"):
            unpack_pages(frame(Kind.PAGES, COUNT.pack(count) + bytes(size)))


@pytest.mark.parametrize("size", range(COUNT.size))
def test_pages_without_a_count(size: int) -> None:
    """Not even that."""
    with pytest.raises(UsageError, match="is no list of 0 pages"):
        unpack_pages(frame(Kind.PAGES, bytes(size)))


@given(st.integers(0, 3 * PAGES_PER_FRAME))
def test_page_lists_are_as_long_as_a_frame_may_be(count: int) -> None:
    """All of them, in order, none empty."""
    pages = array("I", range(count))
    lists = list(page_lists(pages))
    assert [page for some in lists for page in some] == list(pages)
    assert all(0 < len(some) <= PAGES_PER_FRAME for some in lists)


def test_disk_and_round() -> None:
    """Offset and bytes; number and pages. Anything too short or too long is refused."""
    offset, data = unpack_disk(frame(Kind.DISK, OFFSET.pack((1 << 64) - 1) + b"abc"))
    assert (offset, bytes(data)) == ((1 << 64) - 1, b"abc")
    assert MOST_BYTES[Kind.DISK] - OFFSET.size == DISK_BYTES_PER_FRAME
    assert unpack_round(frame(Kind.ROUND, ROUND.pack(3, 4))) == (3, 4)
    for size in range(OFFSET.size):
        with pytest.raises(UsageError, match="without an offset"):
            unpack_disk(frame(Kind.DISK, bytes(size)))
    for size in (0, ROUND.size - 1, ROUND.size + 1):
        with pytest.raises(UsageError, match="without its numbers"):
            unpack_round(frame(Kind.ROUND, bytes(size)))


def test_what_is_packed_is_json_that_others_read() -> None:
    """No number and no text that only Python knows."""
    assert json.loads(pack_json({"a": [1, "é"]})) == {"a": [1, "é"]}
    assert struct.calcsize("<IHHII") == HEAD.size
