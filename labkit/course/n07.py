"""07, the rules: which rule acts, whose rules are these, and where do four revisions lead?"""

from __future__ import annotations

from typing import Any

import labkit
from labkit.course.exercise import Exercise
from labkit.course.verdict import Verdict, not_yet, right, shown
from labkit.trace.events import Cause, Event
from labkit.virtio.notifier import REVISIONS

_NAMES = {"a": "merged", "b": "today", "c": "v6", "d": "0.14"}  # of the unnamed machines: do not look


def rule_for(function: Any) -> Verdict:
    """A function of cause and revision."""
    for revision, rules in REVISIONS.items():
        for cause in Cause:
            said, row = function(cause.name, revision), rules.rows.get(cause)
            known = isinstance(said, str) and row is not None and said == f"R{row.rule}"
            if not known and not (said is None and row is None):
                return not_yet(
                    f"on {cause.name} under {revision} it is not {shown(said)}",
                    "rules.table(revision).rows has a line for each cause that a revision knows: its name, its rule, "
                    "its steps",
                )
    return right("a rule has one number in all four; what differs is its steps, and whether it is there")


def unnamed(letter: str) -> list[Event]:
    """Events of a machine of "a", "b", "c" or "d": a start that fails, the driver's next one, a pause and a resume."""
    if not isinstance(letter, str) or letter not in _NAMES:
        raise labkit.UsageError(f"unnamed machine {letter!r}: there are {', '.join(_NAMES)}")
    with labkit.boot("null", queues=2, ioeventfd=True, bring_up=False, revision=_NAMES[letter]) as vm:
        vm.guest.negotiate()
        vm.fault.fail_assign(queue=1, error="ENOSPC")
        vm.guest.set_driver_ok()
        vm.guest.clear_driver_ok()
        vm.guest.set_driver_ok()
        vm.pause()
        vm.resume()
    return vm.trace.events("status", "assign", "signal", "roll_back", "owner", "runstate")


def revisions_of(events: list[Event]) -> set[str]:
    """Under which revisions can a machine that failed to start once have done this?"""
    names = [event.name for event in events]
    if "roll_back" not in names:
        return set()
    before = [event for event in events[: names.index("roll_back")] if event.name == "status"]
    if not before or "DRIVER_OK" not in str(before[-1]["after"]):
        return {"v6"}
    if "owner" not in names[names.index("roll_back") :]:
        return {"merged"}
    return {"today"} if "signal" in names else {"0.14"}


def whose_rules(answer: object, events: Any) -> Verdict:
    """The revision that the events are of."""
    if not isinstance(events, list) or not events or not all(isinstance(event, Event) for event in events):
        return not_yet("these are no events", "the list that unnamed() gave")
    truth = revisions_of(events)
    if len(truth) != 1:
        return not_yet("these events are of no machine that failed to start", "take those of unnamed()")
    if not isinstance(answer, str) or answer not in REVISIONS:
        return not_yet(f"{shown(answer)} is no revision", f"one of {', '.join(REVISIONS)}")
    if answer not in truth:
        return not_yet(
            f"under {answer} it would have gone otherwise",
            "when is the status stored, before the first assign or after it? Does a start come through after the one "
            "that failed? Does it signal by itself?",
        )
    return right("nobody has named them: the order of the steps did")


def owners_after() -> dict[str, str]:
    """By revision: a start fails, a backend comes and goes, and the driver starts anew."""
    found = {}
    for revision in REVISIONS:
        with labkit.boot("null", queues=2, ioeventfd=True, bring_up=False, revision=revision) as vm:
            vm.guest.negotiate()
            vm.fault.fail_assign(queue=1, error="ENOSPC")
            vm.guest.set_driver_ok()
            vm.hand_over()
            vm.take_back()
            vm.guest.clear_driver_ok()
            vm.guest.set_driver_ok()
            found[revision] = vm.proxy.queues[0].notifier.owner
    return found


def predict(answer: object) -> Verdict:
    """Owners, by revision; the machines decide."""
    if not isinstance(answer, dict) or answer.keys() != REVISIONS.keys():
        return not_yet(f"{shown(answer)} has not the form", f"a dict with an owner for each of {', '.join(REVISIONS)}")
    for revision, owner in owners_after().items():
        if not isinstance(answer[revision], str) or answer[revision] != owner:
            return not_yet(
                f"under {revision} it is not {shown(answer[revision])}",
                "rules.differences(): what do ASSIGN_FAILED, BACKEND_TAKES and BACKEND_GIVES do to the property and to "
                "the switch, and does the one bring back what the other took?",
            )
    return right(
        "under merged one switch serves two rules: the backend that goes turns on what a failed start turned off"
    )


EXERCISES = (
    Exercise("07.rule-for", "a function of a cause and a revision: which rule acts, as a text? None: none", rule_for),
    Exercise("07.whose-rules", "under which revision did this machine run? Its name", whose_rules),
    Exercise("07.predict", "who owns the notifier of queue 0 in the end? A dict with an owner by revision", predict),
)
