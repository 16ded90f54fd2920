"""What does each thing in a picture look like? Told apart by shape, hatch and lightness, not by colour alone."""

from __future__ import annotations

from typing import NamedTuple

from labkit.trace.timeline import INTERRUPT, NOT_KNOWN
from labkit.trace.ways import Way

INK, PALE, EDGE = "#222222", "#ececec", "#8c8c8c"
# By Okabe and Ito: people who see fewer colours tell them apart.
BLUE, VERMILION, PURPLE, GREEN = "#0072b2", "#d55e00", "#a8508a", "#009e73"


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
