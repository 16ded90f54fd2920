"""How do lanes become a picture for a slide or a paper? Shapes and hatches beside colours, words that never overlap."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from labkit.errors import UsageError
from labkit.trace.folding import Fold, Line
from labkit.trace.looks import BANDS, EDGE, INK, PALE, SHAPES, Shape
from labkit.trace.timeline import Band, Lane

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_IN, LEAST_WIDTH_IN, MOST_WIDTH_IN = 8.0, 3.0, 40.0
LANE_IN, FRAME_IN = 0.38, 1.15
FOLDS_ROOM = 0.45  # lanes, above all: there stands how long the folded waits are
INSET = 0.15  # of a fold, at each side
TIME_PT = 42.0  # for one time below the axis
SMALL_TICKS = 20  # about
DENSE_LANE = 2.0  # as high as two lanes of marks
DPI = 110
NAME_PT, WORD_PT = 9, 7.5
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
MARK_PT = 5.0
CROWD = 24  # marks that touch each other; if there are more in a lane, it shows how many there are instead
BIN_PT = 3.0  # of that


class Timeline(Figure):
    """A figure that a cell shows as it is, without pyplot; its ground is white, whatever the style is."""

    def savefig(self, *arguments: Any, **options: Any) -> None:
        """As a Figure's, on white."""
        super().savefig(*arguments, **({"facecolor": "white"} | options))

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=DPI)
        return png.getvalue()


def draw(lanes: Sequence[Lane], line: Line, late_s: float, title: str, width_in: float = WIDTH_IN) -> Timeline:
    """A figure `width_in` inches wide, as high as its lanes need; times lie along `line`. UsageError: no such width."""
    if not isinstance(width_in, int | float) or not LEAST_WIDTH_IN <= width_in <= MOST_WIDTH_IN:
        raise UsageError(f"width_in={width_in!r}: inches, from {LEAST_WIDTH_IN:g} to {MOST_WIDTH_IN:g}")
    with matplotlib.style.context("default"):
        return _Picture(lanes, line, late_s, title, width_in).figure


class _Picture:
    """A figure under construction. x is a place on the line in `unit`, y in lanes from above."""

    def __init__(self, lanes: Sequence[Lane], line: Line, late_s: float, title: str, width_in: float) -> None:
        self.line = line
        self.scale, self.unit = next((unit for unit in UNITS if line.even_s >= unit[0]), UNITS[-1])
        self.end = line.length / self.scale or 1.0
        self.strips = [self._strip(fold) for fold in line.folds]
        axes_pt = 72 * (width_in - 1.2)  # as it will be, nearly: what is crowded must be known before the layout
        self.per_pt = 1.02 * self.end / axes_pt
        crowded = [any(self._crowded(times) for times in lane.marks.values()) for lane in lanes]
        heights = [DENSE_LANE if dense else 1.0 for dense in crowded]
        self.middles = [sum(heights[:n]) + height / 2 for n, height in enumerate(heights)]
        self.figure, self.axes = self._empty(lanes, sum(heights) or 1.0, late_s, title, width_in)
        for lane, y, dense in zip(lanes, self.middles, crowded, strict=True):
            self._bands(lane.bands, y)
            if dense:
                self._crowds(lane, y)
            else:
                self._ticks(lane.ticks, y)
                self._runs(lane.runs, y)
                self._marks(lane.marks, y)
        if line.folds:
            self._folds(sum(heights))
            self._times()
        self._legend(lanes)
        self._lay_out()  # now it is known how wide a word is
        for lane, y, dense in zip(lanes, self.middles, crowded, strict=True):
            self._words(lane.bands, y)
            if dense:
                self._counts(lane, y)
        self._lengths()

    def _x(self, time_s: float) -> float:
        return self.line.place(time_s) / self.scale

    def _strip(self, fold: Fold) -> tuple[float, float]:
        """The visible part of a fold: what happens at its edges stays in sight."""
        start, end = self._x(fold.start_s), self._x(fold.end_s)
        return start + INSET * (end - start), end - INSET * (end - start)

    def _parts(self, spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        """As broken_barh wants them: where, and how long."""
        return [(self._x(start), self._x(end) - self._x(start)) for start, end in spans]

    # -- the frame -----------------------------------------------------------------------------------------------------

    def _empty(
        self, lanes: Sequence[Lane], high: float, late_s: float, title: str, width_in: float
    ) -> tuple[Timeline, Axes]:
        room = FOLDS_ROOM if self.line.folds else 0
        figure = Timeline(
            figsize=(width_in, FRAME_IN + LANE_IN * (high + room)), layout="constrained", facecolor="white"
        )
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=NAME_PT, color=INK, loc="left")
        axes.set_xlim(-0.01 * self.end, 1.01 * self.end)
        axes.set_ylim(high, -room)
        axes.set_yticks(self.middles, [lane.name for lane in lanes], fontsize=NAME_PT, color=INK)
        since = f"after {late_s:g} s" if late_s else "since the first event shown"
        axes.set_xlabel(f"{self.unit} {since}", fontsize=NAME_PT, color=INK)
        axes.tick_params(length=0, labelsize=NAME_PT, labelcolor=INK)
        axes.tick_params(axis="x", length=3, color=EDGE)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(EDGE)
        for y in self.middles:
            axes.axhline(y, color=PALE, linewidth=0.8, zorder=0)
        return figure, axes

    def _legend(self, lanes: Sequence[Lane]) -> None:
        """What is there, and nothing else; in as many rows as it takes."""
        bands = {band.look for lane in lanes for band in lane.bands} - {"step"}
        marks = {look for lane in lanes for look in lane.marks}
        handles: list[Line2D | Patch] = [_sample(shape) for look, shape in SHAPES.items() if look in marks]
        handles += [
            Patch(facecolor=fill.colour, edgecolor=EDGE, hatch=fill.hatch, linewidth=0.6, label=fill.label)
            for look, fill in BANDS.items()
            if look in bands
        ]
        if any(lane.runs for lane in lanes):
            handles.append(Line2D([], [], color=INK, linewidth=4, label="a queue is run"))
        for columns in range(len(handles), 0, -1):
            legend = self.figure.legend(
                handles=handles,
                loc="outside upper left",
                ncols=columns,
                fontsize=WORD_PT + 0.5,
                frameon=False,
                labelcolor=INK,
                columnspacing=1.4,
                handletextpad=0.5,
            )
            if columns == 1 or legend.get_window_extent().width <= self.figure.bbox.width * 0.98:
                return
            legend.remove()

    def _lay_out(self) -> None:
        """What is too long above and below is made small rather than cut off."""
        layout = self.figure.get_layout_engine()
        assert layout is not None
        layout.execute(self.figure)
        axes, whole = self.axes.bbox, self.figure.bbox
        _fit(self.axes._left_title, whole.x1 - axes.x0 - self._pixels(3))  # type: ignore[attr-defined]
        middle = (axes.x0 + axes.x1) / 2
        _fit(self.axes.xaxis.label, 2 * (min(middle, whole.x1 - middle) - self._pixels(3)))

    # -- waits that are folded -----------------------------------------------------------------------------------------

    def _folds(self, high: float) -> None:
        """A strip each, which covers where nothing happens."""
        for left, right in self.strips:
            self.axes.fill_between([left, right], 0, high, facecolor="white", edgecolor="none", zorder=4.5)
            self.axes.vlines([left, right], 0, high, color=EDGE, linewidth=0.8, linestyle=(0, (1, 2)), zorder=4.6)

    def _times(self) -> None:
        """Time is told where it begins to run again, as far as there is room; small ticks tell how it runs."""
        begins = [0.0, *(fold.end_s for fold in self.line.folds)]
        ends = [*(fold.start_s for fold in self.line.folds), math.inf]
        free, told = 0.0, []
        for time_s in begins:
            if self._x(time_s) >= free:
                told.append(time_s)
                free = self._x(time_s) + TIME_PT * self.per_pt
        self.axes.set_xticks([self._x(time_s) for time_s in told], [f"{time_s / self.scale:.5g}" for time_s in told])
        step_s = _round(self.line.even_s / SMALL_TICKS)
        small = [
            self._x(begin + number * step_s)
            for begin, end in zip(begins, ends, strict=True)
            for number in range(1, SMALL_TICKS + 1)
            if begin + number * step_s < end
        ]
        self.axes.set_xticks([x for x in small if x <= self.end], minor=True)
        self.axes.tick_params(axis="x", which="minor", length=2, color=EDGE)
        self.axes.set_xlabel(f"{self.axes.get_xlabel()}; small ticks: {_duration(step_s)}")

    def _lengths(self) -> None:
        """How long the waits are, above them, where there is room."""
        taken = -0.01 * self.end
        for fold in self.line.folds:
            word = _duration(fold.end_s - fold.start_s)
            wide = self._wide(word)
            start = (self._x(fold.start_s) + self._x(fold.end_s) - wide) / 2
            if start >= taken and start + wide <= 1.01 * self.end:
                taken = self._say(start, -FOLDS_ROOM / 2, word, wide)

    # -- what lasts ----------------------------------------------------------------------------------------------------

    def _bands(self, bands: Sequence[Band], y: float) -> None:
        for look in dict.fromkeys(band.look for band in bands):
            fill = BANDS[look]
            parts = self._parts((band.start_s, band.end_s) for band in bands if band.look == look)
            half = 0.2 if look == "stopped" else 0.32
            style: dict[str, Any] = {
                "facecolor": fill.colour,
                "hatch": fill.hatch,
                "edgecolor": EDGE,
                "linewidth": 0.5,
                "zorder": 1,
            }
            self.axes.broken_barh(parts, (y - half, 2 * half), **style)

    def _words(self, bands: Sequence[Band], y: float) -> None:
        """In the band; a step's beside it, if it is too narrow and nothing is there; or nowhere."""
        taken = 0.0
        for band, after in itertools.pairwise([*bands, None]):
            assert band is not None
            end, free = self._x(band.end_s), self._x(after.start_s) if after else 1.01 * self.end
            room = [(word, start, end) for word in band.words for start, end in self._pieces(band)]
            if band.look == "step":
                free = min([free, *(left for left, _ in self.strips if left > end)])
                room.append((band.words[-1], end, free))
            for word, left, right in room:
                wide = self._wide(word)
                if max(left, taken) + wide <= right:
                    taken = self._say(max(left, taken), y, word, wide)
                    break

    def _pieces(self, band: Band) -> list[tuple[float, float]]:
        """What of a band no strip covers."""
        start, end = self._x(band.start_s), self._x(band.end_s)
        inside = [strip for strip in self.strips if start < strip[1] and strip[0] < end]
        begins = [start, *(right for _, right in inside)]
        return list(zip(begins, [*(left for left, _ in inside), end], strict=True))

    def _wide(self, word: str) -> float:
        """In x, with some room around it."""
        text = self.axes.text(0, 0, word, fontsize=WORD_PT)
        wide = text.get_window_extent().width + 2 * self._pixels(3)
        text.remove()
        return float(wide / self.axes.bbox.width * 1.02 * self.end)

    def _say(self, x: float, y: float, word: str, wide: float) -> float:
        """Returns where it ends."""
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85}
        middle = x + wide / 2
        self.axes.text(
            middle, y, word, fontsize=WORD_PT, va="center_baseline", ha="center", color=INK, zorder=5, bbox=ground
        )
        return x + wide

    def _pixels(self, points: float) -> float:
        return points * self.figure.dpi / 72

    # -- what happens --------------------------------------------------------------------------------------------------

    def _ticks(self, times: Sequence[float], y: float) -> None:
        """One for each other event, as far as the eye can tell them apart."""
        seen = sorted({round(self._x(time) / self.per_pt * 2) for time in times})
        self.axes.vlines([at * self.per_pt / 2 for at in seen], y - 0.16, y + 0.16, color=EDGE, linewidth=0.6, zorder=2)

    def _runs(self, runs: Sequence[tuple[float, float]], y: float) -> None:
        """How long a queue was run."""
        parts = self._parts(runs)
        if parts:
            self.axes.broken_barh(parts, (y - 0.09, 0.18), facecolor=INK, edgecolor="none", zorder=2)

    def _crowded(self, times: Sequence[float]) -> bool:
        """Do so many touch each other that none is seen?"""
        places = sorted(map(self._x, times))
        near = sum(after - before < MARK_PT * self.per_pt for before, after in itertools.pairwise(places))
        return near > CROWD

    def _marks(self, marks: dict[str, list[float]], y: float) -> None:
        for look, shape in SHAPES.items():
            if look in marks:
                style: dict[str, Any] = {"facecolors": "white" if shape.hollow else shape.colour, "zorder": 4.7}
                style |= {"linewidths": 0.9} | ({} if shape.marker == "x" else {"edgecolors": shape.colour})
                level, size = (y + 0.27, MARK_PT - 1) if shape.below else (y, MARK_PT)
                places = [self._x(time) for time in marks[look]]
                self.axes.scatter(places, [level] * len(places), s=size**2, marker=shape.marker, **style)

    def _crowds(self, lane: Lane, y: float) -> None:
        """Kicks grow up from a line, interrupts down, each by how many there are; few are marks; runs are at the foot.

        Other events are left out.
        """
        base = y + 0.25
        for look, shape in SHAPES.items():
            if self._crowded(lane.marks.get(look, ())):
                counts, edges = self._histogram(lane.marks[look])
                tall = (0.3 if shape.below else -0.7) / max(counts)
                heights = [base + tall * count for count in counts]
                self.axes.stairs(heights, edges, baseline=base, fill=True, color=shape.colour, zorder=3)
        few = {look: times for look, times in lane.marks.items() if not self._crowded(times)}
        self._marks(few, base)
        self._runs(lane.runs, y + 0.75)

    def _histogram(self, times: Sequence[float]) -> tuple[list[int], list[float]]:
        """How many there are, in bins of a width that can be seen."""
        wide = BIN_PT * self.per_pt
        counts = [0] * (int(self.end / wide) + 1)
        for time in times:
            counts[int(self._x(time) / wide)] += 1
        return counts, [wide * edge for edge in range(len(counts) + 1)]

    def _counts(self, lane: Lane, y: float) -> None:
        """Above a crowd: how many it is, and how many at the thickest place; as much of it as there is room for."""
        said = []
        for look, shape in SHAPES.items():
            if self._crowded(lane.marks.get(look, ())):
                counts, edges = self._histogram(lane.marks[look])
                word = f"{len(lane.marks[look])} {shape.many}"
                said.append((f"{word}, up to {max(counts)} in {edges[1]:.2g} {self.unit}", word))
        for words in ([full for full, _ in said], [short for _, short in said], [said[0][1]]):
            word = "; ".join(words)
            wide = self._wide(word)
            if wide <= self.end:
                self._say(0.0, y - 0.72, word, wide)
                return


def _fit(text: Text, pixels: float) -> None:
    wide = text.get_window_extent().width
    text.set_fontsize(NAME_PT * min(1.0, pixels / max(wide, 1.0)))


def _round(seconds: float) -> float:
    """The largest of 1, 2, 5, 10 ... that is no larger."""
    ten = 10.0 ** math.floor(math.log10(seconds))
    return ten * max(number for number in (1, 2, 5) if number * ten <= seconds * 1.000001)


def _duration(seconds: float) -> str:
    scale, unit = next((unit for unit in UNITS if seconds >= unit[0]), UNITS[-1])
    return f"{seconds / scale:.3g} {unit}"


def _sample(shape: Shape) -> Line2D:
    face = "white" if shape.hollow else shape.colour
    return Line2D(
        [],
        [],
        marker=shape.marker,
        linestyle="",
        markersize=MARK_PT,
        color=shape.colour,
        markerfacecolor=face,
        label=shape.label,
    )
