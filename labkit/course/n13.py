"""13, debug your own guest: one that ends as asked, a thread held where asked, where a crash was, and a recording."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import labkit
from labkit.course.exercise import Exercise
from labkit.course.n00 import count_kicks
from labkit.course.verdict import Verdict, not_yet, right, shown
from labkit.machine import Machine

WAIT_S = 10.0
EXIT_CODE, SECTORS = 43, 4096  # what the guest shall end with, and the disk that it is tried on
SECTOR_BYTES = 512


def says_capacity(elf: Any) -> Verdict:
    """A guest that prints how large its disk is, and ends with the code that is asked for."""
    if not isinstance(elf, str | Path):
        return not_yet(f"{shown(elf)} is no path", "the ELF that build.py has made: a path")
    with TemporaryDirectory() as folder:
        disk = Path(folder) / "disk.img"
        disk.touch()
        with disk.open("r+b") as file:
            file.truncate(SECTORS * SECTOR_BYTES)
        with labkit.boot("blk", kernel=elf, disk=disk) as vm:
            code = vm.wait(WAIT_S)
            said = vm.console
    if code is None:
        return not_yet(f"it has not ended within {WAIT_S:g} s", "finish() ends the machine")
    if str(SECTORS) not in said.replace("=", " ").split():
        return not_yet(f"on a disk of another size it says {shown(said)}", "ask the device how many sectors it has")
    if code != EXIT_CODE:
        return not_yet(f"vm.exit_code is {code}, not {EXIT_CODE}", "it is (v << 1) | 1: which v does finish() need?")
    return right(f"it says {said.strip()!r} of a disk that it had not seen before, and ends with {EXIT_CODE}")


def break_at(function: Any, elf: Any) -> Verdict:
    """A function that leaves the iothread held right before it runs the queue for a kick, with work in the ring."""
    if not callable(function) or not isinstance(elf, str | Path):
        return not_yet(f"{shown(function)} and {shown(elf)} are no function and no path", "a function of a machine")
    with labkit.boot("blk", kernel=elf) as vm:
        vm.wait(WAIT_S)
        function(vm)
        held = [one for one in vm.gates if one.actor == "iothread"]
        queue, state = vm.proxy.queues[0], vm.state
        waiting = None if queue.avail_idx is None else queue.avail_idx - (queue.used_idx or 0)
    if not held:
        return not_yet(f"nobody holds the iothread; the machine is {state}", "hold first, then reset: it starts again")
    if held[0].gate != "queue-notify":
        return not_yet(f"the iothread is behind {held[0].gate}", "which gate is the last before it walks the ring?")
    if not waiting:
        return not_yet(
            "it is there, and the ring is empty: that is the run that a start makes (R3)", "go on to the next"
        )
    return right(f"the iothread is about to walk the ring, with {waiting} request in it, and the guest waits")


def where_it_crashed(answer: object, vm: Any) -> Verdict:
    """The function in which a guest has crashed, and the register that was to blame."""
    if not isinstance(vm, Machine) or vm.crash is None:
        return not_yet("this machine has not crashed", "the last argument is the machine whose guest crashed")
    form = '{"function": ..., "register": ...}, two names'
    if not isinstance(answer, dict) or answer.keys() != {"function", "register"}:
        return not_yet(f"{shown(answer)} has not the form", form)
    listing = vm.disassemble()
    if answer["function"] != listing.function:
        return not_yet(f"it did not crash in {shown(answer['function'])}", "vm.disassemble() marks rip with =>")
    crashed = next(one for one in listing if one.address == listing.rip)
    register = _wide(crashed.text.split()[-1])
    if _wide(answer["register"]) != register or register not in vm.registers():
        return not_yet(
            f"{shown(answer['register'])} is not what it failed at", "which operand has the instruction at =>?"
        )
    return right(f"in {listing.function}, and that register was {vm.registers()[register]}")


def _wide(name: object) -> str:
    """The 64-bit register that a 32-bit one is half of."""
    text = name if isinstance(name, str) else ""
    return (
        f"r{text[1:]}" if text.startswith("e") else text.removesuffix("d") if text[:2] in ("r8", "r9", "r1") else text
    )


def from_a_file(function: Any) -> Verdict:
    """A function of a path that says of a recording how its kicks came."""
    if not callable(function):
        return not_yet(f"{shown(function)} is no function", "a function of a path")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "other.labkit"
        with labkit.boot("blk", irq="poll", bring_up=False) as vm:
            _kicks_both_ways(vm)
            truth = count_kicks(vm.trace.events())
            vm.trace.save(path)
        answer = function(path)
    if not isinstance(answer, dict) or answer.keys() != truth.keys():
        return not_yet(f"it returned {shown(answer)}", 'a dict of two numbers, {"trapped": ..., "signalled": ...}')
    for way in truth:
        if type(answer[way]) is not int or answer[way] != truth[way]:
            return not_yet(f"in that recording not {shown(answer[way])} {way}", "which field of an event counts kicks?")
    return right(f"{answer}, of a machine that is gone")


def _kicks_both_ways(vm: Machine) -> None:
    """Two that are taken by one look, so that looks are no kicks; one more; and two that trap."""
    vm.guest.negotiate()
    vm.hold("iothread", at="before-handler")
    vm.guest.set_driver_ok()
    vm.gates.wait("iothread")
    vm.guest.kick()
    vm.guest.kick()
    vm.release()
    vm.guest.read(sector=0)
    vm.guest.clear_driver_ok()
    for sector in range(2):
        vm.guest.read(sector=sector)


EXERCISES = (
    Exercise("13.says-capacity", "the ELF of a guest that says how many sectors its disk has", says_capacity),
    Exercise("13.break-at", "a function of a machine that holds the iothread before it walks the ring", break_at),
    Exercise("13.where-it-crashed", "in which function did the guest crash, and at which register?", where_it_crashed),
    Exercise("13.from-a-file", "a function of a recording's path that counts its kicks by way", from_a_file),
)
