"""Notebook 07: which answers are right, and which only look like it?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from classroom import wrong
from rulebook import Boot

import labkit
from labkit import course, rules
from labkit.course.n07 import unnamed

RULE, WHOSE, PREDICT = "07.rule-for", "07.whose-rules", "07.predict"
REVISIONS = {"a": "merged", "b": "today", "c": "v6", "d": "0.14"}
OWNERS = {"v6": "none", "merged": "vmm", "0.14": "vmm", "today": "vmm"}


def rule_for(cause: str, revision: str) -> str | None:
    """The solution."""
    return {name: rule for name, rule, _ in rules.table(revision).rows}.get(cause)


def test_the_rule_of_a_cause() -> None:
    """As the table has it."""
    assert course.check(RULE, rule_for)


@pytest.mark.parametrize(
    "function",
    [
        lambda cause, _: rule_for(cause, "today"),  # which knows a cause more
        lambda cause, _: rule_for(cause, "v6"),
        lambda cause, revision: next(steps for name, _, steps in rules.table(revision).rows if name == cause),
        lambda cause, revision: rule_for(cause, revision) or "R0",
        lambda cause, revision: (rule_for(cause, revision) or "")[1:] or None,
        lambda cause: rule_for(cause, "v6"),
    ],
)
def test_one_revision_for_all_and_other_columns(function: Callable[..., Any]) -> None:
    """Rules of another revision, steps, a rule where there is none, and a number without its letter."""
    wrong(course.check(RULE, function))


@pytest.mark.parametrize("letter", REVISIONS)
def test_each_machine_shows_whose_rules_it_has(cpu: str, letter: str) -> None:  # noqa: ARG001
    """One answer is right, and the other three are not."""
    events = unnamed(letter)
    assert course.check(WHOSE, REVISIONS[letter], events)
    for revision in rules.names():
        if revision != REVISIONS[letter]:
            wrong(course.check(WHOSE, revision, events), f"'{REVISIONS[letter]}'", f" {REVISIONS[letter]} ")
    wrong(course.check(WHOSE, letter, events))


def test_no_machine_that_failed_is_no_evidence(boot: Boot) -> None:
    """Events of a start that came through, or none at all; and there are four such machines."""
    vm = boot("blk")
    wrong(course.check(WHOSE, "v6", vm.trace.events()))
    wrong(course.check(WHOSE, "v6", []))
    with pytest.raises(labkit.UsageError):
        unnamed("e")


def test_where_four_revisions_lead(cpu: str) -> None:  # noqa: ARG001
    """The machines say the same."""
    assert course.check(PREDICT, OWNERS)


@pytest.mark.parametrize(
    "answer",
    [
        OWNERS | {"merged": "none"},  # as if the backend had nothing to do with it
        OWNERS | {"v6": "vmm"},
        OWNERS | {"0.14": "none"},
        OWNERS | {"today": "backend"},
        OWNERS | {"today": None},
        dict.fromkeys(OWNERS, "vmm"),
        {"v6": "none"},
        ["none", "vmm", "vmm", "vmm"],
    ],
)
def test_plausible_ends(cpu: str, answer: object) -> None:  # noqa: ARG001
    """A revision taken for another, and other forms."""
    wrong(course.check(PREDICT, answer), str(OWNERS))
