"""How does the museum become a page? The tables of docs/museum.md, from what was played."""

from __future__ import annotations

from collections.abc import Sequence

from pages import ROOT, markdown, with_section

from labkit import museum
from labkit.museum import Result, steps
from labkit.races import Invariant, invariants
from labkit.virtio.notifier import REVISIONS

MUSEUM, RACES = ROOT / "docs" / "museum.md", ROOT / "docs" / "races.md"
HEADINGS = ("#", "specimen", "rule", "it breaks", "broken with", "holds without", "schedules searched", "all orders?")
SECONDS = "seconds"  # the column that comes last on the page, and is another each time


def row(result: Result) -> list[str]:
    """One specimen, searched. Without seconds: a test holds the page against this."""
    specimen = result.specimen
    assert result.searched is not None
    broke = sum(f.times for f in result.searched.failures if f.invariant == specimen.invariant.name)
    return [
        str(specimen.number),
        specimen.name,
        specimen.rule,
        specimen.invariant.name,
        f"{broke} of {result.schedules_with}",
        str(result.schedules_without) if result.holds_without else "no",
        str(result.schedules_with + result.schedules_without),
        "yes" if result.complete else "no",
    ]


def timed_row(result: Result) -> list[str]:
    """The same with the seconds of both searches, which are those of one run."""
    return [*row(result), f"{result.seconds:.2f}"]


def without_seconds(line: str) -> str:
    """A line of the page's table as `row` has it."""
    return line.rpartition(" | ")[0] + " |"


def table(results: Sequence[Result]) -> str:
    """All of them."""
    cpus = " and ".join(sorted({result.cpu for result in results}))
    said = f"The seconds are those of one run, of both searches, on the {cpus} CPU; another run has others."
    return f"{markdown((*HEADINGS, SECONDS), map(timed_row, results))}\n\n{said}"


def stories() -> str:
    """What happened, and where."""
    found = [museum.find(name) for name in museum.names()]
    return "\n".join(
        f"- **{one.number} {one.name}** ({' '.join((one.where, *one.commits)).strip()}): {one.happened}"
        for one in found
    )


def step_list() -> str:
    """How many steps there are, and which of them nobody can miss."""
    counts = ", ".join(f"{len(list(steps.everything(revision)))} of {revision}" for revision in REVISIONS)
    rows = [[f"`{name}`", why] for name, why in steps.NOBODY_MISSES.items()]
    said = f"Steps: {counts}. All are missed but these, which change nothing that anybody can see:"
    return f"{said}\n\n{markdown(('left out', 'why nobody misses it'), rows)}"


def invariant_table() -> str:
    """Those of every scenario first."""
    found = [one for one in vars(invariants).values() if isinstance(one, Invariant)]
    rows = [[f"`{one.name}`", one.broken] for one in dict.fromkeys((*invariants.ALWAYS, *found))]
    return markdown(("invariant", "what it means that it is broken"), rows)


def page(results: Sequence[Result], text: str) -> str:
    """The page with its sections written anew."""
    for name, made in (("museum", table(results)), ("stories", stories()), ("steps", step_list())):
        text = with_section(text, name, made, by="make museum")
    return text
