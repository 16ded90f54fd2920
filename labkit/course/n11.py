"""11, write your own device: a second queue, one run for many chains, and a slip that is mended."""

from __future__ import annotations

from typing import Any

import labkit
from labkit.course.exercise import Exercise
from labkit.course.verdict import Verdict, not_yet, right, shown

COUNTS = {"calls": "queue_notify", "chains": "chain", "interrupts": "interrupt"}


def _no_device(answer: object) -> Verdict | None:
    if isinstance(answer, type) and issubclass(answer, labkit.Device) and answer is not labkit.Device:
        return None
    return not_yet(
        f"{shown(answer)} is no class of a device", "the class itself: class ...(labkit.Device), not an object"
    )


def counting_upper(answer: Any) -> Verdict:
    """A class: queue 0 shouts, queue 1 tells how many chains were shouted since the driver came up."""
    if (no_device := _no_device(answer)) is not None:
        return no_device
    for ioeventfd in (False, True):
        with labkit.boot(answer(), ioeventfd=ioeventfd) as vm:
            wrong = _counts_wrong(vm)
        if wrong is not None:
            return wrong
    return right("two queues, a state, and a reset: by trap and by eventfd")


def _counts_wrong(vm: labkit.Machine) -> Verdict | None:
    if len(vm.proxy.queues) != 2:
        return not_yet(f"it has {len(vm.proxy.queues)} queues", "queue_sizes has a number for each")
    if vm.guest.exchange(b"abc", receive=3, queue=0) != b"ABC":
        return not_yet("queue 0 does not shout", "as Upper does it")
    if (wrong := _tells(vm, 1, "after one")) is not None:
        return wrong
    for _ in range(3):
        vm.guest.add_buffers(0, 3, 3)
    vm.guest.publish()
    vm.guest.kick()
    vm.guest.wait(completions=3)
    if (wrong := _tells(vm, 4, "after three more for one kick")) is not None:
        return wrong
    vm.guest.reset_device()
    return _tells(vm, 0, "after a reset")


def _tells(vm: labkit.Machine, count: int, when: str) -> Verdict | None:
    said = vm.guest.exchange(receive=8, queue=1)
    if said == b"%d" % count:
        return None
    return not_yet(
        f"{when} queue 1 tells {said!r}",
        "count chains of queue 0, not calls of handle, and not those of queue 1; what must reset() do?",
    )


def how_often(answer: object, events: Any) -> Verdict:
    """Calls of handle, chains and interrupts, counted from the events of one kick."""
    truth = {what: sum(event.name == name for event in events) for what, name in COUNTS.items()}
    if truth["chains"] <= 1:
        return not_yet("in these events there is one chain at most", "add four, publish once, kick once, then look")
    if not isinstance(answer, dict) or answer.keys() != truth.keys():
        return not_yet(f"{shown(answer)} has not the form", f"a dict of numbers: {', '.join(truth)}")
    for what, name in COUNTS.items():
        if type(answer[what]) is not int or answer[what] != truth[what]:
            return not_yet(f"not {shown(answer[what])} {what}", f"count the events {name} since the mark")
    return right("one run takes all that is there, and one interrupt tells of all of it")


def mended(answer: Any) -> Verdict:
    """A class that divides 100, and says b"?" to what cannot be divided by."""
    if (no_device := _no_device(answer)) is not None:
        return no_device
    with labkit.boot(answer()) as vm:
        for asked, wanted in ((b"5", b"20"), (b"0", b"?"), (b"x", b"?"), (b"", b"?"), (b"-4", b"-25"), (b"7", b"14")):
            said = vm.guest.exchange(asked, receive=4)
            if said != wanted:
                return not_yet(
                    f"to {asked!r} it says {said!r}",
                    "which errors can int() and // raise, and what is pushed then? All else is as it was",
                )
    return right("a guest may send anything: its device answers, and goes on")


EXERCISES = (
    Exercise("11.how-often", "calls of handle, chains and interrupts for one kick: a dict of three numbers", how_often),
    Exercise("11.counting", "a class: queue 0 shouts, queue 1 tells how many chains were shouted", counting_upper),
    Exercise("11.mended", "a class that divides 100 by what it is sent, and says b'?' where it cannot", mended),
)
