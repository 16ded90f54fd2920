"""Does the picture say what the events say? Lanes, bands and marks, and words that do not run into each other."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from rulebook import Boot

import labkit
from labkit.trace.timeline import OWNERS, Timeline

SAMPLE = Path(__file__).parent / "data" / "format1.labkit"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    """matplotlib opens its fonts with the first picture and keeps them."""
    labkit.replay(SAMPLE).trace.timeline()._repr_png_()


def lanes(figure: Timeline) -> list[str]:
    """From top to bottom."""
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def legend(figure: Timeline) -> list[str]:
    """What is explained."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def bands(figure: Timeline) -> set[str]:
    """The colours of all bars."""
    return {to_hex(bars.get_facecolor()[0]) for bars in figure.axes[0].collections if len(bars.get_facecolor())}


def test_a_lane_for_each_thread_and_a_band_for_each_queue() -> None:
    """Of a recording as of a machine; what is there is explained, and nothing else."""
    figure = labkit.replay(SAMPLE).trace.timeline()
    assert lanes(figure) == ["guest's steps", "vcpu0", "iothread", "backend", "owner", "host", "queue 0"]
    assert legend(figure) == ["kick by eventfd", "interrupt", "owner: none", "vmm", "backend"]
    assert {OWNERS["none"], OWNERS["vmm"], OWNERS["backend"]} <= bands(figure)


def test_a_live_machine_and_its_recording_look_the_same(boot: Boot, tmp_path: Path) -> None:
    """To the pixel."""
    vm = boot(ioeventfd=False)
    vm.guest.read(0)
    vm.trace.save(tmp_path / "recording")
    live, replayed = vm.trace.timeline(), labkit.replay(tmp_path / "recording").trace.timeline()
    assert live._repr_png_() == replayed._repr_png_()
    assert live._repr_png_().startswith(PNG)
    assert "kick by trap" in legend(live)


def test_a_part_of_the_time_and_one_queue(boot: Boot) -> None:
    """Who owned the queue at the left edge is known from before it."""
    vm = boot("null", queues=3, ioeventfd=True)
    mark = vm.trace.mark()
    vm.guest.kick(1)
    later = vm.trace.mark()
    vm.pause()
    figure = vm.trace.timeline(since=mark, until=later, queue=1)
    assert lanes(figure)[-1] == "queue 1"
    assert OWNERS["vmm"] in bands(figure)
    assert OWNERS["none"] not in bands(figure)
    assert [lane for lane in lanes(figure) if lane.startswith("queue")] == ["queue 1"]


@pytest.mark.parametrize("since", [0, 10**6])
def test_many_events_and_none(boot: Boot, since: int) -> None:
    """Both are pictures."""
    vm = boot()
    vm.guest.storm(300)
    assert vm.trace.timeline(since=since)._repr_png_().startswith(PNG)


def test_words_do_not_run_into_each_other() -> None:
    """Where there is no room for a word there is none; and none leaves the picture."""
    figure = labkit.replay(SAMPLE).trace.timeline()
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert boxes
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    labels = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(labels, 2))
    assert min(box.x0 for box in labels) >= 0


def test_a_cell_shows_the_picture() -> None:
    """IPython's own formatters make a PNG of it, with no pyplot and no backend chosen."""
    from IPython.core.formatters import DisplayFormatter

    shown, _ = DisplayFormatter().format(labkit.replay(SAMPLE).trace.timeline())
    assert shown["image/png"].startswith(PNG)
