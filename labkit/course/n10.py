"""10, when not to: who sleeps with a slow device, when a ratio tells anything, and what this machine can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labkit.course.exercise import Exercise
from labkit.course.verdict import Verdict, not_yet, right, shown

YES, NO, CANNOT = "yes", "no", "cannot be told here"
ANSWERS = (YES, NO, CANNOT)
RUNS_AT_LEAST = 3
WAYS = ("trap", "eventfd")
CLAIMS = ("first look by trap", "first look by eventfd", "quick console waits longer", "TCP is harmed")

# Ratios, the CPU, and what they tell: all above 1, all below, on both sides, of an emulator, too few.
TRIALS: tuple[tuple[Sequence[float], str, str], ...] = (
    ((1.5, 2.0, 3.25), "kvm", YES),
    ((1.01, 40.0, 1.2, 1.1), "kvm", YES),
    ((0.5, 0.75, 0.25), "kvm", NO),
    ((0.9, 1.5, 2.0, 4.0), "kvm", CANNOT),
    ((0.1, 0.2, 1.01), "kvm", CANNOT),
    ((1.5, 2.0, 3.25), "emulated", CANNOT),
    ((0.5, 0.75, 0.25), "emulated", CANNOT),
    ((5.0, 6.0), "kvm", CANNOT),
    ((), "kvm", CANNOT),
)


def who_sleeps(answer: object, trap: Any, eventfd: Any) -> Verdict:
    """The threads that ran a device's own code, by way of the kick."""
    events = {"trap": trap.events("chain"), "eventfd": eventfd.events("chain")}
    if not all(events.values()):
        return not_yet("in these events a device served nothing", "an exchange on each machine, first by trap")
    threads = {way: {event.actor for event in events[way]} for way in WAYS}
    if not isinstance(answer, dict) or answer.keys() != threads.keys():
        return not_yet(f"{shown(answer)} has not the form", 'a dict of two names, {"trap": ..., "eventfd": ...}')
    for way in WAYS:
        if not isinstance(answer[way], str) or answer[way] not in threads[way]:
            return not_yet(
                f"by {way} it is not {shown(answer[way])} that sleeps",
                "`handle` sleeps, and pushes when it wakes up: that is the event `chain`. Which thread is it of?",
            )
    return right("by trap the CPU of the vCPU is free meanwhile; by eventfd the vCPU works, for nothing")


def told(function: Any) -> Verdict:
    """A function that says what ratios of times tell, if they tell anything."""
    for ratios, cpu, truth in TRIALS:
        said = function(list(ratios), cpu)
        if not isinstance(said, str) or said not in ANSWERS:
            return not_yet(f"{shown(said)} is no answer", f"one of {', '.join(map(repr, ANSWERS))}")
        if said != truth:
            return not_yet(
                f"of the ratios {list(ratios)} on {cpu} it says {said!r}",
                f"on {cpu}, are times any evidence? Are there {RUNS_AT_LEAST} runs at least, and do all of them agree?",
            )
    return right("one measurement is an anecdote, and one that says the opposite is an answer as well")


def _truth(trap: Mapping[str, Any], slow: Mapping[str, Any], ratios: Sequence[float]) -> dict[str, str]:
    """Of the claims, as far as the measurements go."""
    always = {True: YES, False: NO}
    on_hardware = "emulated" not in str(trap["cpu_note"])
    agree = {ratio > 1 for ratio in ratios} if on_hardware and len(ratios) >= RUNS_AT_LEAST else set()
    return {
        CLAIMS[0]: always[trap["at_once"] == trap["chars"]],
        CLAIMS[1]: always[slow["at_once"] == slow["chars"]],
        CLAIMS[2]: always[agree.pop()] if len(agree) == 1 else CANNOT,
        CLAIMS[3]: CANNOT,  # nothing in the lab speaks TCP
    }


HINTS = dict(
    zip(
        CLAIMS,
        (
            "compare two numbers of the run by trap: at_once, chars",
            "the same two numbers of the slow device, by eventfd",
            "what does your function say of the ratios on this CPU?",
            "which cell has measured it?",
        ),
        strict=True,
    )
)


def claims(answer: object, trap: Any, slow: Any, ratios: Any) -> Verdict:
    """What this machine shows of four claims; `trap`, `slow` and `ratios` are what was measured."""
    truth = _truth(trap, slow, [float(ratio) for ratio in ratios])
    if not isinstance(answer, dict) or answer.keys() != truth.keys():
        return not_yet(f"{shown(answer)} has not the form", f"a dict with an answer to each of {', '.join(CLAIMS)}")
    for claim in CLAIMS:
        if not isinstance(answer[claim], str) or answer[claim] not in ANSWERS:
            return not_yet(f"{claim}: {shown(answer[claim])}", f"one of {', '.join(map(repr, ANSWERS))}")
        if answer[claim] != truth[claim]:
            return not_yet(f"{claim}: {answer[claim]!r} does not follow from what was measured", HINTS[claim])
    return right("what was counted is certain, what was timed depends, and what was not measured is not known")


EXERCISES = (
    Exercise("10.who-sleeps", "which thread sleeps in `handle`, by way of the kick? A dict of two names", who_sleeps),
    Exercise("10.told", "a function of ratios and a CPU: do they all say more than 1?", told),
    Exercise("10.claims", "which of four claims does this machine show? A dict with an answer for each", claims),
)
