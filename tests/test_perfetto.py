"""Does the file for ui.perfetto.dev say what the events say? Read back by perfetto's own protocol."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos
from recordings import recorded
from rulebook import Boot

import labkit
from labkit.recording import Recording
from labkit.trace import perfetto
from labkit.trace.recorded import Recorded
from labkit.trace.tracepoints import KernelEvent

SAMPLE = Path(__file__).parent / "data" / "format1.labkit"
MONOTONIC = protos.BUILTIN_CLOCK_MONOTONIC
BEGIN, END = protos.TrackEvent.TYPE_SLICE_BEGIN, protos.TrackEvent.TYPE_SLICE_END
INSTANT, COUNTER = protos.TrackEvent.TYPE_INSTANT, protos.TrackEvent.TYPE_COUNTER


class Slice(NamedTuple):
    """A slice that was read back; `inside` says how deep."""

    name: str
    begin_ns: int
    end_ns: int
    inside: int
    fields: dict[str, Any]


class Shown:
    """A file, as its reader has it."""

    def __init__(self, content: bytes) -> None:
        self.trace = protos.Trace.FromString(content)
        described = [packet.track_descriptor for packet in self.trace.packet if packet.HasField("track_descriptor")]
        self.names = {track.uuid: track.name for track in described}
        self.parents = {track.uuid: track.parent_uuid for track in described}
        self.events = [packet for packet in self.trace.packet if packet.HasField("track_event")]

    def on(self, track: str, *kinds: int) -> list[Any]:
        """The packets of one track, in the order of the file."""
        found = [packet for packet in self.events if self.names[packet.track_event.track_uuid] == track]
        return [packet for packet in found if not kinds or packet.track_event.type in kinds]

    def slices(self, track: str) -> list[Slice]:
        """Those of a track; an end belongs to the slice that began last."""
        open_ones: list[Any] = []
        found = []
        for packet in self.on(track, BEGIN, END):
            if packet.track_event.type == BEGIN:
                open_ones.append(packet)
                continue
            begun = open_ones.pop()
            assert packet.timestamp >= begun.timestamp
            said = fields(begun) | fields(packet)
            found.append(Slice(begun.track_event.name, begun.timestamp, packet.timestamp, len(open_ones), said))
        assert not open_ones, f"{len(open_ones)} slices of {track} have no end"
        return sorted(found, key=lambda one: (one.begin_ns, one.end_ns))


def fields(packet: Any) -> dict[str, Any]:
    """The fields beside an event."""
    return {note.name: getattr(note, note.WhichOneof("value")) for note in packet.track_event.debug_annotations}


def busy(vm: labkit.Machine) -> Recorded:
    """A machine that went through every owner, and its recording."""
    vm.guest.read(0)
    vm.pause()
    vm.resume()
    vm.hand_over()
    vm.guest.read(1)
    vm.take_back()
    vm.guest.read(2)
    vm.reset()
    return recorded(vm)


@pytest.fixture
def made(boot: Boot) -> Recorded:
    """A recording with something of everything."""
    return busy(boot())


def test_every_event_is_there_once_at_its_time(made: Recorded) -> None:
    """With each of its fields, in the track of its thread, or as a step's begin or end."""
    shown = Shown(perfetto.pack(made))
    found = {}
    for packet in shown.events:
        said = fields(packet)
        number = said.get("seq", said.get("seq when done"))
        track = shown.names[packet.track_event.track_uuid]
        if number is not None and not track.startswith(("queue", "machine")):
            assert number not in found, f"event {number} stands twice"
            found[number] = (
                packet.timestamp,
                {name.removesuffix(" when done"): value for name, value in said.items()},
                track,
            )
    events, _ = made.read()
    assert found.keys() == {event.seq for event in events}
    for event in events:
        time_ns, said, track = found[event.seq]
        assert time_ns == event.time_ns
        assert {name: said[name] for name in event.values} == event.values
        assert said["thread"] == event.actor
        assert track == event.actor or (
            event.name.startswith("step") and track == f"guest's steps, vcpu{event['vcpu']}"
        )


@pytest.mark.parametrize("kept", [1000, 40, 7, 0], ids="{} events".format)
def test_slices_have_an_end_and_lie_in_each_other(made: Recorded, kept: int) -> None:
    """On every track, also where the first events are lost; and the file is in order of time."""
    lost = max(0, len(made.records) - kept)
    shown = Shown(perfetto.pack(made._replace(lost=lost, records=made.records[lost:])))
    for name in shown.names.values():
        shown.slices(name)
    times = [packet.timestamp for packet in shown.events]
    assert times == sorted(times)
    assert len(set(shown.names.values())) == len(shown.names), "two tracks have one name"


def test_the_clock_is_monotonic(made: Recorded) -> None:
    """It is said once what the trace's clock is, and with every event that it is meant."""
    shown = Shown(perfetto.pack(made))
    assert shown.trace.packet[0].clock_snapshot.primary_trace_clock == MONOTONIC
    (clock,) = shown.trace.packet[0].clock_snapshot.clocks
    assert (clock.clock_id, clock.timestamp) == (MONOTONIC, made.records[0][1])
    assert {packet.timestamp_clock_id for packet in shown.events} == {MONOTONIC}
    assert len({packet.trusted_packet_sequence_id for packet in shown.events}) == 1


@pytest.mark.parametrize("kept", [1000, 30])
def test_bands_are_the_owners_that_a_replay_shows(made: Recorded, kept: int) -> None:
    """At every event, also where the first ones are lost; a band says by which rule it began."""
    lost = max(0, len(made.records) - kept)
    made = made._replace(lost=lost, records=made.records[lost:])
    bands = [one for one in Shown(perfetto.pack(made)).slices("queue 0") if one.inside == 0]
    replayed = Recording(made)
    begins = [band.fields.get("seq", lost) for band in bands] + [made.position() + 1]
    for band, first, after in zip(bands, begins, begins[1:], strict=False):
        owners = {replayed.moment(position).proxy.queues[0].notifier.owner for position in range(first, after)}
        assert {owner or "?" for owner in owners} == {band.name}
    assert [band.end_ns for band in bands[:-1]] == [band.begin_ns for band in bands[1:]]
    if not lost:
        assert {"none", "vmm", "backend"} == {band.name for band in bands}
        assert {"R2", "R9", "R10"} <= {band.fields.get("rule") for band in bands}


def test_counts_are_what_a_replay_shows(made: Recorded) -> None:
    """avail.idx less used.idx, wherever it changes."""
    shown = Shown(perfetto.pack(made))
    counts = {
        packet.timestamp: packet.track_event.counter_value for packet in shown.on("queue 0: avail - used", COUNTER)
    }
    replayed, expected, before = Recording(made), {}, None
    for position in range(replayed.end + 1):
        queue = replayed.moment(position).proxy.queues[0]
        indices = queue.avail_idx, queue.used_idx
        known = None not in (replayed._moments.at(position)[name, 0] for name in ("avail_idx", "used_idx"))
        if known and indices != before and (event := replayed.moment(position).event):
            expected[event.time_ns] = 0 if None in indices else (indices[0] - indices[1]) & 0xFFFF
        before = indices
    assert {time: count for time, count in counts.items() if time in expected} == expected
    assert max(counts.values()) == 1


def test_kicks_stand_at_their_queue_with_an_arrow_to_the_run(made: Recorded) -> None:
    """By path; each arrow begins at one kick and ends at one run, in the thread that served it."""
    shown = Shown(perfetto.pack(made))
    kicks = Counter(packet.track_event.name.split(" ")[0] for packet in shown.on("queue 0", INSTANT))
    taken = [event for event in made.read()[0] if event.name in ("kick_eventfd", "drain")]
    assert kicks["signalled"] == sum(event.name == "kick_eventfd" and bool(event["kicks"]) for event in taken) > 0
    assert kicks["synthetic"] == sum(not event["kicks"] and not event["forwarded"] for event in taken) > 0
    assert kicks["trapped"] == 1
    begins = {number: p for p in shown.events for number in p.track_event.flow_ids}
    ends = {number: p for p in shown.events for number in p.track_event.terminating_flow_ids}
    assert begins.keys() == ends.keys()
    assert begins
    for number, kick in begins.items():
        assert fields(kick)["thread"] == shown.names[ends[number].track_event.track_uuid]
        assert kick.timestamp <= ends[number].timestamp
        assert ends[number].track_event.name.startswith("run of queue 0, ")


def test_a_run_holds_what_it_did(made: Recorded) -> None:
    """The request and the interrupt of a read lie in the slice of the run that served it."""
    shown = Shown(perfetto.pack(made))
    runs = [one for thread in ("iothread", "backend", "vcpu0") for one in shown.slices(thread)]
    requests = [p.timestamp for p in shown.events if p.track_event.name == "request"]
    assert len(requests) == 3
    for time_ns in requests:
        assert any(run.begin_ns <= time_ns <= run.end_ns for run in runs)


def test_a_track_for_each_vcpu_and_each_queue(boot: Boot) -> None:
    """Under one heading, which says what machine it is."""
    vm = boot("null", queues=3, vcpus=2)
    vm.guest.kick(1)
    shown = Shown(perfetto.pack(recorded(vm)))
    (root,) = [uuid for uuid, parent in shown.parents.items() if not parent]
    assert vm.name in shown.names[root]
    assert {parent for uuid, parent in shown.parents.items() if uuid != root} == {root}
    assert {"machine", "owner", "queue 0", "queue 1", "queue 2", "guest's steps, vcpu0"} <= set(shown.names.values())


def test_the_kernel_has_tracks_of_its_own(made: Recorded) -> None:
    """One for each thread that it saw, with the kernel's own text beside what was read of it."""
    points = [
        KernelEvent(made.records[0][1] - 1000, "vcpu0", 1, "kvm_pio", {"port": "0xc010"}, "pio_write at 0xc010"),
        KernelEvent(made.records[-1][1], "iothread", 0, "kvm_set_irq", {"gsi": 11}, "gsi 11 level 1 source 0"),
    ]
    shown = Shown(perfetto.pack(made, points))
    (kick,), (irq,) = shown.on("kernel: vcpu0"), shown.on("kernel: iothread")
    assert (kick.timestamp, kick.track_event.name) == (points[0].time_ns, "kvm_pio")
    assert fields(kick) == {"port": "0xc010", "host_cpu": 1, "text": "pio_write at 0xc010"}
    assert fields(irq)["gsi"] == 11
    assert shown.trace.packet[0].clock_snapshot.clocks[0].timestamp == points[0].time_ns


def test_an_old_recording_too(tmp_path: Path) -> None:
    """Through the front door, from a file, with no machine."""
    recording = labkit.replay(SAMPLE)
    recording.trace.perfetto(tmp_path / "old.pftrace")
    shown = Shown((tmp_path / "old.pftrace").read_bytes())
    threads = defaultdict(int)
    for packet in shown.events:
        threads[shown.names[packet.track_event.track_uuid]] += 1
    assert {"iothread", "backend", "owner", "machine", "queue 0"} <= threads.keys()


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra nothing is written, and the error says how it comes."""
    recording = labkit.replay(SAMPLE)
    monkeypatch.setitem(sys.modules, "perfetto.protos.perfetto.trace", None)
    with pytest.raises(labkit.UsageError, match=r"pip install 'labkit\[perfetto\]'"):
        recording.trace.perfetto(tmp_path / "none.pftrace")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    with pytest.raises(labkit.UsageError, match="No such file"):
        recording.trace.perfetto(tmp_path / "nowhere" / "one.pftrace")
