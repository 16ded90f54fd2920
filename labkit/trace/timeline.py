"""Who did what, and when? The events as a picture: a lane a thread, a band a queue in the colour of its owner."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from labkit.trace.events import Event, Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_IN, LEAST_HEIGHT_IN, LANE_IN, FRAME_IN = 8.0, 2.4, 0.36, 1.25
DPI = 110
SMALL = 7.5  # points
LETTER = 0.0095  # of the axes' width, at that size
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
QUEUES_MAX = 8  # bands; a picture of more is for nobody
OWNERS = {"none": "#d9d9d9", "vmm": "#9ecae1", "backend": "#fdbf6f", "?": "#ffffff"}
STEP_COLOUR, TICK_COLOUR = "#c7e9c0", "#888888"
INK = "#333333"


class Mark(NamedTuple):
    """How a kind of event stands out in its thread's lane; `below` the line, so that a kick stays in sight."""

    label: str
    marker: str
    colour: str
    below: float = 0.0


MARKS = {
    Kind.KICK_TRAP: Mark("kick by trap", "v", "#d62728"),
    Kind.KICK_EVENTFD: Mark("kick by eventfd", "o", "#1f77b4"),
    Kind.DRAIN: Mark("found by STOP", "D", "#9467bd"),
    Kind.INTERRUPT: Mark("interrupt", "^", "#2ca02c", below=0.25),
}


class Timeline(Figure):
    """A figure that a cell shows as it is, without pyplot."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=DPI)
        return png.getvalue()


class Span(NamedTuple):
    """Something that lasts: from, to, in seconds; what it is."""

    start: float
    end: float
    label: str


def timeline(
    events: Sequence[Event],
    title: str,
    *,
    lost: bool = False,
    since: int = 0,
    until: int | None = None,
    queue: int | None = None,
) -> Timeline:
    """A picture of those after `since` and up to `until`. All are given: who owned a queue was told before."""
    shown = [event for event in events if event.seq > since and (until is None or event.seq <= until)]
    start_ns = shown[0].time_ns if shown else 0
    span_s = max((event.time_ns - start_ns) / 1e9 for event in shown) if shown else 0.0
    scale, unit = next((u for u in UNITS if span_s >= u[0]), UNITS[-1])
    at = {event.seq: (event.time_ns - start_ns) / 1e9 / scale for event in shown}
    end = span_s / scale or 1.0
    steps = _steps(shown, at, end)
    threads = _threads(shown)
    queues = [queue] if queue is not None else _queues(shown)
    lanes = ([] if not steps else ["guest's steps"]) + threads + [f"queue {index}" for index in queues]
    figure, axes = _empty(lanes, end, unit, title)
    if steps:
        _spans(axes, 0, steps, dict.fromkeys((step.label for step in steps), STEP_COLOUR), end)
    owners: set[str] = set()
    for index in queues:
        spans = _owners([e for e in events if e.kind is Kind.OWNER and e.queue == index], at, end, since, lost)
        owners |= {span.label for span in spans}
        _spans(axes, lanes.index(f"queue {index}"), spans, OWNERS, end)
    of_queue = [event for event in shown if queue is None or event.queue in (None, queue)]
    _legend(figure, _marks(axes, lanes, of_queue, at), owners)
    return figure


# -- what there is to draw ---------------------------------------------------------------------------------------------


def _threads(shown: Iterable[Event]) -> list[str]:
    """vCPUs first, then who serves, then who commands."""
    order = ("vcpu", "iothread", "backend", "owner", "host")
    found = {event.actor for event in shown if event.kind not in (Kind.STEP, Kind.STEP_DONE)}
    return sorted(found, key=lambda name: (next(i for i, word in enumerate(order) if name.startswith(word)), name))


def _queues(shown: Iterable[Event]) -> list[int]:
    kinds = (*MARKS, Kind.OWNER)
    return sorted({event.queue for event in shown if event.kind in kinds and event.queue is not None})[:QUEUES_MAX]


def _steps(shown: Iterable[Event], at: dict[int, float], end: float) -> list[Span]:
    begun: dict[object, Event] = {}
    spans = []
    for event in shown:
        if event.kind is Kind.STEP:
            begun[event["vcpu"]] = event
        elif event.kind is Kind.STEP_DONE:
            first = begun.pop(event["vcpu"], None)
            spans.append(Span(at[first.seq] if first else 0.0, at[event.seq], str(event["command"])))
    spans += [Span(at[event.seq], end, str(event["command"])) for event in begun.values()]
    return sorted(spans)


def _owners(changes: Sequence[Event], at: dict[int, float], end: float, since: int, lost: bool) -> list[Span]:
    """Who owned a queue's notifier, from the left edge to the right one."""
    before = [event for event in changes if event.seq <= since]
    inside = [event for event in changes if event.seq in at]
    if before:
        owner = before[-1]["after"]
    elif inside:
        owner = inside[0]["before"]
    else:
        owner = "?" if lost else "none"
    spans, start = [], 0.0
    for event in inside:
        spans.append(Span(start, at[event.seq], str(owner)))
        start, owner = at[event.seq], event["after"]
    return [*spans, Span(start, end, str(owner))]


# -- drawing -----------------------------------------------------------------------------------------------------------


def _empty(lanes: Sequence[str], end: float, unit: str, title: str) -> tuple[Timeline, Axes]:
    height = max(LEAST_HEIGHT_IN, FRAME_IN + LANE_IN * len(lanes))
    figure = Timeline(figsize=(WIDTH_IN, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.set_xlim(-0.01 * end, 1.01 * end)
    axes.set_ylim(max(len(lanes), 1) - 0.5, -0.5)
    axes.set_yticks(range(len(lanes)), lanes, fontsize=9)
    axes.set_xlabel(f"time since the first event shown, {unit}", fontsize=9)
    axes.tick_params(length=0, labelsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    for lane in range(len(lanes)):
        axes.axhline(lane, color="#eeeeee", linewidth=0.8, zorder=0)
    return figure, axes


def _spans(axes: Axes, lane: int, spans: Sequence[Span], colours: dict[str, str], end: float) -> None:
    """Bars, each with its word where it does not run into the next."""
    for label in dict.fromkeys(span.label for span in spans):
        parts = [(span.start, span.end - span.start) for span in spans if span.label == label]
        axes.broken_barh(parts, (lane - 0.3, 0.6), color=colours[label], edgecolor="#999999", linewidth=0.4, zorder=1)
    free = -1.0
    for span in spans:
        width = (len(span.label) + 1) * LETTER * end
        if span.start >= free and span.end - span.start >= width:
            axes.text(span.start + LETTER * end / 2, lane, span.label, fontsize=SMALL, va="center", color=INK, zorder=4)
            free = span.start + width


def _marks(axes: Axes, lanes: Sequence[str], shown: Iterable[Event], at: dict[int, float]) -> list[Mark]:
    """A tick for each event, something larger for a kick or an interrupt. Returns the marks that were needed."""
    places: dict[Mark | None, tuple[list[float], list[float]]] = {}
    for event in shown:
        if event.actor in lanes:
            mark = MARKS.get(event.kind)
            xs, ys = places.setdefault(mark, ([], []))
            xs.append(at[event.seq])
            ys.append(lanes.index(event.actor) + (mark.below if mark else 0.0))
    if None in places:
        axes.scatter(*places.pop(None), marker="|", s=60, linewidths=0.7, color=TICK_COLOUR, zorder=2)
    for mark, (xs, ys) in places.items():
        assert mark is not None
        axes.scatter(xs, ys, marker=mark.marker, s=22, color=mark.colour, linewidths=0, zorder=3)
    return [mark for mark in MARKS.values() if mark in places]


def _legend(figure: Figure, marks: Iterable[Mark], owners: Iterable[str]) -> None:
    handles: list[Line2D | Patch] = [
        Line2D([], [], marker=mark.marker, color=mark.colour, linestyle="", markersize=5, label=mark.label)
        for mark in marks
    ]
    words = {"none": "owner: none", "vmm": "vmm", "backend": "backend", "?": "not known"}
    handles += [Patch(facecolor=OWNERS[o], edgecolor="#999999", label=words[o]) for o in OWNERS if o in owners]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=8, frameon=False)
