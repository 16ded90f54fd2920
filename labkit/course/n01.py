"""01, one kick: which thread ran the queue, a kick that traps all the same, and one kick for three requests."""

from __future__ import annotations

from typing import Any

import labkit
from labkit.course.exercise import Exercise
from labkit.course.n00 import count_kicks
from labkit.course.verdict import Verdict, not_yet, right, shown
from labkit.trace.events import Event

TRIED_BYTES = 1  # the kick that the notebook itself has trapped
AT_ONCE = 3  # requests for one kick


def who_ran(answer: object, trace: Any) -> Verdict:
    """The threads that ran the queue, after a kick by eventfd and after one that trapped."""
    ways = ("eventfd", "trap")
    by = {"eventfd": "iothread", "trap": "trap"}  # as queue_notify says why the queue is run
    runs = trace.events("queue_notify")
    threads = {way: {event.actor for event in runs if event["by"] == by[way]} for way in ways}
    if not all(threads.values()):
        return not_yet("in these events kicks came one way at most", "make a kick of two bytes, and one of one byte")
    if not isinstance(answer, dict) or answer.keys() != threads.keys():
        return not_yet(f"{shown(answer)} has not the form", 'a dict of two names, {"eventfd": ..., "trap": ...}')
    for way in ways:
        if not isinstance(answer[way], str) or answer[way] not in threads[way]:
            return not_yet(
                f"after a kick by {way} the queue was not run by {shown(answer[way])}",
                'the line of queue_notify in the log begins with the thread; "by" says what made it run the queue',
            )
    return right("by eventfd the guest goes on while another thread works; by trap its own vCPU does the work")


def tried(function: Any) -> tuple[list[Event], list[Event]]:
    """What a function does with a machine: kicks and requests, and changes of the notifier's owner.

    Kicks are told when the machine is closed: then none is left in the eventfd that nobody has looked at.
    """
    with labkit.boot("blk") as vm:
        mark = vm.trace.mark()
        function(vm)
        changes = vm.trace.events("owner", since=mark)
    return vm.trace.events("kick_trap", "kick_eventfd", "drain", "request", since=mark), changes


def trap_one(function: Any) -> Verdict:
    """A function that makes a kick of a new length trap, and be served, while the VMM owns the notifier."""
    events, changes = tried(function)
    kicks = count_kicks(events)
    if changes:
        return not_yet(
            "the notifier changed hands", "leave STATUS and the machine alone: what exactly does KVM compare?"
        )
    if kicks["signalled"]:
        return not_yet(
            "a kick came by the eventfd",
            "vm.guest.kick() and read() write what KVM waits for; vm.guest.port_out writes what you say",
        )
    if not kicks["trapped"]:
        return not_yet("no kick came", "which port is written, how many bytes, and what value?")
    if any(event.name == "kick_trap" and event["width_bytes"] == TRIED_BYTES for event in events):
        return not_yet(f"that was {TRIED_BYTES} byte once more", "port_out can write some other lengths")
    if not any(event.name == "request" for event in events):
        return not_yet("a kick trapped, and no request was served", "add and publish one before the kick")
    return right("KVM matches address, length and value; whatever differs leaves the guest, and is served all the same")


def three_at_once(function: Any) -> Verdict:
    """A function that has three requests served for one kick."""
    events, _ = tried(function)
    kicks = sum(count_kicks(events).values())
    served = sum(event.name == "request" and event["status"] == "OK" for event in events)
    if not kicks:
        return not_yet("the device was not told", "after the ring is filled somebody must kick")
    if kicks > 1:
        return not_yet(f"{kicks} kicks", "who says that each add needs a kick? Fill the ring first")
    if served != AT_ONCE:
        return not_yet(f"{served} requests were served", "what can the device see of an add that was not published?")
    return right(f"one kick, {served} requests: the device looks at the ring until it is empty")


EXERCISES = (
    Exercise("01.who-ran", "which thread ran the queue, by way of the kick? A dict of two names", who_ran),
    Exercise("01.trap-one", "a function that makes one kick trap though the VMM owns the notifier", trap_one),
    Exercise("01.three-at-once", "a function that has three requests served for one kick", three_at_once),
)
