"""How is a report read? As rows of short text, for a terminal and for the documentation."""

from __future__ import annotations

from labkit.bench import Report
from labkit.bench.row import Row

HEADINGS = ("row", "value", "raw floor", "unit", "ratio", "target", "met", "peer")


def cells(row: Row) -> tuple[str, ...]:
    """One row, under HEADINGS."""
    target = str(row.spec.target).replace("<=", "≤") if row.spec.target else "–"
    met = {True: "yes", False: "no", None: "–"}[row.met]
    peer = "–" if row.peer_ratio is None else f"{row.peer_ratio:.2f}"
    figures = figure(row.value), figure(row.floor), row.spec.unit, f"{row.ratio:.2f}"
    return (row.spec.name, *figures, target, met, peer)


def figure(number: float) -> str:
    """Three significant digits, without an exponent."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def legend(report: Report) -> list[str]:
    """What the columns mean, and what could not be compared."""
    lines = ["ratio: value / floor for times, floor / value for requests/s. 1.00 is perfect, larger is worse."]
    if report.peer:
        lines.append(f"peer: labkit / {report.peer} the same way round. Below 1.00 labkit is faster.")
    return [*lines, *report.notes]


def markdown(report: Report) -> str:
    """The table and its legend, as they stand in docs/performance.md."""
    rows = [HEADINGS, tuple("---" if i == 0 else "---:" for i in range(len(HEADINGS))), *map(cells, report.rows)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return table + "\n\n" + "\n".join(f"- {line}" for line in legend(report)) + "\n"
