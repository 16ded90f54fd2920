"""00, start here: who took the notifier, which way came how many kicks, and both ways on a machine of one's own."""

from __future__ import annotations

from typing import Any

import labkit
from labkit.course.exercise import Exercise
from labkit.course.verdict import Verdict, not_yet, right, shown
from labkit.trace.events import Event


def who_took_it(answer: object, trace: Any) -> Verdict:
    """The thread of the change of owner."""
    taken = [event for event in trace.events("owner") if event["after"] == "vmm"]
    if not taken:
        return not_yet("in these events nobody takes the notifier", "bring the driver up first, then look at vm.trace")
    if not isinstance(answer, str):
        return not_yet(f"{shown(answer)} is no name of a thread", "a text: the first word of a line of the log")
    if answer not in {event.actor for event in taken}:
        return not_yet(
            f"{shown(answer)} did not take it",
            'print vm.trace.events("owner"): each line begins with the thread. '
            "Who executes the write to STATUS that it was a consequence of?",
        )
    return right(f"{answer}. The guest's write to STATUS left the guest, and the rules act before it goes on.")


def count_kicks(events: list[Event]) -> dict[str, int]:
    """Kicks that the guest made, by the way they came; the eventfd's count at birth is nobody's."""
    by_eventfd = sum(int(event["kicks"]) for event in events if event.name in ("kick_eventfd", "drain"))
    return {"trapped": sum(event.name == "kick_trap" for event in events), "signalled": by_eventfd}


def two_ways(answer: object, trace: Any) -> Verdict:
    """Numbers of kicks, by way."""
    events = trace.events("kick_trap", "kick_eventfd", "drain")
    truth = count_kicks(events)
    if not all(truth.values()):
        return not_yet("in these events kicks came one way at most", "read a sector with DRIVER_OK, and one without")
    if not isinstance(answer, dict) or answer.keys() != truth.keys():
        return not_yet(f"{shown(answer)} has not the form", 'a dict of two numbers, {"trapped": ..., "signalled": ...}')
    for way, kind in (("trapped", "kick_trap"), ("signalled", "kick_eventfd")):
        if type(answer[way]) is not int or answer[way] != truth[way]:
            return not_yet(
                f"not {shown(answer[way])} {way}",
                f'look at each of vm.trace.events("{kind}"): is it a kick, and did the guest make it?',
            )
    return right(f"{answer}. A wake-up of the iothread is not yet a kick: the one at birth is synthetic.")


def both_ways(function: Any) -> Verdict:
    """A function that makes one read by eventfd and one by trap, on a machine whose driver waits."""
    with labkit.boot("blk", bring_up=False) as vm:
        function(vm)
    events = vm.trace.events("kick_trap", "kick_eventfd", "drain", "request")  # closed: no kick is left in an eventfd
    reads = sum(event.name == "request" and event["type"] == "IN" for event in events)
    kicks = count_kicks(events)
    if reads == 0:
        return not_yet("the device was asked to read nothing", "vm.guest.negotiate(), then vm.guest.read(sector=0)")
    for way, count in kicks.items():
        if count == 0:
            return not_yet(f"no kick was {way}", "what does DRIVER_OK change, and which step of the driver writes it?")
    if reads != 2 or sum(kicks.values()) != 2:
        return not_yet(f"{reads} reads and {sum(kicks.values())} kicks", "one read for each way are enough")
    if next(event for event in events if event.name == "kick_trap" or event.values.get("kicks")).name == "kick_trap":
        return not_yet("the first kick trapped", "the order is asked for: the eventfd first")
    return right("one kick by eventfd, one by trap, and both reads were served")


EXERCISES = (
    Exercise("00.who-took-it", "which thread took the notifier? Its name, as the log has it", who_took_it),
    Exercise("00.two-ways", "how many kicks of the guest came which way? A dict of two numbers", two_ways),
    Exercise("00.both-ways", "a function of a machine that makes one read by eventfd and one by trap", both_ways),
)
