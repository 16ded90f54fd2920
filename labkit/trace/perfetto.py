"""What does a recording look like in ui.perfetto.dev? A track for each thread and queue, on the clock of the events.

    machine                     a slice for each run state
    guest's steps, vcpu0 ...    a slice for each step of the agent
    vcpu0 ... iothread, owner   an instant for each event; a run of a queue is a slice around what it did
    kernel: vcpu0 ...           an instant for each tracepoint of KVM, if they were watched (kernel.py)
    queue 0 ...                 a slice for each owner of the notifier, and an instant for each kick, named by its path,
                                with an arrow to the run that it caused
    queue 0: avail - used       how many chains the driver has given and not got back

Each event stands there once, with its fields and its `seq`. The bands of owners and the counts are the fold's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from labkit.files import write_whole
from labkit.recording.fold import Ledger, initial
from labkit.trace.events import NO_INDEX, Event, Kind
from labkit.trace.fields import DEVICE, U16, Key, text
from labkit.trace.recorded import Facts, Recorded, Values, event
from labkit.trace.spans import in_runs, steps, threads
from labkit.trace.tracepoints import KernelEvent
from labkit.trace.tracks import Tracks
from labkit.trace.ways import times, way_of


def write(path: str | os.PathLike[str], recorded: Recorded, kernel: Sequence[KernelEvent] = ()) -> None:
    """All of the file or nothing of it. UsageError: no perfetto here, or it cannot be there. HostError: disk full."""
    write_whole(path, "perfetto trace", pack(recorded, kernel))


def pack(recorded: Recorded, kernel: Sequence[KernelEvent] = ()) -> bytes:
    """The file, a Trace of perfetto's."""
    facts, tracks, told = recorded.facts, Tracks(), Told(recorded)
    root = tracks.add(f"{facts.name}: {facts.device}, rules {facts.revision}, {facts.cpu}")
    _bands(tracks, tracks.add("machine", root), ("run_state", DEVICE), told)
    _steps(tracks, root, told)
    served = _threads(tracks, root, told.events)
    _kernel(tracks, root, kernel)
    for queue in range(len(facts.queue_sizes)):
        track = tracks.add(f"queue {queue}", root)
        _bands(tracks, track, ("owner", queue), told)
        _kicks(tracks, track, [e for e in told.events if e.queue == queue], served)
        _given(tracks, tracks.add(f"queue {queue}: avail - used", root, unit="chains"), queue, told)
    return tracks.serialize()


# -- what the fold says ------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """A field has another value from a time on, by an event; None: so it was before the first one."""

    time_ns: int
    value: int | None
    by: Event | None


class _Watched(Ledger):
    """Notes which fields an event touches."""

    def __init__(self, facts: Facts, values: Values) -> None:
        super().__init__(facts, values)
        self.touched: set[Key] = set()

    def tell(self, name: str, queue: int, value: int | None, before: int | None = None) -> None:
        super().tell(name, queue, value, before)
        self.touched.add((name, queue))

    def add(self, name: str, queue: int, count: int) -> None:
        super().add(name, queue, count)
        self.touched.add((name, queue))


class Told:
    """The events, and when each field changed by them. Those times never go back: threads may cross."""

    def __init__(self, recorded: Recorded) -> None:
        self.events = [event(record) for record in recorded.records]
        self.start_ns = now = min((e.time_ns for e in self.events), default=0)
        self.end_ns = max((e.time_ns for e in self.events), default=0)
        ledger = _Watched(recorded.facts, initial(recorded))
        self.changes = {key: [Change(now, value, None)] for key, value in ledger.values.items()}
        for record, by in zip(recorded.records, self.events, strict=True):
            ledger.pass_over(record)
            now = max(now, by.time_ns)
            for key in ledger.touched:
                if ledger.values[key] != self.changes[key][-1].value:
                    self.changes[key].append(Change(now, ledger.values[key], by))
            ledger.touched.clear()


# -- tracks ------------------------------------------------------------------------------------------------------------


def _bands(tracks: Tracks, track: int, key: Key, told: Told) -> None:
    """A slice for each value of a field, without a gap."""
    for at, change in enumerate(told.changes[key]):
        if at:
            tracks.end(track, change.time_ns)
        tracks.begin(track, change.time_ns, str(text(key, change.value)), _said(change.by) if change.by else {})
    tracks.end(track, told.end_ns)


def _steps(tracks: Tracks, root: int, told: Told) -> None:
    """A track for each vCPU: two may be in a step at once."""
    lanes: dict[int, int] = {}
    for step in sorted(steps(told.events), key=lambda step: step.vcpu):
        if step.vcpu not in lanes:
            lanes[step.vcpu] = tracks.add(f"guest's steps, vcpu{step.vcpu}", root)
        begun, done = step.begun, step.done
        said = _said(begun) if begun else {"begun": "before the first event"}
        tracks.begin(lanes[step.vcpu], begun.time_ns if begun else told.start_ns, step.command, said)
        ended = {f"{name} when done": value for name, value in _said(done).items()} if done else {"done": "not yet"}
        tracks.end(lanes[step.vcpu], done.time_ns if done else told.end_ns, ended)


def _threads(tracks: Tracks, root: int, events: Iterable[Event]) -> set[int]:
    """A track for each thread. Returns the kicks, by `seq`, that a run came of."""
    served: set[int] = set()
    for thread, its in threads(events).items():
        track, kicks = tracks.add(thread, root), dict[int | None, int]()
        for first, *rest in in_runs(its):
            if first.kind is not Kind.QUEUE_NOTIFY:
                tracks.instant(track, first.time_ns, first.name, _said(first))
                if way_of(first):
                    kicks[first.queue] = first.seq
                continue
            kick = [kicks.pop(first.queue)] if first.queue in kicks else []
            served.update(kick)
            name = f"run of queue {first.queue}, {first['by']}"
            tracks.begin(track, first.time_ns, name, _said(first), comes_from=kick)
            for told in rest:
                tracks.instant(track, told.time_ns, told.name, _said(told))
            tracks.end(track, (rest or [first])[-1].time_ns)
    return served


def _kernel(tracks: Tracks, root: int, points: Iterable[KernelEvent]) -> None:
    lanes: dict[str, int] = {}
    for point in points:
        if point.actor not in lanes:
            lanes[point.actor] = tracks.add(f"kernel: {point.actor}", root)
        said = {**point.values, "host_cpu": point.host_cpu, "text": point.text}
        tracks.instant(lanes[point.actor], point.time_ns, point.name, said)


def _kicks(tracks: Tracks, track: int, events: Iterable[Event], served: set[int]) -> None:
    """Each kick by its path, over the band of who owned the notifier then."""
    for kick in events:
        way = way_of(kick)
        if way is not None:
            name = way if times(kick) == 1 else f"{way} ×{times(kick)}"
            leads_to = [kick.seq] if kick.seq in served else []
            tracks.instant(track, kick.time_ns, name, {"kick": kick.seq, "thread": kick.actor}, leads_to=leads_to)


def _given(tracks: Tracks, track: int, queue: int, told: Told) -> None:
    """How many chains the driver has given and not got back, where both indices are known."""
    changes = [(name, change) for name in ("avail_idx", "used_idx") for change in told.changes[name, queue]]
    indices: dict[str, int | None] = {}
    counts: dict[int, tuple[int, int]] = {}  # by seq: an event may say both
    for name, change in sorted(changes, key=lambda found: found[1].by.seq if found[1].by else 0):
        indices[name] = change.value
        avail, used = indices.get("avail_idx"), indices.get("used_idx")
        if avail is not None and used is not None:
            count = 0 if NO_INDEX in (avail, used) else avail - used & U16
            counts[change.by.seq if change.by else 0] = change.time_ns, count
    for time_ns, count in counts.values():
        tracks.count(track, time_ns, count)


def _said(event: Event) -> dict[str, object]:
    return {"seq": event.seq, "thread": event.actor, "queue": event.queue, **event.values}
