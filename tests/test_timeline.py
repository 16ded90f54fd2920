"""Does the picture say what the events say? Lanes, bands and marks, and words that do not run into each other."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import matplotlib.style
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.image import imread
from rulebook import Boot

import labkit
from labkit.trace.drawing import CROWD, Timeline
from labkit.trace.looks import BANDS, SHAPES

SAMPLE = Path(__file__).parent / "data" / "format1.labkit"
pytestmark = pytest.mark.usefixtures("fonts")
PNG = b"\x89PNG\r\n\x1a\n"


def lanes(figure: Timeline) -> list[str]:
    """From top to bottom."""
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def legend(figure: Timeline) -> list[str]:
    """What is explained."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def words(figure: Timeline) -> list[str]:
    """What stands in the lanes, from left to right."""
    return [text.get_text() for text in sorted(figure.axes[0].texts, key=lambda text: text.get_position())]


def bands(figure: Timeline) -> set[str]:
    """The colours of all bars."""
    return {to_hex(bars.get_facecolor()[0]) for bars in figure.axes[0].collections if len(bars.get_facecolor())}


def texts(figure: Timeline) -> list[Any]:
    """Every text that is seen, as the boxes it takes."""
    (axes,) = figure.axes
    left, right = axes.get_xlim()
    ticks = [tick.label1 for tick in axes.xaxis.get_major_ticks() if left <= tick.get_loc() <= right]
    found = [*axes.texts, *ticks, *axes.get_yticklabels(), axes.xaxis.label, axes._left_title]
    found += [text for one in figure.legends for text in one.get_texts()]
    figure.draw_without_rendering()
    return [text.get_window_extent() for text in found if text.get_text()]


def overlapping(figure: Timeline) -> list[tuple[Any, Any]]:
    """Texts that run into each other."""
    return [(one, other) for one, other in itertools.combinations(texts(figure), 2) if one.overlaps(other)]


def test_a_lane_for_each_thread_and_a_band_for_each_queue() -> None:
    """Of a recording as of a machine; what is there is explained, and nothing else."""
    figure = labkit.replay(SAMPLE).trace.timeline()
    assert lanes(figure) == ["guest's steps", "vcpu0", "iothread", "backend", "owner", "host", "queue 0"]
    marks = ["kick, signalled", "synthetic kick", "interrupt"]
    owners = ["owner: none", "owner: vmm", "owner: backend", "the machine is stopped"]
    assert legend(figure) == [*marks, *owners, "a queue is run"]
    assert {BANDS[owner].colour for owner in ("none", "vmm", "backend")} <= bands(figure)


def test_a_live_machine_and_its_recording_look_the_same(boot: Boot, tmp_path: Path) -> None:
    """To the pixel."""
    vm = boot(ioeventfd=False)
    vm.guest.read(0)
    vm.trace.save(tmp_path / "recording")
    live, replayed = vm.trace.timeline(), labkit.replay(tmp_path / "recording").trace.timeline()
    assert live._repr_png_() == replayed._repr_png_()
    assert live._repr_png_().startswith(PNG)
    assert "kick, trapped" in legend(live)


def test_steps_of_two_vcpus_have_a_lane_each(boot: Boot) -> None:
    """They may be in a step at once."""
    vm = boot(vcpus=2)
    vm.guest.storm(8)
    assert lanes(vm.trace.timeline())[:2] == ["steps, vcpu0", "steps, vcpu1"]


def test_a_part_of_the_time_and_one_queue(boot: Boot) -> None:
    """Who owned the queue at the left edge is known from before it, and by which rule."""
    vm = boot("null", queues=3, ioeventfd=True)
    mark = vm.trace.mark()
    vm.guest.kick(1)
    later = vm.trace.mark()
    vm.pause()
    figure = vm.trace.timeline(since=mark, until=later, queue=1)
    assert [lane for lane in lanes(figure) if lane.startswith("queue")] == ["queue 1"]
    assert "vmm, R2 DRIVER_OK" in words(figure)
    assert "owner: none" not in legend(figure)


def test_a_part_of_the_time_in_seconds() -> None:
    """What begins before it and ends after it is there all the same."""
    trace = labkit.replay(SAMPLE).trace
    table = trace.frame()
    step, done = (table[table.event == name].time_s.iloc[0] for name in ("step", "step_done"))
    middle = float(step + done) / 2
    figure = trace.timeline(seconds=(middle, float(done)))
    assert {"NEGOTIATE", "none"} <= set(words(figure))
    assert f"after {middle:g} s" in figure.axes[0].get_xlabel()
    whole = trace.timeline(seconds=(-1.0, 1e6))
    assert legend(whole) == legend(trace.timeline())
    assert lanes(whole) == lanes(trace.timeline())


NONSENSE: list[dict[str, Any]] = [
    *({"seconds": seconds} for seconds in ((2, 1), (1, 1), (1,), 3, ("a", "b"), (0, float("inf")), (float("nan"), 1))),
    *({"width_in": width} for width in (0, -1, 1e9, float("nan"), "wide")),
]


@pytest.mark.parametrize("options", NONSENSE, ids=str)
def test_no_picture_has_such_a_size_or_time(options: dict[str, Any]) -> None:
    """The error names what is wrong."""
    with pytest.raises(labkit.UsageError, match=next(iter(options))):
        labkit.replay(SAMPLE).trace.timeline(**options)


@pytest.mark.parametrize("since", [0, 10**6])
def test_many_events_and_none(boot: Boot, since: int) -> None:
    """Both are pictures."""
    vm = boot()
    vm.guest.storm(300)
    assert vm.trace.timeline(since=since)._repr_png_().startswith(PNG)


# -- kicks -------------------------------------------------------------------------------------------------------------


def test_the_ways_of_a_kick_differ_in_shape() -> None:
    """Not in colour alone; and owners differ in hatch or in how light they are."""
    shapes = [(shape.marker, shape.hollow) for shape in SHAPES.values()]
    assert len(set(shapes)) == len(shapes)
    lightness = {look: round(sum(to_rgb(fill.colour)) / 3, 1) for look, fill in BANDS.items() if look != "step"}
    printed = [(lightness[look], BANDS[look].hatch) for look in lightness]
    assert len(set(printed)) == len(printed)


def test_a_kick_that_a_stop_finds_is_marked_as_such(boot: Boot) -> None:
    """It was still in the eventfd when the notifier was stopped (R5)."""
    vm = boot()
    vm.guest.read(0)
    vm.hold("iothread", "before-handler")
    vm.guest.kick(0)
    vm.pause()
    vm.release()
    assert {"kick, signalled", "kick, drained"} <= set(legend(vm.trace.timeline()))


def test_a_crowd_is_counted(boot: Boot) -> None:
    """Thousands of marks are none: their number stands there, and how they lie."""
    vm = boot(ioeventfd=False)
    for _ in range(3):
        vm.guest.storm(400, depth=1)
    kicks = len(vm.trace.events("kick_trap"))
    assert kicks > 10 * CROWD
    figure = vm.trace.timeline()
    assert any(word.startswith(f"{kicks} kicks trapped, up to ") for word in words(figure))
    assert all(len(marks.get_offsets()) < CROWD for marks in figure.axes[0].collections if hasattr(marks, "get_sizes"))
    assert overlapping(figure) == []


# -- to be looked at ---------------------------------------------------------------------------------------------------


def test_words_do_not_run_into_each_other(boot: Boot) -> None:
    """For a slide, a cell, a column of a paper; all of it and parts: a word for which there is no room is not there."""
    vm = boot("null", queues=3, vcpus=2)
    for queue in range(3):
        vm.guest.kick(queue)
    vm.hand_over([1])
    vm.pause()
    vm.resume()
    last = float(vm.trace.frame().time_s.iloc[-1])
    pictures = [labkit.replay(SAMPLE).trace.timeline(width_in=width) for width in (3.0, 8.0)]
    pictures += [
        vm.trace.timeline(width_in=width, seconds=part)
        for width, part in ((3.5, None), (3.5, (last / 2, last)), (8.0, (0.0, last / 3)), (13.0, None))
    ]
    pictures += [vm.trace.timeline(width_in=width, fold=True) for width in (3.5, 8.0)]
    for figure in pictures:
        assert figure.axes[0].texts or figure.get_figwidth() < 4
        assert overlapping(figure) == []
        right, top = figure.bbox.x1, figure.bbox.y1
        assert all(box.x0 >= 0 and box.x1 <= right and box.y0 >= 0 and box.y1 <= top for box in texts(figure))


def test_a_word_stays_in_its_band() -> None:
    """Of an owner none is beside its band, where it would be taken for the next one's."""
    figure = labkit.replay(SAMPLE).trace.timeline()
    figure.draw_without_rendering()
    (axes,) = figure.axes
    bars = [path.get_extents(axes.transData) for c in axes.collections for path in c.get_paths()]
    for text in axes.texts:
        if text.get_text().startswith(("none", "vmm", "backend")):
            box = text.get_window_extent()
            assert any(bar.x0 <= box.x0 and box.x1 <= bar.x1 and bar.y0 <= box.y0 and box.y1 <= bar.y1 for bar in bars)


def test_a_folded_wait_says_how_long_it_is_and_hides_no_word() -> None:
    """The longest ones are strips; no word stands across one, and the steps before and after it have grown."""
    trace = labkit.replay(SAMPLE).trace
    plain, folded = trace.timeline(), trace.timeline(fold=True)
    assert len(words(folded)) > len(words(plain))
    assert any(word.endswith((" ms", " µs")) for word in words(folded))
    folded.draw_without_rendering()
    (axes,) = folded.axes
    strips = [c for c in axes.collections if c.get_zorder() == 4.5]
    assert strips
    across = [strip.get_paths()[0].get_extents(axes.transData) for strip in strips]
    boxes = [text.get_window_extent() for text in axes.texts if text.get_position()[1] > 0]
    assert not any(box.overlaps(strip) for box in boxes for strip in across)
    assert "small ticks" in axes.get_xlabel()


def test_the_ground_is_white_in_a_dark_notebook(tmp_path: Path) -> None:
    """Whatever style the notebook has; the words are dark."""
    plain = labkit.replay(SAMPLE).trace.timeline()._repr_png_()
    with matplotlib.style.context("dark_background"):
        figure = labkit.replay(SAMPLE).trace.timeline()
        figure.savefig(tmp_path / "dark.png", dpi=110)
        assert figure._repr_png_() == plain
    corner = imread(tmp_path / "dark.png")[0, 0]
    assert tuple(corner) == (1.0, 1.0, 1.0, 1.0)
    assert (tmp_path / "dark.png").read_bytes() == plain


@pytest.mark.parametrize("kind", ["pdf", "svg"])
def test_a_paper_gets_lines_and_no_pixels(kind: str) -> None:
    """The same picture as vectors."""
    out = io.BytesIO()
    labkit.replay(SAMPLE).trace.timeline(width_in=3.5).savefig(out, format=kind)
    assert out.getvalue().startswith({"pdf": b"%PDF", "svg": b"<?xml"}[kind])


def test_a_cell_shows_the_picture() -> None:
    """IPython's own formatters make a PNG of it, with no pyplot and no backend chosen."""
    from IPython.core.formatters import DisplayFormatter

    shown, _ = DisplayFormatter().format(labkit.replay(SAMPLE).trace.timeline())
    assert shown["image/png"].startswith(PNG)
