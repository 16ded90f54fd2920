"""Who did what in the last seconds? A lane for each thread, in columns: one event each, or in a storm 20 ms each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from labkit.trace.events import Event, Kind
from labkit.trace.tally import COLUMN_NS, Tally, lane_of, lanes

EVENTS_MOST = 120  # columns of one event each
NOT_KNOWN = "?"


class Change(NamedTuple):
    """A notifier changed hands."""

    seq: int
    time_ns: int
    before: str
    after: str


class Owners:
    """Who owned the notifiers, and since when: every change that the feed still had when somebody looked."""

    def __init__(self) -> None:
        self._changes: dict[int, list[Change]] = {}
        self._heard = 0
        self._missed = False

    def hear(self, rare: Iterable[Event], lost: int) -> None:
        """Take what is new among the rare events; `lost`: some were overwritten before the look."""
        self._missed = self._missed or lost > 0
        for one in rare:
            if one.kind is Kind.OWNER and one.seq > self._heard and one.queue is not None:
                change = Change(one.seq, one.time_ns, str(one["before"]), str(one["after"]))
                self._changes.setdefault(one.queue, []).append(change)
                self._heard = one.seq

    def at(self, queue: int, *, seq: int | None = None, time_ns: int = 0) -> str:
        """The owner of a queue's notifier after event `seq`, or else at that time."""
        changes = self._changes.get(queue, [])
        keys = [change.time_ns if seq is None else change.seq for change in changes]
        place = bisect_right(keys, time_ns if seq is None else seq)
        if place:
            return changes[place - 1].after
        return changes[0].before if changes else NOT_KNOWN if self._missed else "none"


def timeline(
    tally: Tally, owners: Owners, newest: Sequence[Event], queues: Sequence[int], vcpus: int
) -> dict[str, Any]:
    """Lanes, owners and what each column is. It ends at the last event: nothing moves while nothing happens."""
    places = lanes(vcpus)
    end_ns = max((one.time_ns for one in newest), default=0)
    counts = tally.counts(places.values(), end_ns)
    if sum(map(sum, counts.values())) > EVENTS_MOST:
        return _columns_of_time(tally, owners, queues, end_ns, {name: counts[place] for name, place in places.items()})
    return _columns_of_events(owners, newest, queues, places)


def _columns_of_events(
    owners: Owners, newest: Sequence[Event], queues: Sequence[int], places: Iterable[str]
) -> dict[str, Any]:
    span_ns = newest[-1].time_ns - newest[0].time_ns if newest else 0
    of_lane = [lane_of(one) for one in newest]
    return {
        "unit": f"each column is one event, {_duration(span_ns)} in all" if newest else "no events yet",
        "columns": [repr(one) for one in newest],
        "lanes": [{"name": name, "cells": [int(lane == name) for lane in of_lane]} for name in _seen(places, of_lane)],
        "owners": [
            {"name": f"queue {queue}", "cells": [owners.at(queue, seq=one.seq) for one in newest]} for queue in queues
        ],
    }


def _seen(places: Iterable[str], of_lane: Sequence[str]) -> list[str]:
    """The host's own lane is there only if there is something in it."""
    return [name for name in places if name != "host" or name in of_lane]


def _columns_of_time(
    tally: Tally, owners: Owners, queues: Sequence[int], end_ns: int, counts: dict[str, list[int]]
) -> dict[str, Any]:
    last = end_ns // COLUMN_NS
    ends = [(column + 1) * COLUMN_NS - 1 for column in range(last - tally.columns + 1, last + 1)]
    totals = [sum(cells) for cells in zip(*counts.values(), strict=True)]
    return {
        "unit": f"each column is {COLUMN_NS // 1_000_000} ms",
        "columns": [
            f"{total} events, {_duration(end_ns - end) if end < end_ns else '0 s'} before the last"
            for total, end in zip(totals, ends, strict=True)
        ],
        "lanes": [{"name": name, "cells": cells} for name, cells in counts.items() if name != "host" or any(cells)],
        "owners": [
            {"name": f"queue {queue}", "cells": [owners.at(queue, time_ns=end) for end in ends]} for queue in queues
        ],
    }


def _duration(ns: int) -> str:
    """In the unit that suits it."""
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= factor:
            return f"{ns / factor:.3g} {unit}"
    return f"{ns} ns"
