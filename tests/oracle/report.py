"""How does a reader see what was compared? A table in Markdown: scenario, QEMU, labkit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from oracle.differences import Difference
from oracle.scenarios import Scenario

BEGIN, END = "<!-- scenarios: written by make fidelity -->", "<!-- end of scenarios -->"
NOTHING = "–"


class Result(NamedTuple):
    """A scenario, what QEMU did, and where labkit differed (None: nowhere)."""

    scenario: Scenario
    qemu: Sequence[str]
    difference: Difference | None


def scenario_table(results: Sequence[Result]) -> str:
    """The table, a row a scenario; of QEMU the events, of labkit "the same" or what differs, with the reason."""
    rows = ["| scenario | QEMU 7.2 | labkit |", "|---|---|---|"]
    for result in results:
        cells = (result.scenario.title, _events(result.qemu), _labkit(result.difference))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _events(lines: Sequence[str]) -> str:
    """What each action caused, in short, without the bring-up that they have in common; `;` parts the actions."""
    caused: list[list[str]] = []
    for line in lines:
        if line.startswith(" "):
            caused[-1].append(_short(line.split()))
        else:
            caused.append([])
    return "; ".join(", ".join(events) for events in caused[1:] if events) or NOTHING


def _short(words: list[str]) -> str:
    thread, act, *rest = words
    match act:
        case "queue_notify":
            return "trap" if thread == "vcpu" else "notify"
        case "assign" | "deassign":
            return act if rest[0].startswith("bar0") else f"{act} at {rest[0]}"
    return " ".join([act, *rest])


def _labkit(difference: Difference | None) -> str:
    if difference is None:
        return "the same"
    lines = ", ".join(f"`{line}`" for line in difference.lines)
    return f"{lines}: {difference.reason}"


def with_section(page: str, table: str) -> str:
    """The page with the table between its markers. ValueError if it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} and {END}")
    return f"{before}{begin}\n{table}{end}{after}"


def write(path: Path, table: str) -> None:
    """Put the table into the page at `path`."""
    path.write_text(with_section(path.read_text(), table))
