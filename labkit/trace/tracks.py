"""How is a file for ui.perfetto.dev written? Named tracks, and slices, instants and counters on them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from labkit.errors import UsageError

NOTHING_THERE = "vm.trace.perfetto() needs the package perfetto: pip install 'labkit[perfetto]'"
SEQUENCE = 1  # all packets are of one
Fields = Mapping[str, object]


class Tracks:
    """A trace under construction. Times are nanoseconds of CLOCK_MONOTONIC, and may come in any order.

    What is put on one track at one time stays in the order in which it was put there. UsageError: no perfetto here.
    """

    def __init__(self) -> None:
        try:
            from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos
        except ImportError as error:
            raise UsageError(NOTHING_THERE) from error
        self._protos = protos
        self._tracks: list[Any] = []
        self._events: list[Any] = []
        self._uuids = itertools.count(1)

    def add(self, name: str, parent: int | None = None, *, unit: str = "") -> int:
        """A track below another, in the order of the calls; with a unit it takes counts. Returns its number."""
        packet = self._protos.TracePacket(trusted_packet_sequence_id=SEQUENCE)
        track = packet.track_descriptor
        track.uuid, track.name = next(self._uuids), name
        track.child_ordering = track.EXPLICIT
        if parent is not None:
            track.parent_uuid, track.sibling_order_rank = parent, track.uuid
        if unit:
            track.counter.unit_name = unit
        self._tracks.append(packet)
        return int(track.uuid)

    def begin(self, track: int, time_ns: int, name: str, fields: Fields, *, comes_from: Iterable[int] = ()) -> None:
        """A slice begins; `comes_from`: an arrow leads here from each instant that has that number in `leads_to`."""
        told = self._event(track, time_ns, "TYPE_SLICE_BEGIN", fields)
        told.name = name
        told.terminating_flow_ids.extend(comes_from)

    def end(self, track: int, time_ns: int, fields: Fields | None = None) -> None:
        """The slice that began last on the track ends; `fields` are added to those it has."""
        self._event(track, time_ns, "TYPE_SLICE_END", fields or {})

    def instant(self, track: int, time_ns: int, name: str, fields: Fields, *, leads_to: Iterable[int] = ()) -> None:
        """Something without a length."""
        told = self._event(track, time_ns, "TYPE_INSTANT", fields)
        told.name = name
        told.flow_ids.extend(leads_to)

    def count(self, track: int, time_ns: int, value: int) -> None:
        """From now on it is that many."""
        self._event(track, time_ns, "TYPE_COUNTER", {}).counter_value = value

    def serialize(self) -> bytes:
        """The file. It says first that its times are CLOCK_MONOTONIC's, and are to be shown as they are."""
        trace = self._protos.Trace()
        self._events.sort(key=lambda packet: packet.timestamp)  # stable
        if self._events:
            trace.packet.append(self._clock(self._events[0].timestamp))
        trace.packet.extend(self._tracks)
        trace.packet.extend(self._events)
        result: bytes = trace.SerializeToString()
        return result

    def _clock(self, start_ns: int) -> Any:
        monotonic = self._protos.BUILTIN_CLOCK_MONOTONIC
        packet = self._protos.TracePacket(trusted_packet_sequence_id=SEQUENCE)
        packet.clock_snapshot.primary_trace_clock = monotonic
        packet.clock_snapshot.clocks.add(clock_id=monotonic, timestamp=start_ns)
        return packet

    def _event(self, track: int, time_ns: int, kind: str, fields: Fields) -> Any:
        packet = self._protos.TracePacket(
            timestamp=time_ns,
            timestamp_clock_id=self._protos.BUILTIN_CLOCK_MONOTONIC,
            trusted_packet_sequence_id=SEQUENCE,
        )
        self._events.append(packet)
        told = packet.track_event
        told.type, told.track_uuid = getattr(told, kind), track
        for name, value in fields.items():
            if isinstance(value, int):
                told.debug_annotations.add(name=name, **_number(value))
            elif value is not None:
                told.debug_annotations.add(name=name, string_value=str(value))
        return told


def _number(value: int) -> dict[str, int]:
    return {"int_value": value} if value < 1 << 63 else {"uint_value": value}
