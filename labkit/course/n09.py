"""09, a backend takes over: how much in each stay, the other queues meanwhile, a kick in the window, two consumers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import labkit
from labkit import rules
from labkit.course.exercise import Exercise
from labkit.course.verdict import Verdict, not_yet, right, shown
from labkit.trace.events import Event

STAYS = 2
INDEX_AFTER_LAST = 1 << 16  # ring indices are 16 bits wide
QUEUES, LENT = 3, 1  # of the-others: how many there are, which one a backend takes
WAYS = ("trapped", "signalled")
SPECIMEN = "two-consumers"


def _per_stay(trace: Any) -> list[int]:
    """How far a backend has come from each hand-over to the end of that stay."""
    found, begin = [], None
    for event in trace.events("backend"):
        if event["has_it"]:
            begin = int(event["last_avail"])
        elif begin is not None:
            found.append((int(event["last_avail"]) - begin) % INDEX_AFTER_LAST)
            begin = None
    return found


def stays(answer: object, trace: Any) -> Verdict:
    """Requests in each of the backend's stays."""
    truth = _per_stay(trace)
    if len(truth) < STAYS:
        return not_yet(f"these events have {len(truth)} stays that have ended", "vm.hand_over() ... vm.take_back()")
    if not isinstance(answer, list) or len(answer) != len(truth) or any(type(one) is not int for one in answer):
        return not_yet(f"{shown(answer)} has not the form", f"a list of {len(truth)} whole numbers, a number a stay")
    if answer != truth:
        which = next(at for at, (said, is_so) in enumerate(zip(answer, truth, strict=True), 1) if said != is_so)
        return not_yet(
            f"not {shown(answer[which - 1])} in stay {which}",
            "`last_avail` is a place in the ring, and the ring was in use before. Where did the stay begin, where end?",
        )
    return right(f"{answer}: a backend begins where the device stands, and the device goes on where it has stopped")


def _meanwhile(revision: str) -> str:
    """Which way a kick of another queue comes while a backend has one."""
    with labkit.boot("null", queues=QUEUES, ioeventfd=True, revision=revision) as vm:
        vm.hand_over([LENT])
        vm.guest.kick(queue=0)
        return WAYS[0] if vm.proxy.queues[0].notifier.trapped else WAYS[1]


def the_others(answer: object) -> Verdict:
    """By revision, the way of a kick of a queue that no backend has."""
    names = rules.names()
    if not isinstance(answer, dict) or answer.keys() != set(names):
        return not_yet(f"{shown(answer)} has not the form", f"a dict of a way for each of {', '.join(names)}")
    for revision in names:
        if answer[revision] not in WAYS:
            return not_yet(f"{revision}: {shown(answer[revision])} is no way", f"one of {', '.join(WAYS)}")
    for revision in names:
        if answer[revision] != _meanwhile(revision):
            return not_yet(
                f"not {answer[revision]} under {revision}",
                "R9 says STOP. Of one queue, or of the device? Try it, and look at `trapped` of queue 0",
            )
    return right("START and STOP are the device's, so a backend that takes one queue costs the others their eventfds")


# -- window-back -------------------------------------------------------------------------------------------------------


def _given_back(events: list[Event]) -> tuple[int, int] | None:
    """From the deassign to the change of owner, as positions; None: the queue was not given back."""
    end = next((event.seq for event in events if event.name == "owner" and event["before"] == "backend"), None)
    if end is None:
        return None
    return max((event.seq for event in events if event.name == "deassign" and event.seq < end), default=end), end


def window_back(function: Any) -> Verdict:
    """A function that kicks after the backend's eventfd was deassigned, and before the notifier has its next owner."""
    if not callable(function):
        return not_yet(f"{shown(function)} is no function", "def window_back(vm): ...")
    with labkit.boot("blk", irq="poll") as vm:
        vm.hand_over()
        vm.guest.read(sector=0)
        mark = vm.trace.mark()
        function(vm)
        held = list(vm.gates)
        events = vm.trace.events(since=mark)
    window = _given_back(events)
    if held:
        return not_yet(f"in the end {held[0]}", "vm.release() lets everybody go, vm.guest.parked() waits for the guest")
    if window is None:
        return not_yet("the backend has the queue still", "vm.take_back(), and let the main thread go on in the end")
    kicks = [event.seq for event in events if event.name == "step" and event["command"] in ("KICK", "PORT_OUT")]
    if not any(window[0] < seq < window[1] for seq in kicks):
        when = "no kick was made" if not kicks else "the kick was made before it, or after"
        return not_yet(
            f"{when}: the window is between `deassign` and the change of owner",
            "hold the main thread behind one of its events; the section above did so on the way there",
        )
    served = [event.actor for event in events if event.name == "request"]
    if len(served) != 1:
        return not_yet(f"{len(served)} requests were served", "one: is it in the ring when the kick comes?")
    return right(f"{served[0]}: the kick trapped, and nobody had an eventfd when it was heard")


# -- served-twice ------------------------------------------------------------------------------------------------------


def _good() -> Iterator[tuple[Sequence[Event], bool, str]]:
    """Machines on which nothing is wrong, and much looks like it."""
    with labkit.boot("blk", revision="today") as vm:
        for sector in range(3):
            vm.guest.read(sector)
        vm.hand_over()
        vm.guest.read(sector=0)
        vm.guest.add()
        vm.guest.publish()
        vm.guest.port_out(vm.proxy.queues[0].notifier.port, 1, 0)  # looked at twice: as it traps, and by the backend
        vm.guest.wait()
        vm.take_back()
        vm.guest.read(sector=1)
        yield vm.trace.events(), False, "on which a backend came and went, and all was well"
    with labkit.boot("blk") as vm:
        vm.guest.kick(times=3)
        yield vm.trace.events(), False, "on which the guest has kicked, and asked for nothing"


def _bad() -> Iterator[tuple[Sequence[Event], bool, str]]:
    """The museum's, in the order that breaks it."""
    result = labkit.museum.run(SPECIMEN, search=False)
    yield result.forced.events, True, "on which two served one request"


def served_twice(function: Any) -> Verdict:
    """A function of events that says whether a request was served more than once."""
    if not callable(function):
        return not_yet(f"{shown(function)} is no function", "def served_twice(events): ...")
    for machines in (_good, _bad):
        for events, truth, what in machines():
            said = function(events)
            if type(said) is not bool:
                return not_yet(f"it returned {shown(said)}", "True or False")
            if said is not truth:
                return not_yet(
                    f"{said} for a machine {what}",
                    "how many `request` events can there be, at most, if avail.idx has come to 5?",
                )
    return right("more answers than questions: that is what a second consumer looks like")


EXERCISES = (
    Exercise("09.stays", "how many requests in each stay of the backend? A list of numbers", stays),
    Exercise("09.the-others", "which way come kicks of queues that no backend has? A dict by revision", the_others),
    Exercise(
        "09.window-back", "a function that kicks while a queue is between two owners, on its way back", window_back
    ),
    Exercise("09.served-twice", "a function of events that says whether a request was served twice", served_twice),
)
