"""12, museum and capstone: an order that breaks a mystery, the step that is missing, its row, and who is at fault."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from labkit import museum, races
from labkit.course.exercise import Exercise
from labkit.course.mysteries import Mystery, as_far_as_it_goes, mystery
from labkit.course.verdict import Verdict, not_yet, right, shown
from labkit.museum import steps
from labkit.races import Replay, Scenario
from labkit.trace.events import Cause, Event
from labkit.virtio.mutations import Mutation
from labkit.virtio.notifier import REVISIONS
from labkit.virtio.table import Revision, Step

NOT_ONE = "the last argument is a mystery: course.mystery(2)"
SUSPECTED = (3, 4, 5)  # mysteries
IDLE = "idle"


def story(events: Iterable[Event]) -> list[tuple[str, str, int | None]]:
    """What happened, without what differs from run to run: who did what, with which queue."""
    return [(event.actor, event.name, event.queue) for event in events]


# -- an order that breaks it -------------------------------------------------------------------------------------------


def witness(function: Any, one: Any) -> Verdict:
    """A function that finds a schedule that breaks a mystery, and nothing else."""
    if not isinstance(one, Mystery) or not callable(function):
        return not_yet(f"{shown(function)} and {shown(one)} are no function and no mystery", NOT_ONE)
    schedule = function(one)
    if not isinstance(schedule, str):
        return not_yet(
            f"it returned {shown(schedule)}", "a schedule is a text: what does each failure of a report have?"
        )
    if not one.replay(schedule).broken:
        return not_yet("that schedule breaks nothing", "a search finds one: what did one.explore() report?")
    if one.healthy(schedule).broken:
        return not_yet("that schedule breaks a healthy machine as well", "was it searched with what is wrong?")
    return right(f"{schedule} breaks it, and where nothing is wrong it holds: the order is not the bug, it shows it")


# -- what is missing ---------------------------------------------------------------------------------------------------


def missing_step(answer: object, schedule: Any, one: Any) -> Verdict:
    """A step whose absence makes the same events in the same schedule."""
    if not isinstance(one, Mystery) or not isinstance(schedule, str):
        return not_yet("nothing to compare", f"the second argument is a schedule that breaks it, {NOT_ONE}")
    revision = _rules_of(one.scenario)
    known = [name for name in steps.by_name() if name.startswith(f"{revision}:")]
    if not isinstance(answer, str) or answer not in known:
        return not_yet(f"{shown(answer)} is none of the {len(known)} steps", f"what does a name look like? {known[0]}")
    seen = one.replay(schedule)
    if not seen.broken:
        return not_yet("that schedule breaks nothing", "take the one that your search has found")
    claimed = as_far_as_it_goes(one.scenario, schedule, [answer])
    if story(claimed.events) != story(seen.events):
        return not_yet(
            f"without that step the same schedule goes another way, at its event {_first(claimed, seen)}",
            "compare one.replay(schedule) and one.healthy(schedule): what happens in only one of them, after what?",
        )
    return right(f"{answer}: event for event the same, {len(seen.events)} of them")


def _first(a: Replay, b: Replay) -> int:
    """Where they part."""
    ours, theirs = story(a.events), story(b.events)
    together = (n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1])
    return next(together, min(len(ours), len(theirs)))


def _rules_of(scenario: Scenario) -> str:
    return str(scenario.boot.get("revision", "v6"))


# -- and what would mend it --------------------------------------------------------------------------------------------


def put_it_back(answer: object, one: Any) -> Verdict:
    """A row of the rules that makes every order hold, and does what a healthy machine does."""
    if not isinstance(one, Mystery):
        return not_yet(f"{shown(one)} is no mystery", NOT_ONE)
    row = _row(answer, one)
    if row is None:
        return not_yet(
            f"{shown(answer)} is no row of rules {_rules_of(one.scenario)}",
            'one cause and its steps in order, as docs/rules.md calls them: {"EXIT": ["STOP"]}',
        )
    cause, wanted = row
    breaks, same = _mended(one.number, cause, wanted)
    if breaks:
        return not_yet(
            f"with that row {breaks} still breaks",
            "which cause is it that was not followed by what should have followed? The owner events name theirs",
        )
    if not same:
        return not_yet(
            "nothing breaks any more, but it is not what a healthy machine does",
            "a row is all its steps, in their order: what did it have beside the one that is missing?",
        )
    return right(f"{cause.name} -> {', '.join(step.name for step in wanted)}: every order holds, and the events agree")


def _row(answer: object, one: Mystery) -> tuple[Cause, tuple[Step, ...]] | None:
    if not isinstance(answer, dict) or len(answer) != 1:
        return None
    ((cause, wanted),) = answer.items()
    if not isinstance(cause, str) or not isinstance(wanted, list | tuple):
        return None
    if cause not in Cause.__members__ or Cause[cause] not in REVISIONS[_rules_of(one.scenario)].rows:
        return None
    if not all(isinstance(name, str) and name in Step.__members__ for name in wanted):
        return None
    return Cause[cause], tuple(Step[name] for name in wanted)


@cache
def _mended(number: int, cause: Cause, wanted: tuple[Step, ...]) -> tuple[str, bool]:
    """What breaks with that row, if anything; and does the machine do then what a healthy one does?"""

    def mend(rules: Revision) -> Revision:
        return rules._replace(rows=rules.rows | {cause: rules.rows[cause]._replace(steps=wanted)})

    one = mystery(number)
    both: list[str | Mutation] = [one.wrong, Mutation("mended", rules=mend, late=True)]
    report = races.explore(one.scenario, mutations=both, until_broken=True)
    if report.failures:
        return report.failures[0].invariant, False
    by_itself = f"{one.scenario.name}:{one.scenario.fingerprint}:"  # nobody forced: everybody as far as it goes
    mended = races.replay(one.scenario, by_itself, both)
    return "", story(mended.events) == story(one.healthy(by_itself).events)


# -- who is at fault ---------------------------------------------------------------------------------------------------


def suspects(answer: object) -> Verdict:
    """For mysteries 3 to 5, the actors that it is about."""
    form = "a dict of three: {3: {...}, 4: {...}, 5: {...}}, each a set of names of threads"
    if not isinstance(answer, dict) or set(answer) != set(SUSPECTED):
        return not_yet(f"{shown(answer)} has not the form", form)
    hints = {
        3: "who emits the event request, in the schedule that breaks it?",
        4: "the failure says where each of them stands: who cannot go on before another has?",
        5: "the first difference between a healthy replay and this one: what is not done, and by whom?",
    }
    for number in SUSPECTED:
        named = answer[number]
        if not isinstance(named, set | frozenset | list | tuple) or set(named) != _at_fault(number):
            return not_yet(f"mystery {number}: not {shown(named)}", f"{hints[number]} ({form})")
    return right("two that serve one ring; two that wait for each other; and a driver, for once, and not the device")


@cache
def _at_fault(number: int) -> frozenset[str]:
    one = mystery(number)
    failure = one.explore(until_broken=True).failures[0]
    if failure.stacks:  # a line for each, and indented ones below it
        stood = [line for line in failure.stacks.splitlines() if not line.startswith(" ")]
        return frozenset(line.split()[0] for line in stood if line.split()[1:] != [IDLE])
    if any(wrong.driver for wrong in museum.mutations([one.wrong])):
        return frozenset({"vcpu0"})
    return frozenset(event.actor for event in one.replay(failure.schedule).events if event.name == "request")


EXERCISES = (
    Exercise("12.witness", "a function of a mystery that returns a schedule which breaks it", witness),
    Exercise("12.missing-step", "the step that is missing: its name among those of labkit.museum.steps", missing_step),
    Exercise("12.put-it-back", "the row of the rules as it must be: {cause: [steps]}", put_it_back),
    Exercise("12.suspects", "the actors that mysteries 3, 4 and 5 are about: a set of names for each", suspects),
)
