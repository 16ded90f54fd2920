"""05, who owns the notifier: who drained a kick, three rules that take it away, a start by halves, kicks counted."""

from __future__ import annotations

from typing import Any

import labkit
from labkit.course.exercise import Exercise
from labkit.course.verdict import Verdict, not_yet, right, shown

QUEUES, UNDONE = 4, 3  # of half-done: how many there are, how many its roll-back undoes
RULES = 3  # of there-and-back: by how many the notifier is lost


def who_drained(answer: object, trace: Any) -> Verdict:
    """The thread that found a kick when the notifier stopped, and the rule of that stop."""
    drains = [event for event in trace.events("drain") if event["kicks"]]
    if not drains:
        return not_yet("in these events no STOP found a kick", "hold the iothread, kick, and stop the notifier")
    stops = [trace.events("owner", since=drain.seq)[0] for drain in drains]
    truth = {"thread": {drain.actor for drain in drains}, "rule": {stop["rule"] for stop in stops}}
    if not isinstance(answer, dict) or answer.keys() != truth.keys():
        return not_yet(f"{shown(answer)} has not the form", 'a dict of two texts, {"thread": ..., "rule": ...}')
    if not isinstance(answer["thread"], str) or answer["thread"] not in truth["thread"]:
        return not_yet(
            f"{shown(answer['thread'])} found no kick there",
            'the line of `drain` begins with the thread. Who wrote the register, and what is "synthetic" in others?',
        )
    if not isinstance(answer["rule"], str) or answer["rule"] not in truth["rule"]:
        return not_yet(
            f"not by {shown(answer['rule'])}",
            "R5 says what every STOP does. Which rule wanted one? The change of owner after the drain bears it",
        )
    return right(f"{answer['thread']}, by {answer['rule']}: whoever stops a notifier does the work that is left")


def there_and_back(function: Any) -> Verdict:
    """A function that makes the VMM lose its notifier by three rules, and have it in the end."""
    if not callable(function):
        return not_yet(f"{shown(function)} is no function", "def there_and_back(vm): ...")
    with labkit.boot("blk") as vm:
        mark = vm.trace.mark()
        function(vm)
        changes, owner = vm.trace.events("owner", since=mark), vm.proxy.queues[0].notifier.owner
    lost = [str(event["rule"]) for event in changes if event["before"] == "vmm"]
    causes = {str(event["cause"]) for event in changes if event["before"] == "vmm"}
    if not lost:
        return not_yet("the VMM has not lost the notifier", 'see "Everything that changes the owner" above')
    if len(set(lost)) < RULES:
        alike = "; two causes may be of one rule" if len(causes) > len(set(lost)) else ""
        return not_yet(
            f"it was lost by {len(set(lost))} of {RULES} rules: {', '.join(lost)}{alike}",
            "can it be lost once more before somebody has it again? What gives it back to the VMM?",
        )
    if owner != "vmm":
        return not_yet(f"lost by {', '.join(lost)}; in the end its owner is {shown(owner)}", "what is START wanted by?")
    return right(f"lost by {', '.join(lost)}, and the VMM has it again")


def half_done(function: Any) -> Verdict:
    """A function that lets the first START fail after three queues, and the VMM own all of them in the end."""
    if not callable(function):
        return not_yet(f"{shown(function)} is no function", "def half_done(vm): ...")
    with labkit.boot("null", queues=QUEUES, ioeventfd=True, bring_up=False, revision="0.14") as vm:
        function(vm)
        undone = [event["queues_undone"] for event in vm.trace.events("roll_back")]
        owners = [queue.notifier.owner for queue in vm.proxy.queues]
    if not undone:
        return not_yet("no START has failed", "plan the fault before the driver comes up; which call shall fail?")
    if len(undone) > 1:
        return not_yet(f"{len(undone)} STARTs have failed", "how often does a planned fault come? See its `times`")
    if undone[0] != UNDONE:
        return not_yet(f"the roll-back had {undone[0]} queues to undo", "they are assigned in order, from queue 0")
    if set(owners) != {"vmm"}:
        return not_yet(
            f"the owners are {', '.join(owners)}", "by the rules of 0.14 the next START tries again: make one"
        )
    return right(f"{UNDONE} queues were undone, and the next START had all {QUEUES}")


# -- kicks-made: two machines, and how many kicks were made on each ----------------------------------------------------


def _drained() -> tuple[list[Any], int]:
    """Six by eventfd, of which two are found by a pause, and three that trap."""
    with labkit.boot("blk", irq="poll") as vm:
        vm.guest.read(sector=0)
        vm.guest.kick(times=3)
        while vm.proxy.queues[0].notifier.pending:
            pass  # until the iothread has taken them
        vm.hold("iothread", at="before-handler")
        vm.guest.kick(times=2)
        vm.gates.wait("iothread")
        vm.guest.clear_driver_ok()
        vm.release()
        vm.guest.kick(times=3)
        return vm.trace.events(), 9


def _forwarded() -> tuple[list[Any], int]:
    """One by eventfd, and two of the wrong length, which are forwarded."""
    with labkit.boot("blk", irq="poll", revision="today") as vm:
        vm.guest.read(sector=0)
        for length in (1, 4):
            vm.guest.port_out(vm.proxy.queues[0].notifier.port, length, 0)
        return vm.trace.events(), 3


KICKED = (
    (
        _drained,
        "some kicks trapped, some came by the eventfd, and a STOP found some",
        "three kinds of event tell of kicks. Which of them have a field `kicks`, and whose are the `synthetic` ones?",
    ),
    (
        _forwarded,
        "kicks that trapped were forwarded",
        "such a kick is told of twice: as it traps, and when it is taken from the eventfd",
    ),
)


def kicks_made(function: Any) -> Verdict:
    """A function of events that counts the guest's kicks."""
    if not callable(function):
        return not_yet(f"{shown(function)} is no function", "def kicks_made(events): ...")
    for machine, what, hint in KICKED:
        events, truth = machine()
        said = function(events)
        if type(said) is not int or said != truth:
            return not_yet(f"{shown(said)} on a machine on which {what}", hint)
    return right("each kick once, whichever way it came, and none that nobody made")


EXERCISES = (
    Exercise("05.who-drained", "which thread found the kick, by which rule? A dict of two texts", who_drained),
    Exercise("05.there-and-back", "a function by which the VMM loses the notifier by three rules", there_and_back),
    Exercise("05.half-done", "a function that lets a START fail after three queues, and the next one not", half_done),
    Exercise("05.kicks-made", "a function of events that counts the kicks of the guest", kicks_made),
)
