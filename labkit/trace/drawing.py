"""How do lanes become a picture for a slide or a paper? Shapes and hatches beside colours, words that never overlap."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from labkit.errors import UsageError
from labkit.trace.timeline import INTERRUPT, NOT_KNOWN, Band, Lane
from labkit.trace.ways import Way

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_IN, LEAST_WIDTH_IN, MOST_WIDTH_IN = 8.0, 3.0, 40.0
LANE_IN, FRAME_IN = 0.38, 1.15
DENSE_LANE = 2.0  # as high as two lanes of marks
DPI = 110
NAME_PT, WORD_PT = 9, 7.5
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
INK, PALE, EDGE = "#222222", "#ececec", "#8c8c8c"
MARK_PT = 5.0
CROWD = 24  # marks that touch each other; if there are more in a lane, it shows how many there are instead
BIN_PT = 3.0  # of that


class Fill(NamedTuple):
    """How a band looks, in colour and without."""

    label: str
    colour: str
    hatch: str = ""


class Shape(NamedTuple):
    """How an event stands out in its thread's lane, in colour and without; those below are not kicks."""

    label: str
    many: str
    marker: str
    colour: str
    hollow: bool = False
    below: bool = False


# Colours by Okabe and Ito, which people who see fewer of them tell apart.
BLUE, ORANGE, VERMILION, PURPLE, GREEN = "#0072b2", "#e69f00", "#d55e00", "#a8508a", "#009e73"
BANDS = {
    "none": Fill("owner: none", "#ffffff"),
    "vmm": Fill("owner: vmm", "#a9d3ec"),
    "backend": Fill("owner: backend", "#f6cf85", "////"),
    NOT_KNOWN: Fill("owner: not known", "#ffffff", "xxxx"),
    "step": Fill("step", "#d9ead3"),
    "stopped": Fill("the machine is stopped", "#ffffff", "...."),
}
SHAPES = {
    Way.TRAPPED: Shape("kick, trapped", "kicks trapped", "v", VERMILION),
    Way.SIGNALLED: Shape("kick, signalled", "kicks signalled", "o", BLUE),
    Way.FORWARDED: Shape("kick, forwarded", "kicks forwarded", ">", GREEN),
    Way.DRAINED: Shape("kick, drained", "kicks drained", "D", PURPLE),
    Way.SYNTHETIC: Shape("synthetic kick", "synthetic kicks", "o", BLUE, hollow=True),
    Way.IGNORED: Shape("kick, ignored", "kicks ignored", "x", INK),
    INTERRUPT: Shape("interrupt", "interrupts", "^", EDGE, below=True),
}


class Timeline(Figure):
    """A figure that a cell shows as it is, without pyplot; its ground is white, whatever the style is."""

    def savefig(self, *arguments: Any, **options: Any) -> None:
        """As a Figure's, on white."""
        super().savefig(*arguments, **({"facecolor": "white"} | options))

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=DPI)
        return png.getvalue()


def draw(lanes: Sequence[Lane], span_s: float, late_s: float, title: str, width_in: float = WIDTH_IN) -> Timeline:
    """A figure `width_in` inches wide, as high as its lanes need. UsageError: no width for a picture."""
    if not isinstance(width_in, int | float) or not LEAST_WIDTH_IN <= width_in <= MOST_WIDTH_IN:
        raise UsageError(f"width_in={width_in!r}: inches, from {LEAST_WIDTH_IN:g} to {MOST_WIDTH_IN:g}")
    with matplotlib.style.context("default"):
        return _Picture(lanes, span_s, late_s, title, width_in).figure


class _Picture:
    """A figure under construction. x is in `unit`, y in lanes from above."""

    def __init__(self, lanes: Sequence[Lane], span_s: float, late_s: float, title: str, width_in: float) -> None:
        self.scale, self.unit = next((unit for unit in UNITS if span_s >= unit[0]), UNITS[-1])
        self.end = span_s / self.scale or 1.0
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
        self._legend(lanes)
        self._lay_out()  # now it is known how wide a word is
        for lane, y, dense in zip(lanes, self.middles, crowded, strict=True):
            self._words(lane.bands, y)
            if dense:
                self._counts(lane, y)

    # -- the frame -----------------------------------------------------------------------------------------------------

    def _empty(
        self, lanes: Sequence[Lane], high: float, late_s: float, title: str, width_in: float
    ) -> tuple[Timeline, Axes]:
        figure = Timeline(figsize=(width_in, FRAME_IN + LANE_IN * high), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=NAME_PT, color=INK, loc="left")
        axes.set_xlim(-0.01 * self.end, 1.01 * self.end)
        axes.set_ylim(high, 0)
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
        """A long title is made small rather than cut off."""
        title = self.axes._left_title  # type: ignore[attr-defined]
        renderer = self.figure.canvas.get_renderer()  # type: ignore[attr-defined]
        layout = self.figure.get_layout_engine()
        assert layout is not None
        layout.execute(self.figure)
        room = self.figure.bbox.x1 - self.axes.bbox.x0 - self._pixels(3)
        title.set_fontsize(NAME_PT * min(1.0, room / max(title.get_window_extent(renderer).width, 1.0)))

    # -- what lasts ----------------------------------------------------------------------------------------------------

    def _bands(self, bands: Sequence[Band], y: float) -> None:
        for look in dict.fromkeys(band.look for band in bands):
            fill = BANDS[look]
            parts = [(b.start_s / self.scale, (b.end_s - b.start_s) / self.scale) for b in bands if b.look == look]
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
        """In the band; beside it, if it is too narrow and nothing is there; or nowhere."""
        taken = 0.0
        for band, after in itertools.pairwise([*bands, None]):
            assert band is not None
            start, end = band.start_s / self.scale, band.end_s / self.scale
            for word in band.words:
                wide = self._wide(word)
                if max(start, taken) + wide <= end:
                    taken = self._say(max(start, taken), y, word, wide)
                    break
            else:
                free = after.start_s / self.scale if after else 1.01 * self.end
                wide = self._wide(band.words[-1])
                if band.look == "step" and max(end, taken) + wide <= free:
                    taken = self._say(max(end, taken), y, band.words[-1], wide)

    def _wide(self, word: str) -> float:
        """In x, with some room around it."""
        renderer = self.figure.canvas.get_renderer()  # type: ignore[attr-defined]
        text = self.axes.text(0, 0, word, fontsize=WORD_PT)
        wide = text.get_window_extent(renderer).width + 2 * self._pixels(3)
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
        seen = sorted({round(time / self.scale / self.per_pt * 2) for time in times})
        self.axes.vlines([at * self.per_pt / 2 for at in seen], y - 0.16, y + 0.16, color=EDGE, linewidth=0.6, zorder=2)

    def _runs(self, runs: Sequence[tuple[float, float]], y: float) -> None:
        """How long a queue was run."""
        parts = [(start / self.scale, (end - start) / self.scale) for start, end in runs]
        if parts:
            self.axes.broken_barh(parts, (y - 0.09, 0.18), facecolor=INK, edgecolor="none", zorder=2)

    def _crowded(self, times: Sequence[float]) -> bool:
        """Do so many touch each other that none is seen?"""
        places = sorted(time / self.scale for time in times)
        near = sum(after - before < MARK_PT * self.per_pt for before, after in itertools.pairwise(places))
        return near > CROWD

    def _marks(self, marks: dict[str, list[float]], y: float) -> None:
        for look, shape in SHAPES.items():
            if look in marks:
                style: dict[str, Any] = {"facecolors": "white" if shape.hollow else shape.colour, "zorder": 4}
                style |= {"linewidths": 0.9} | ({} if shape.marker == "x" else {"edgecolors": shape.colour})
                level, size = (y + 0.27, MARK_PT - 1) if shape.below else (y, MARK_PT)
                places = [time / self.scale for time in marks[look]]
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
            counts[int(time / self.scale / wide)] += 1
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
