"""Do the tables say what the engine does, and can people read them? labkit.rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rulebook import ALL, Boot, revisions

from labkit import UsageError, rules
from labkit.trace.events import Cause
from labkit.virtio import notifier
from labkit.virtio.notifier import REVISIONS

PACKAGE = Path(notifier.__file__).resolve().parent.parent


@revisions()
def test_every_cause_has_a_row(revision: str) -> None:
    """A cause that happens must be in the table; only the kick that starts a device is not for everybody."""
    assert set(Cause) - set(REVISIONS[revision].rows) <= {Cause.KICK}


def test_every_rule_of_the_tables_is_in_the_prose() -> None:
    """Each row names a rule that the prose explains, and R1 to R18 are all explained."""
    named = {row.rule for revision in REVISIONS.values() for row in revision.rows.values()}
    assert all(rules.text(f"R{number}") for number in named | set(range(1, 19)))
    with pytest.raises(UsageError, match="R19"):
        rules.text("R19")


def test_no_revision_is_asked_for_outside_the_tables() -> None:
    """What differs between revisions is a table's: no other module compares a revision's name.

    A specimen names one, to be booted with: the bug is of its time; and so does an exercise. The walk over the tables'
    steps names all of them, and the scenarios made for it.
    """
    asks = re.compile(r"""(?:revision\s*(?:==|!=|in)\s|(?<!"revision": )["'](?:merged|0\.14|today)["'])""")
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if asks.search(re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.DOTALL))
    }
    assert {path for path in found if not path.startswith("course/")} == {
        "virtio/notifier.py",
        "museum/steps.py",
        "races/scenarios.py",
    }


MOVES = {
    "v6": {("none", "vmm"), ("vmm", "none"), ("none", "off"), ("vmm", "backend"), ("backend", "off")},
    "merged": {("none", "vmm"), ("vmm", "none"), ("none", "off"), ("vmm", "backend"), ("backend", "none")},
    "0.14": {("none", "vmm"), ("vmm", "none"), ("vmm", "backend"), ("backend", "none")},
    "today": {("none", "vmm"), ("vmm", "none"), ("vmm", "lent"), ("lent", "backend"), ("lent", "vmm")},
}


@revisions()
def test_the_diagram_shows_what_the_revision_is_about(revision: str) -> None:
    """Who can own a notifier after whom; and a start that fails leads to `off` only where it stays off."""
    moves = {(before, after) for before, after, _ in rules.diagram(revision).moves}
    assert moves >= MOVES[revision]
    assert (("none", "off") in moves) is (("none", "off") in MOVES[revision])


@revisions()
def test_the_diagram_is_text_that_a_notebook_draws(revision: str) -> None:
    """Mermaid for whoever draws it, plain text for the others; the same each time."""
    bundle = rules.diagram(revision)._repr_mimebundle_()
    assert bundle["text/vnd.mermaid"].startswith("stateDiagram-v2")
    assert bundle["text/plain"] == repr(rules.diagram(revision))
    assert "KICK R17" in bundle["text/plain"] or revision != "today"


@revisions()
def test_the_machine_moves_as_the_diagram_says(boot: Boot, revision: str) -> None:
    """Every change of owner that a machine shows is a move of the diagram."""
    vm = boot("blk", revision=revision)
    vm.guest.read(0)
    vm.hand_over()
    vm.pause()
    vm.resume()
    vm.take_back()
    vm.guest.clear_driver_ok()
    vm.guest.set_driver_ok()
    vm.reset()
    moves = {why for *_, reasons in rules.diagram(revision).moves for why in reasons.split(", ")}
    causes = {f"{e['cause']} {e['rule']}" for e in vm.trace.events("owner")}
    assert causes <= moves


def test_tables_are_listings() -> None:
    """One line a cause; HTML in a notebook, Markdown elsewhere; an unknown revision is the caller's mistake."""
    assert rules.names() == ALL
    assert "| DRIVER_OK | R2 | START, STORE_STATUS, NOTE_BUS_MASTER_BUG |" in rules.table("v6").markdown()
    assert "<th" in rules.table("today")._repr_html_()
    assert {row[0] for row in rules.differences().rows} >= {"DRIVER_OK (R2)", "stop", "KICK (R17)"}
    with pytest.raises(UsageError, match="revision"):
        rules.table("0.15")
    with pytest.raises(UsageError, match="revision"):
        rules.diagram("0.15")
