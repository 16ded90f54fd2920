"""How does a reader see what was compared? A table in Markdown: scenario, QEMU, labkit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pages

from oracle import recording
from oracle.differences import DIFFERENCES, Difference
from oracle.scenarios import SCENARIOS, Scenario

NOTHING = "–"


class Result(NamedTuple):
    """A scenario, what QEMU did, and where labkit differed (None: nowhere)."""

    scenario: Scenario
    qemu: Sequence[str]
    difference: Difference | None


def scenario_table(results: Sequence[Result]) -> str:
    """The table, a row a scenario; of QEMU the events, of labkit "the same" or what differs, with the reason."""
    return pages.markdown(
        ["scenario", "QEMU 7.2", "labkit"],
        ([result.scenario.title, _events(result.qemu), _labkit(result.difference)] for result in results),
    )


def recorded_results() -> list[Result]:
    """What is recorded of QEMU, and the differences that are listed: the tests hold both machines to them."""
    recorded = recording.read()
    return [Result(scenario, recorded[scenario.name], DIFFERENCES.get(scenario.name)) for scenario in SCENARIOS]


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
    lines = ", ".join(f"`{line}`" for line in dict.fromkeys(difference.lines))
    return f"{lines}: {difference.reason}"
