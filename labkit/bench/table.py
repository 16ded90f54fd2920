"""How is a report read? As rows of short text, for a terminal and for the documentation."""

from __future__ import annotations

from labkit.bench import Report
from labkit.bench.row import PAGES_PER_S, PER_S, PERCENT, REQUESTS_PER_S, Row, Spec

HEADINGS = ("row", "value", "raw floor", "ratio", "target", "met", "peer")
SHORT = dict.fromkeys((REQUESTS_PER_S, PAGES_PER_S), PER_S)  # the row's name says of what


def cells(row: Row) -> tuple[str, ...]:
    """One row, under HEADINGS."""
    unit = SHORT.get(row.spec.unit, row.spec.unit)
    met = {True: "yes", False: "no", None: "–"}[row.met]
    peer = "–" if row.peer_ratio is None else figure(row.peer_ratio)
    figures = f"{figure(row.value)} {unit}", f"{figure(row.floor)} {unit}", f"{row.ratio:.2f}"
    return (row.spec.name, *figures, promise(row.spec), met, peer)


def promise(spec: Spec) -> str:
    """The target: a ratio, or a value with its unit."""
    if spec.target is None:
        return "–"
    return f"≤ {spec.target.most:.2f} ×" if spec.target.quantity == "ratio" else f"≤ {spec.target.most:g} {spec.unit}"


def figure(number: float) -> str:
    """Three significant digits or so, without an exponent."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}" if number >= 0.1 else f"{number:.4f}"


def title(report: Report) -> str:
    """Of the table on a terminal."""
    return f"labkit bench on {report.cpu}" + (": times of an emulator, not of hardware" if emulated(report) else "")


def whose(report: Report) -> str:
    """Which CPU it was, in a sentence."""
    if emulated(report):
        return "cpu: emulated. These are times of an emulator, and say nothing about hardware; only the ratios travel."
    return f"cpu: {report.cpu}."


def emulated(report: Report) -> bool:
    """Was the guest executed by the emulated CPU?"""
    return report.cpu == "emulated"


def legend(report: Report) -> list[str]:
    """Whose times these are, what the columns mean, and what was left out or not compared."""
    lines = [
        whose(report),
        "ratio: value / floor for times, floor / value for what is counted a second. 1.00 is perfect, larger is worse.",
    ]
    if report.peer:
        lines.append(f"peer: labkit against {report.peer}, the same way round. Below 1.00 labkit is faster.")
    if any(row.spec.unit == PERCENT for row in report.rows):
        lines.append("%: of the vCPUs' time; the floor is that of one vCPU, which waits for no other.")
    notes = dict.fromkeys(row.note for row in report.rows if row.note)
    return [*lines, *notes, *report.notes]


def markdown(report: Report) -> str:
    """The table and its legend, as they stand in docs/performance.md."""
    above = "Times of an emulated CPU, not of hardware:\n\n" if emulated(report) else ""
    rows = [HEADINGS, tuple("---" if i == 0 else "---:" for i in range(len(HEADINGS))), *map(cells, report.rows)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return above + table + "\n\n" + "\n".join(f"- {line}" for line in legend(report)) + "\n"
