"""Which rules are there, and how do the revisions differ? The tables of virtio/notifier.py, for people to read.

Everything here is made from those tables and that prose: a table of causes and steps, and a diagram of who owns a
notifier, found by carrying out each row on each state it can meet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from labkit import views
from labkit.errors import UsageError
from labkit.trace.events import Cause
from labkit.virtio import notifier
from labkit.virtio.notifier import REVISIONS
from labkit.virtio.table import Revision, Row, Step, When

_RULE = re.compile(r"^(R\d+) +(.*(?:\n {5}.*)*)", re.MULTILINE)


def names() -> tuple[str, ...]:
    """The revisions, oldest first: "v6", "merged", "0.14", "today"."""
    return tuple(REVISIONS)


def text(rule: str) -> str:
    """A rule in prose: `text("R5")`. UsageError: there is no such rule."""
    known = prose()
    if rule not in known:
        raise UsageError(f"rule {rule!r}: there are {', '.join(known)}")
    return known[rule]


def prose() -> dict[str, str]:
    """Every rule in prose, by its number: "R1", "R2" ..."""
    return {name: " ".join(said.split()) for name, said in _RULE.findall(notifier.__doc__ or "")}


class Listing(NamedTuple):
    """A table that prints itself: as HTML in a notebook, as Markdown elsewhere."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The rows as a Markdown table."""
        lines = [self.headings, ("---",) * len(self.headings), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def _repr_html_(self) -> str:
        return views.table(self.caption, self.headings, self.rows)

    def __repr__(self) -> str:
        return f"{self.caption}\n{self.markdown()}"


def table(revision: str) -> Listing:
    """The table of one revision: cause, rule, steps in order. UsageError: no such revision."""
    rows = tuple((cause.name, f"R{row.rule}", _steps(row)) for cause, row in _revision(revision).rows.items())
    return Listing(f"rules of {revision}", ("cause", "rule", "steps"), rows)


def places(rule: str) -> Listing:
    """Where a rule is in each revision: its rows, or what START and STOP do, and the source of that revision's rules.

    One that is no row stands in the prose and in the engine alone. UsageError: there is no such rule.
    """
    text(rule)
    found = [
        (name, what, said, rules.source) for name, rules in REVISIONS.items() for what, said in _places(rules, rule)
    ]
    return Listing(f"where {rule} is", ("revision", "cause", "steps", "source"), tuple(found))


def _places(rules: Revision, rule: str) -> list[tuple[str, str]]:
    parts = {"R3": ("START", rules.start), "R5": ("STOP", rules.stop), "R12": ("queue indices", rules.queue_indices)}
    rows = [(cause.name, _steps(row)) for cause, row in rules.rows.items() if f"R{row.rule}" == rule]
    of_it = [(parts[rule][0], _fact(parts[rule][1]))] if rule in parts else []
    return [*of_it, *rows] or [("–", "no row: as the text says")]


def differences() -> Listing:
    """Where the revisions differ, a line a cause; what is not a row of the tables stands below."""
    causes = list(dict.fromkeys(cause for rules in REVISIONS.values() for cause in rules.rows))
    rows = [(_label(cause, REVISIONS), *(_cell(rules, cause) for rules in REVISIONS.values())) for cause in causes]
    facts = [
        (name.replace("_", " "), *(_fact(getattr(rules, name)) for rules in REVISIONS.values()))
        for name in (
            "start",
            "stop",
            "forwards_traps",
            "heeds_bus_master",
            "suppresses",
            "queue_indices",
            "splits_unaligned",
            "offers",
        )
    ]
    differing = tuple(row for row in rows + facts if len(set(row[1:])) > 1)
    return Listing("where the revisions differ", ("cause", *REVISIONS), differing)


def _revision(name: str) -> Revision:
    if name not in REVISIONS:
        raise UsageError(f"revision {name!r}: this version knows {', '.join(REVISIONS)}")
    return REVISIONS[name]


def _steps(row: Row) -> str:
    steps = _names(row.steps)
    return steps if row.when is None else f"if {row.when.value}: {steps}; else {_names(row.otherwise)}"


def _names(steps: tuple[Step, ...]) -> str:
    return ", ".join(step.name for step in steps) or "nothing"


def _label(cause: Cause, revisions: dict[str, Revision]) -> str:
    row = next(rules.rows[cause] for rules in revisions.values() if cause in rules.rows)
    return f"{cause.name} (R{row.rule})"


def _cell(rules: Revision, cause: Cause) -> str:
    return _steps(rules.rows[cause]) if cause in rules.rows else "–"


def _fact(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "; ".join("each: " + ", ".join(part.name for part in batch) for batch in value)
    return getattr(value, "name", None) or str(value)


# -- the diagram: who owns a notifier ---------------------------------------------------------------------------------


class Spot(NamedTuple):
    """What the diagram knows of a device: who owns its notifiers, may they start, are they lent, wanted back."""

    owner: str = "none"
    allowed: bool = True
    lent: bool = False
    wanted: bool = False

    @property
    def label(self) -> str:
        """The state's name in the diagram."""
        if self.owner != "none":
            return self.owner
        return "lent" if self.lent else "none" if self.allowed else "off"


class Diagram(NamedTuple):
    """Owners and what moves them. JupyterLab and the repository's web view draw the Mermaid text."""

    revision: str
    moves: tuple[tuple[str, str, str], ...]  # from, to, why

    @property
    def mermaid(self) -> str:
        """A state diagram in Mermaid's words."""
        lines = [f"    {before} --> {after} : {why.replace(', ', '<br/>')}" for before, after, why in self.moves]
        return "\n".join(["stateDiagram-v2", "    direction LR", "    [*] --> none", *lines])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/vnd.mermaid": self.mermaid, "text/plain": repr(self)}

    def __repr__(self) -> str:
        width = max(len(before) + len(after) for before, after, _ in self.moves) + 4
        lines = [f"  {f'{before} -> {after}':<{width}}  {why}" for before, after, why in self.moves]
        return "\n".join([f"owner of a notifier, rules of {self.revision}", *lines])


def diagram(revision: str) -> Diagram:
    """Who owns a notifier, and every cause that changes it. UsageError: no such revision."""
    rules = _revision(revision)
    found: dict[tuple[str, str], list[str]] = {}
    seen, pending = {Spot()}, [Spot()]
    while pending:
        before = pending.pop(0)
        for why, after in _moves(rules, before):
            if after.label != before.label:
                reasons = found.setdefault((before.label, after.label), [])
                reasons.extend([why] if why not in reasons else [])
            if after not in seen:
                seen.add(after)
                pending.append(after)
    return Diagram(revision, tuple((before, after, ", ".join(why)) for (before, after), why in found.items()))


def _moves(rules: Revision, spot: Spot) -> Iterator[tuple[str, Spot]]:
    """Every cause that this state can meet, and where it leads."""
    for cause, row in rules.rows.items():
        if not _can_meet(rules, cause, spot):
            continue
        why = f"{cause.name} R{row.rule}"
        for steps in (row.steps, row.otherwise) if row.when is When.LIVE else (_branch(row, spot),):
            yield why, _carry_out(steps, _backend(cause, spot))
    if spot.owner == "none" and spot.allowed and not spot.lent:
        row = rules.rows[Cause.ASSIGN_FAILED]
        yield f"ASSIGN_FAILED R{row.rule}", _carry_out(row.steps, spot)


def _can_meet(rules: Revision, cause: Cause, spot: Spot) -> bool:
    lends = Step.LEND in rules.rows[Cause.GRAB].steps
    return {
        Cause.ASSIGN_FAILED: False,  # it comes out of a START
        Cause.GRAB: lends and not spot.lent,
        Cause.BACKEND_TAKES: spot.owner != "backend" and (spot.lent or not lends),
        Cause.BACKEND_GIVES: spot.owner == "backend",
        Cause.RELEASE: spot.lent and spot.owner == "none",
    }.get(cause, spot.owner != "backend" or not lends)


def _branch(row: Row, spot: Spot) -> tuple[Step, ...]:
    return row.otherwise if row.when is When.STARTED and spot.owner != "vmm" else row.steps


def _backend(cause: Cause, spot: Spot) -> Spot:
    """A backend is there, or has gone, once the steps are done; STOP does not concern it."""
    owners = {Cause.BACKEND_TAKES: "backend", Cause.BACKEND_GIVES: "none"}
    return spot._replace(owner=owners.get(cause, spot.owner))


def _start(spot: Spot) -> Spot:
    if spot.lent:
        return spot._replace(wanted=True)
    return spot._replace(owner="vmm") if spot.owner == "none" and spot.allowed else spot


def _stop(spot: Spot) -> Spot:
    return spot._replace(owner="none" if spot.owner == "vmm" else spot.owner, wanted=False)


def _take_back(spot: Spot) -> Spot:
    free = spot._replace(lent=False, wanted=False)
    return _start(free) if spot.wanted else free


_EFFECTS: dict[Step, Callable[[Spot], Spot]] = {
    Step.START: _start,
    Step.STOP: _stop,
    Step.CLEAR_PROPERTY: lambda spot: spot._replace(allowed=False),
    Step.TURN_OFF: lambda spot: spot._replace(allowed=False),
    Step.TURN_ON: lambda spot: spot._replace(allowed=True),
    Step.LEND: lambda spot: _stop(spot)._replace(lent=True, wanted=spot.owner == "vmm"),
    Step.TAKE_BACK: _take_back,
}


def _carry_out(steps: tuple[Step, ...], spot: Spot) -> Spot:
    for step in steps:
        if step in _EFFECTS:
            spot = _EFFECTS[step](spot)
    return spot
