"""Who did what, and when? What of the events a picture shows: lanes, bands, runs and marks, all in seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from labkit.errors import UsageError
from labkit.trace.events import Event, Kind
from labkit.trace.spans import in_runs, steps, threads
from labkit.trace.ways import way_of

QUEUES_MAX = 8  # bands; a picture of more is for nobody
STEPS_LANE = "guest's steps"
INTERRUPT = "interrupt"
NOT_KNOWN = "?"


class Window(NamedTuple):
    """What is shown: nanoseconds of the first and the last moment, and how long after the first event that is."""

    start_ns: int
    end_ns: int
    late_s: float

    def seconds(self, time_ns: int) -> float:
        """From the window's start on; what lies outside is at its edge."""
        return (min(max(time_ns, self.start_ns), self.end_ns) - self.start_ns) / 1e9

    def shows(self, event: Event) -> bool:
        """Is it inside?"""
        return self.start_ns <= event.time_ns <= self.end_ns


class Band(NamedTuple):
    """Something that lasts. `words` say what it is, the longest first: as many are shown as there is room for."""

    start_s: float
    end_s: float
    look: str
    words: tuple[str, ...]


@dataclass
class Lane:
    """One row. `marks` by look: the ways of kicks, and interrupts; `ticks` are all other events."""

    name: str
    bands: list[Band] = field(default_factory=list)
    runs: list[tuple[float, float]] = field(default_factory=list)
    marks: dict[str, list[float]] = field(default_factory=dict)
    ticks: list[float] = field(default_factory=list)


def moments(lanes: Iterable[Lane]) -> set[float]:
    """When something begins, ends or happens."""
    found = {time for lane in lanes for times in (lane.ticks, *lane.marks.values(), *lane.runs) for time in times}
    return found | {time for lane in lanes for band in lane.bands for time in (band.start_s, band.end_s)}


def window(events: Sequence[Event], shown: Sequence[Event], seconds: tuple[float, float] | None) -> Window:
    """From the first of those shown to the last; or from one time to another, in seconds after the first of all.

    UsageError: no such times.
    """
    first_ns = min((event.time_ns for event in events), default=0)
    if seconds is None:
        start_ns = min((event.time_ns for event in shown), default=first_ns)
        return Window(start_ns, max((event.time_ns for event in shown), default=start_ns), 0.0)
    try:
        start_s, end_s = (float(one) for one in seconds)
        start_ns, end_ns = first_ns + round(start_s * 1e9), first_ns + round(end_s * 1e9)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"seconds={seconds!r}: from and to, in seconds since the first event") from None
    if start_ns >= end_ns:
        raise UsageError(f"seconds={seconds!r}: that ends before it has begun")
    return Window(start_ns, end_ns, start_s)


def lanes(
    events: Sequence[Event], within: Window, since: int, until: int | None, queue: int | None, lost: bool
) -> list[Lane]:
    """From top to bottom: the guest's steps, threads, queues. All events are given: who owned a queue was told before.

    Of those, the picture has the ones after `since` and up to `until`, inside the window, and of the queue.
    """
    shown = [e for e in events if e.seq > since and (until is None or e.seq <= until) and within.shows(e)]
    found = _steps(events, within) if shown else []
    of_queue = [event for event in shown if queue is None or event.queue in (None, queue)]
    found += [_thread(name, its, events, within) for name, its in threads(of_queue).items()]
    for index in [queue] if queue is not None else _queues(shown):
        changes = [event for event in events if event.kind is Kind.OWNER and event.queue == index]
        found.append(Lane(f"queue {index}", bands=_owners(changes, within, lost)))
    return found


def _queues(shown: Iterable[Event]) -> list[int]:
    kinds = (Kind.KICK_TRAP, Kind.KICK_EVENTFD, Kind.DRAIN, Kind.INTERRUPT, Kind.OWNER)
    return sorted({event.queue for event in shown if event.kind in kinds and event.queue is not None})[:QUEUES_MAX]


def _steps(events: Sequence[Event], within: Window) -> list[Lane]:
    """A lane for each vCPU that has some. One that began before the window, or has not ended, goes to its edge."""
    bands: dict[int, list[Band]] = {}
    for step in steps(events):
        start_ns = step.begun.time_ns if step.begun else within.start_ns
        end_ns = step.done.time_ns if step.done else within.end_ns
        if start_ns <= within.end_ns and end_ns >= within.start_ns:
            band = Band(within.seconds(start_ns), within.seconds(end_ns), "step", (step.command,))
            bands.setdefault(step.vcpu, []).append(band)
    names = {vcpu: STEPS_LANE if len(bands) == 1 else f"steps, vcpu{vcpu}" for vcpu in bands}
    return [Lane(names[vcpu], bands=bands[vcpu]) for vcpu in sorted(bands)]


def _thread(name: str, its: Sequence[Event], events: Sequence[Event], within: Window) -> Lane:
    lane = Lane(name, bands=_stopped(events, within) if name.startswith("vcpu") else [])
    for event in its:
        look = INTERRUPT if event.kind is Kind.INTERRUPT else way_of(event)
        (lane.ticks if look is None else lane.marks.setdefault(str(look), [])).append(within.seconds(event.time_ns))
    for run in in_runs(its):
        if len(run) > 1:
            lane.runs.append((within.seconds(run[0].time_ns), within.seconds(run[-1].time_ns)))
    return lane


def _owners(changes: Sequence[Event], within: Window, lost: bool) -> list[Band]:
    """Who owned a queue's notifier, from edge to edge, and why since then."""
    unknown = NOT_KNOWN if lost else "none"
    owner = str(changes[0]["before"]) if changes else unknown
    return _bands([(c.time_ns, str(c["after"]), f"{c['rule']} {c['cause']}") for c in changes], owner, within)


def _stopped(events: Iterable[Event], within: Window) -> list[Band]:
    """When no vCPU ran the guest, for the machine did not run."""
    changes = [event for event in events if event.kind is Kind.RUNSTATE]
    first = str(changes[0]["before"]) if changes else "running"
    bands = _bands([(c.time_ns, str(c["after"]), "") for c in changes], first, within)
    return [band._replace(look="stopped", words=band.words[-1:]) for band in bands if band.look != "running"]


def _bands(changes: Sequence[tuple[int, str, str]], first: str, within: Window) -> list[Band]:
    """Values with the time since when, and why; the parts of them that lie in the window."""
    begins = [(within.start_ns, first, ""), *changes]
    bands = []
    for (start_ns, value, why), (end_ns, _, _) in zip(begins, [*changes, (within.end_ns, "", "")], strict=True):
        words = (f"{value}, {why}", f"{value}, {why.split(' ')[0]}", value) if why else (value,)
        bands.append(Band(within.seconds(start_ns), within.seconds(end_ns), value, words))
    return [band for band in bands if band.end_s > band.start_s]
