"""02, the legacy registers: find BAR0, bring a device up by hand, what a read changes, which write stopped what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import labkit
from labkit.abi import NUMBERS, PORT_PCI_DATA, Register, Status
from labkit.course.exercise import Exercise
from labkit.course.verdict import Verdict, not_yet, right, shown
from labkit.trace.events import Event

BAR0, COMMAND = NUMBERS["PCI_BAR0"], NUMBERS["PCI_COMMAND"]
ELSEWHERE = 0xD040  # where the firmware has not put BAR0
PORTS, BY_HAND = ("PORT_IN", "PORT_OUT"), ("PORT_IN", "PORT_OUT", "PCI_READ", "PCI_WRITE")
GREETING = (Status.ACKNOWLEDGE, Status.DRIVER, Status.DRIVER_OK)
TOLD_APART = 2  # stops by so many rules, or there is nothing to tell apart
READABLE = tuple(one for one in Register if one < Register.MSI_CONFIG_VECTOR and one is not Register.QUEUE_NOTIFY)


def other_steps(events: Iterable[Event], allowed: tuple[str, ...]) -> list[str]:
    """Steps of the guest that were not asked for."""
    return sorted({str(event["command"]) for event in events if event.name == "step"} - set(allowed))


# -- find BAR0 ---------------------------------------------------------------------------------------------------------


def find_bar0(function: Any) -> Verdict:
    """A function that finds the first port of BAR0, on a machine that has it elsewhere."""
    with labkit.boot("blk", irq="poll", bring_up=False) as vm:
        vm.guest.pci_write(BAR0, 4, ELSEWHERE)
        mark, before = vm.trace.mark(), bytes(vm.proxy.config)
        found = function(vm)
        events, truth, untouched = vm.trace.events("step", since=mark), vm.proxy.notify_base, vm.proxy.config == before
    if others := other_steps(events, PORTS):
        return not_yet(f"the guest also did {', '.join(others)}", "port_out for the address, port_in for the data")
    if not any(event["command"] == "PORT_IN" and int(event["arg0"]) // 4 == PORT_PCI_DATA // 4 for event in events):
        return not_yet("nobody read config space", "the address goes to one port, and the data come from another")
    if not untouched:
        return not_yet("config space is not as it was", "looking is enough: write to the address port only")
    if type(found) is not int:
        return not_yet(f"{shown(found)} is no port", "return a number")
    if found != truth and found & ~3 == truth:
        return not_yet(f"{found:#x} is what the register holds", "are all of its bits part of the address?")
    if found != truth:
        return not_yet(f"nobody answers at {found:#x}", "which slot has the device, and which register is BAR0?")
    return right(f"{found:#x}: here the firmware's choice was changed, and you asked the device")


# -- bring up ----------------------------------------------------------------------------------------------------------


def bring_up(function: Any) -> Verdict:
    """A function that brings the device up by single accesses."""
    with labkit.boot("blk", irq="poll", bring_up=False) as vm:
        mark = vm.trace.mark()
        function(vm)
        events, queue = vm.trace.events("step", "register", since=mark), vm.proxy.queues[0]
        state = {
            "features": int(vm.proxy.device.guest_features),
            "ring": queue.avail_idx is not None,
            "master": vm.proxy.bus_master and "BUG" not in str(vm.proxy.flags.name),
            "owner": queue.notifier.owner,
        }
    if others := other_steps(events, BY_HAND):
        return not_yet(f"the guest also did {', '.join(others)}", "each step is a few accesses: make those")
    registers = [event for event in events if event.name == "register" and event["write"]]
    writes = [(str(event["register"]), int(str(event["value"]), 0)) for event in registers]
    for verdict in (_greeted(writes), _agreed(writes, state)):
        if verdict is not None:
            return verdict
    return right(f"{len(writes)} writes to BAR0, and the device is up")


def _greeted(writes: list[tuple[str, int]]) -> Verdict | None:
    """STATUS, bit by bit."""
    told = [value for name, value in writes if name == "STATUS"]
    first = [next((at for at, value in enumerate(told) if value & bit), None) for bit in GREETING]
    for bit, at in zip(GREETING, first, strict=True):
        if at is None:
            return not_yet(f"STATUS was never written with {bit.name}", "three bits, and they stay set to the end")
    if len(set(first)) < len(GREETING) or first != sorted(first, key=lambda at: at or 0):
        return not_yet("some bits of STATUS came at once, or in another order", "one bit more with each write")
    if told[-1] != sum(GREETING):
        return not_yet(f"the last write to STATUS was {told[-1]:#x}", "a write replaces the register: no bit is kept")
    return None


def _agreed(writes: list[tuple[str, int]], state: dict[str, Any]) -> Verdict | None:
    """Features, ring, bus-master; and all before DRIVER_OK."""
    names = [name for name, value in writes if name != "STATUS" or value & Status.DRIVER_OK]
    if not state["features"]:
        return not_yet("no features were agreed on", "read GUEST_FEATURES back. Is there one that nobody may accept?")
    if not state["ring"]:
        return not_yet("queue 0 has no ring in memory", "QUEUE_PFN is the number of a page, and 0 is none")
    if not state["master"]:
        return not_yet("the device may not read memory", "a bit of COMMAND in config space: the firmware left it off")
    for name in ("GUEST_FEATURES", "QUEUE_PFN"):
        if names.index(name) > names.index("STATUS"):
            return not_yet(f"{name} came after DRIVER_OK", "DRIVER_OK says that all the rest is done")
    if state["owner"] != "vmm":
        return not_yet(
            "the notifier is not the VMM's", "what did you write last, and what does that do? Look at R2 to R8"
        )
    return None


# -- read twice --------------------------------------------------------------------------------------------------------


def read_twice(function: Any) -> Verdict:
    """A function that finds the registers that a read changes: one with something to lose, and one without."""
    for reads in (1, 0):
        with labkit.boot("blk", irq="poll") as vm:
            for _ in range(reads):
                vm.guest.read(sector=0)
            mark = vm.trace.mark()
            found = function(vm, vm.proxy.notify_base)
            events = vm.trace.events("register", since=mark)
        if (verdict := _compared(found, events, pending=bool(reads))) is not None:
            return verdict
    return right("a look at that register is an answer to the interrupt: the second one finds it gone")


def _compared(found: object, events: list[Event], *, pending: bool) -> Verdict | None:
    seen = defaultdict(list)
    for event in events:
        if event["write"]:
            return not_yet(f"{event['register']} was written", "reading is enough")
        seen[str(event["register"])].append(event["value"])
    if missing := [one.name for one in READABLE if len(seen[one.name]) < 2]:
        return not_yet(f"not read twice: {', '.join(missing)}", "read each register twice, one after the other")
    changed = [int(one) for one in READABLE if len(set(seen[one.name])) > 1]
    machine = "a machine that has just read a sector" if pending else "a machine that has done nothing yet"
    if not isinstance(found, list) or any(type(one) not in (int, Register) for one in found):
        return not_yet(f"{shown(found)} is no list of offsets", "return the offsets whose second read was another")
    if found != changed:
        return not_yet(f"{shown(found)} is not what changed on {machine}", "compare the two reads of each register")
    return None


# -- which write -------------------------------------------------------------------------------------------------------


def stops(trace: Any) -> dict[str, set[tuple[str, str]]]:
    """Rule to the writes that made it act: the last one of the same thread before the notifier was stopped."""
    found = defaultdict(set)
    last: dict[str, tuple[str, str]] = {}
    for event in trace.events("register", "pci_write", "owner"):
        if event.name == "pci_write":
            at = str(event["offset"])
            last[event.actor] = ("COMMAND" if int(at, 0) == COMMAND else at, str(event["value"]))
        elif event.name == "register" and event["write"]:
            last[event.actor] = (str(event["register"]), str(event["value"]))
        elif event.name == "owner" and event["before"] == "vmm" and event.actor in last:
            found[str(event["rule"])].add(last[event.actor])
    return dict(found)


def which_write(answer: object, trace: Any) -> Verdict:
    """The write behind each stop, by its rule."""
    truth = stops(trace)
    if len(truth) < TOLD_APART:
        return not_yet("in these events the notifier was hardly ever stopped", "run the cells above first")
    if not isinstance(answer, dict) or any(type(rule) is not str for rule in answer):
        return not_yet(
            f"{shown(answer)} has not the form", "a dict of rule to (register, value), all as the log has them"
        )
    if answer.keys() != truth.keys():
        return not_yet(
            f"not by {', '.join(answer) or 'no rule'}", 'take event["rule"] of each "owner" whose "before" is "vmm"'
        )
    for rule, write in answer.items():
        if type(write) is not tuple or shown(write) not in map(shown, truth[rule]):
            return not_yet(
                f"{rule} did not act on {shown(write)}",
                "the write stands before the change in the log, in the same thread; its value is in it",
            )
    return right("whatever takes the ring away, or the right to read it, stops the notifier first")


EXERCISES = (
    Exercise("02.find-bar0", "a function of a machine that returns the first port of BAR0", find_bar0),
    Exercise("02.bring-up", "a function of a machine that brings its device up by single accesses", bring_up),
    Exercise("02.read-twice", "a function of a machine and a port that returns a list of offsets", read_twice),
    Exercise("02.which-write", "which write stopped the notifier? A dict of rule to register and value", which_write),
)
