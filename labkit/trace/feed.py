"""Who tells, who listens? Every thread emits into one feed; a reader copies from it and can disturb nobody."""

from __future__ import annotations

import os
import struct
import time
from typing import Any

from labkit.native import ffi, lib
from labkit.trace.events import Event, Kind
from labkit.trace.recorded import Record, event

_BATCH = 4096
_U64 = 2**64 - 1
RECORD = struct.Struct("<QQHHi5Q")  # an lk_event


class Feed:
    """The feed of one machine, over the ring in the C core. After `keep` it answers from its own copy."""

    def __init__(self, native_machine: Any) -> None:
        self._feed: Any = native_machine.feed
        self.born_ns = time.monotonic_ns()  # of the clock that events have
        self._kept: list[tuple[Any, int]] = []
        self._kept_lost = self._last = 0

    def emit(self, kind: Kind, queue: int = -1, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0) -> None:
        """Record an event from Python; the C core emits its own. Fields are stored modulo 2**64."""
        if self._feed is not None:
            lib.lk_feed_emit(self._feed, kind, queue, a & _U64, b & _U64, c & _U64, d & _U64, e & _U64)

    def position(self) -> int:
        """How many events were emitted so far: a mark to read from later."""
        return self._last if self._feed is None else int(lib.lk_feed_next(self._feed))

    def read(self, since: int = 0) -> tuple[list[Event], int]:
        """Events from position `since` on, and how many of them were overwritten before they could be read."""
        batches, lost = self._batches(since)
        return [event(record) for record in _unpacked(batches) if record[0] > since], lost

    def records(self, upto: int) -> list[Record]:
        """The events before position `upto` as numbers, without a gap: whatever stands before one counts as lost.

        One that is still being written is waited for, so `upto` is no later than the present position.
        """
        records: list[Record] = []
        while (seen := records[-1][0] if records else 0) < upto:
            records += [record for record in _unpacked(self._batches(seen)[0]) if seen < record[0] <= upto]
            if not records or records[-1][0] == seen:
                os.sched_yield()
        first = next((i for i in range(len(records) - 1, 0, -1) if records[i][0] != records[i - 1][0] + 1), 0)
        return records[first:]

    def records_between(self, since: int, upto: int) -> list[Record]:
        """Those after position `since` and not after `upto`, while all stand still; what was overwritten is missing."""
        if self._feed is None:
            return [record for record in _unpacked(self._kept) if since < record[0] <= upto]
        out = ffi.new("lk_event[]", max(1, upto - since))
        copied = lib.lk_feed_read(self._feed, ffi.new("uint64_t *", since), out, len(out), ffi.new("uint64_t *"))
        return [record for record in _unpacked([(out, copied)]) if record[0] <= upto]

    def _batches(self, since: int) -> tuple[list[tuple[Any, int]], int]:
        """Raw records, as arrays with the number of records in each."""
        if self._feed is None:
            return self._kept, max(0, self._kept_lost - since)
        at, lost_now, lost = ffi.new("uint64_t *", since), ffi.new("uint64_t *"), 0
        batches: list[tuple[Any, int]] = []
        while True:
            out = ffi.new("lk_event[]", min(_BATCH, max(1, self.position() - at[0])))
            copied = lib.lk_feed_read(self._feed, at, out, len(out), lost_now)
            lost += lost_now[0]
            batches.append((out, copied))
            if copied < len(out) or at[0] >= self.position():
                return batches, lost

    def tally(self, tally: Any, since: int, out: Any) -> tuple[list[Record], int, int]:
        """Let the core count what came after position `since` (lk_tally). `out` is room for some events.

        Returns the rare ones, the position then, and how many were overwritten before.
        """
        if self._feed is None:
            return self._left(tally, since), self._last, 0
        at, lost_now, lost = ffi.new("uint64_t *", since), ffi.new("uint64_t *"), 0
        rare: list[Record] = []
        while True:
            found = lib.lk_feed_tally(self._feed, at, tally, out, len(out), lost_now)
            rare += _unpacked([(out, found)])
            lost += lost_now[0]
            if found < len(out):
                return rare, at[0], lost

    def _left(self, tally: Any, since: int) -> list[Record]:
        """The same from what was kept."""
        rare = []
        for raw, count in self._kept:
            if count and raw[count - 1].seq > since:
                records = enumerate(_unpacked([(raw, count)]))
                rare += [one for at, one in records if one[0] > since and lib.lk_tally_event(tally, raw + at)]
        return rare

    def newest(self, upto: int, most: int) -> list[Record]:
        """The last events before position `upto`, oldest first; those that come meanwhile are not looked at."""
        since = max(0, upto - most)
        if self._feed is None:
            return self.records_between(since, upto)
        at, lost, out = ffi.new("uint64_t *", since), ffi.new("uint64_t *"), ffi.new("lk_event[]", most)
        copied = lib.lk_feed_read(self._feed, at, out, upto - since, lost)
        return [record for record in _unpacked([(out, copied)]) if record[0] <= upto]

    def keep(self) -> None:
        """Copy what is there out of the C core: called once, just before the ring is freed."""
        if self._feed is not None:
            (self._kept, self._kept_lost), self._last = self._batches(0), self.position()
            self._feed = None


def _unpacked(batches: list[tuple[Any, int]]) -> list[Record]:
    return [
        record for batch, count in batches for record in RECORD.iter_unpack(ffi.buffer(batch)[: count * RECORD.size])
    ]
