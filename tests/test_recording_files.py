"""Is a recording's file checked before it is believed? Whatever is in it: a recording, or one clear error."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from fuzzing import FULL, much
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import labkit
from labkit import UsageError
from labkit.recording import Recording
from labkit.trace import file
from labkit.trace.events import Kind
from labkit.trace.fields import OF_DEVICE, OF_QUEUE
from labkit.trace.file import COLUMNS, EVENT_BYTES, FORMAT, MAGIC, PREFIX

SAMPLE = (Path(__file__).parent / "data" / "format1.labkit").read_bytes()
settings_here = settings(
    max_examples=much(300, 20000),
    derandomize=not FULL,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def replayed(content: bytes, tmp_path: Path) -> Recording:
    """Write it to a file and replay that."""
    path = tmp_path / "recording"
    path.write_bytes(content)
    return labkit.replay(path)


def parts(content: bytes = SAMPLE) -> tuple[dict[str, Any], bytes]:
    """Header and columns of a file."""
    _, _, header, events = PREFIX.unpack_from(content)
    at = PREFIX.size + header
    return json.loads(content[PREFIX.size : at]), zlib.decompress(content[at : at + events])


def sealed(header: dict[str, Any] | bytes, columns: bytes, version: int = FORMAT, packed: bytes | None = None) -> bytes:
    """A file with a checksum that is right, whatever it holds."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    events = zlib.compress(columns) if packed is None else packed
    whole = PREFIX.pack(MAGIC, version, len(text), len(events)) + text + events
    return whole + hashlib.sha256(whole).digest()


def look_at_everything(recording: Recording) -> None:
    """Each view at each end."""
    for position in (recording.start, recording.end):
        recording.seek(position)
        repr(recording), recording._repr_html_(), repr(recording.proxy)
        for queue in recording.proxy.queues:
            repr(queue), repr(queue.notifier), queue.vector, queue.in_flight, queue.notifier.fd
        repr(recording.event), recording.values(), recording.state, recording.crash
    repr(recording.diff(recording.start)), repr(recording.trace), recording.trace._repr_html_()


# -- damage ------------------------------------------------------------------------------------------------------------


@settings_here
@given(at=st.integers(0, len(SAMPLE) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    """Wherever it is."""
    content = bytearray(SAMPLE)
    content[at] ^= 1 << bit
    with pytest.raises(UsageError, match="recording"):
        replayed(bytes(content), tmp_path_factory.getbasetemp())


@settings_here
@given(size=st.integers(0, len(SAMPLE) - 1), more=st.binary(max_size=3))
def test_a_part_of_a_file_is_none(tmp_path_factory: pytest.TempPathFactory, size: int, more: bytes) -> None:
    """Cut off anywhere, or with something behind it."""
    for content in (SAMPLE[:size], SAMPLE[:size] + more, SAMPLE + more + b"."):
        with pytest.raises(UsageError, match="recording"):
            replayed(content, tmp_path_factory.getbasetemp())


@settings_here
@given(content=st.binary(max_size=200), begins=st.booleans())
def test_noise_is_no_recording(tmp_path_factory: pytest.TempPathFactory, content: bytes, begins: bool) -> None:
    """With the magic before it, or without."""
    with pytest.raises(UsageError):
        replayed((MAGIC if begins else b"") + content, tmp_path_factory.getbasetemp())


# -- lies: the checksum is right ---------------------------------------------------------------------------------------

numbers = st.one_of(
    st.integers(-2, 70), st.sampled_from([2**16, 2**31, 2**32, 2**63, 2**64 - 1, 2**64, -(2**70)]), st.none()
)
things = st.sampled_from([[], {}, True, "", "\x1b"])
nonsense = st.one_of(numbers, things, st.text(max_size=4), st.floats())


@settings_here
@given(data=st.data())
def test_a_header_that_lies(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any one value replaced or left out: it is refused, or it can be looked at from all sides."""
    header, columns = parts()
    table = data.draw(st.sampled_from([header, header["facts"], header["device"], header["queues"][0]]))
    name = data.draw(st.sampled_from(sorted(table)))
    if data.draw(st.booleans()):
        table[name] = data.draw(nonsense)
    else:
        del table[name]
    try:
        recording = replayed(sealed(header, columns), tmp_path_factory.getbasetemp())
    except UsageError:
        return
    look_at_everything(recording)


@settings_here
@given(data=st.data())
def test_events_that_lie(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any numbers in any event, also where earlier ones were lost: refused, or looked at from all sides."""
    header, columns = parts()
    count, changed = header["events"], bytearray(columns)
    header["lost"] = data.draw(st.sampled_from([0, 0, 7, 2**61, 2**62]))
    for _ in range(data.draw(st.integers(1, 20))):
        column, event = data.draw(st.integers(0, len(COLUMNS) - 1)), data.draw(st.integers(0, count - 1))
        size = struct.calcsize("<" + COLUMNS[column])
        at = count * struct.calcsize("<" + COLUMNS[:column]) + event * size
        most = max(Kind) if column == 1 else 2 ** (8 * size) - 1
        value = data.draw(st.one_of(st.integers(0, min(most, 70)), st.integers(0, most)))
        changed[at : at + size] = value.to_bytes(size, "little")
    try:
        recording = replayed(sealed(header, bytes(changed)), tmp_path_factory.getbasetemp())
    except UsageError:
        return
    look_at_everything(recording)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"[]", "no table"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"facts": NaN}', "no whole number"),
        (b'{"events": ' + b"9" * 10_000 + b"}", "no JSON"),
        (b'{"facts": {}}', "missing"),
    ],
)
def test_a_header_that_is_none(tmp_path: Path, header: bytes, says: str) -> None:
    """Named as what it is, with the file's name."""
    with pytest.raises(UsageError, match=says) as caught:
        replayed(sealed(header, b""), tmp_path)
    assert "recording is a damaged recording" in str(caught.value)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """What unpacks to more than was announced is refused, and so is an announcement of too much."""
    header, columns = parts()
    for packed in (zlib.compress(columns + bytes(1 << 28)), zlib.compress(columns)[:-1], zlib.compress(columns) + b"."):
        with pytest.raises(UsageError, match="events"):
            replayed(sealed(header, b"", packed=packed), tmp_path)
    header["events"] = file.EVENTS_MAX + 1
    with pytest.raises(UsageError, match="events is not between"):
        replayed(sealed(header, bytes(EVENT_BYTES * header["events"])), tmp_path)


# -- newer -------------------------------------------------------------------------------------------------------------


def test_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    """It says which format it is and which this labkit reads; a kind that this one does not know says the same."""
    header, columns = parts()
    with pytest.raises(
        UsageError, match=rf"newer labkit \(format {FORMAT + 1}; this one reads up to {FORMAT}\): update"
    ):
        replayed(sealed(header, columns, FORMAT + 1), tmp_path)
    at = 8 * header["events"]
    unknown = columns[:at] + struct.pack("<H", max(Kind) + 1) + columns[at + 2 :]
    with pytest.raises(UsageError, match=r"newer labkit .*update"):
        replayed(sealed(header, unknown), tmp_path)


@pytest.mark.parametrize("path", ["none", ".", "/proc/self/mem"])
def test_what_cannot_be_read(path: str, tmp_path: Path) -> None:
    """No such file, a folder, a file that does not let itself be read."""
    with pytest.raises(UsageError, match="recording"):
        labkit.replay(tmp_path / path)


def test_an_endless_file_is_not_read_to_its_end() -> None:
    """Nothing that is larger than any recording."""
    with pytest.raises(UsageError, match="not a recording"):
        labkit.replay("/dev/zero")


def test_a_recording_without_events(tmp_path: Path) -> None:
    """One moment, and nothing to step to."""
    header, _ = parts()
    header["events"] = 0
    recording = replayed(sealed(header, b""), tmp_path)
    look_at_everything(recording)
    assert (recording.step().position, recording.event, recording.time_s) == (0, None, 0.0)
    assert recording.trace.events() == []
    assert len(recording.trace.timeline()._repr_png_()) > 1000


# -- the format and what it describes ----------------------------------------------------------------------------------


def test_what_is_packed_is_unpacked(tmp_path: Path) -> None:
    """Loaded, saved again and loaded it says the same."""
    recording = replayed(SAMPLE, tmp_path)
    again = replayed(file.pack(recording._recorded), tmp_path)
    assert again._recorded == recording._recorded


def test_a_new_kind_or_field_is_a_new_format() -> None:
    """What the format can say; whoever adds to it raises FORMAT, and keeps the old ones readable."""
    assert (FORMAT, max(Kind), len(OF_DEVICE), len(OF_QUEUE)) == (3, 42, 14, 14)
