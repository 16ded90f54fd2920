"""Notebook 13: which answers are right, and which only look like it? Guests are assembled here, or the lab's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from classroom import wrong
from kernels import GUESTS, assemble, run
from rulebook import Boot

import labkit
from labkit import course

CAPACITY, BREAK, CRASH, FILE = "13.says-capacity", "13.break-at", "13.where-it-crashed", "13.from-a-file"
SAYS = """
    .globl the_device
guest_main:
    movl $the_device, %edi
    xorl %esi, %esi
    xorl %edx, %edx
    jmp digits
digits:
    movl ${digits}, %esi
    movl ${length}, %ecx
    movl $PORT_CONSOLE, %edx
    rep outsb
    movb ${code}, %al
    jmp finish
    .data
{digits}: .ascii "{text}"
the_device: .skip 8
"""
DIVIDES = """
guest_main:
    movl $8, %eax
    xorl %edx, %edx
    xorl %ecx, %ecx
    jmp share
share:
    divl %ecx
    ret
"""
READS = """
#include "report.h"
#include "virtio_legacy.h"
#include "x86.h"
_Noreturn void guest_main(uint32_t vcpu, uint32_t vcpus, uint32_t info)
{
    (void)vcpu, (void)info;
    ring *q = &the_device.rings[0];
    if (virtio_negotiate(&the_device, IRQ_POLL, 0, 0, vcpus))
        finish(1);
    virtio_set_status(&the_device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK);
    ring_describe(q, 0, BLK_T_IN, SECTOR_BYTES);
    ring_add(q, 0, 0);
    ring_publish(q);
    virtio_kick(&the_device, 0);
    while (!ring_has_used(q))
        relax();
    finish(0);
}
"""


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest that reads a sector, as the notebook's does."""
    folder = tmp_path_factory.mktemp("reads")
    source = folder / "reads.c"
    source.write_text(READS)
    run(sys.executable, GUESTS / "build.py", "--out", folder, source)
    return folder / "reads.elf"


def says(where: Path, text: str, code: int) -> Path:
    """A guest that says that, whatever its disk is."""
    return assemble(where, SAYS.format(digits="said", length=len(text), text=text, code=code))


# -- says-capacity -----------------------------------------------------------------------------------------------------


def test_who_says_the_size_of_the_disk(cpu: str, tmp_path: Path) -> None:  # noqa: ARG001
    """4096 sectors, told anyhow, and the exit code."""
    assert course.check(CAPACITY, says(tmp_path, " sectors=4096 ", 21))


@pytest.mark.parametrize(("text", "code"), [("sectors=32768", 21), ("40960", 21), ("4096", 43), ("4096", 0), ("", 21)])
def test_who_does_not(cpu: str, tmp_path: Path, text: str, code: int) -> None:  # noqa: ARG001
    """Another disk's size, the number in another one, the code itself, success, nothing."""
    wrong(course.check(CAPACITY, says(tmp_path, text, code)), "finish(21)")


def test_what_is_no_guest(tmp_path: Path) -> None:
    """The source, or a file that is not there."""
    source = tmp_path / "tells.c"
    source.write_text("int main(void) { return 43; }")
    for path in (source, tmp_path / "tells.elf", str(tmp_path)):
        wrong(course.check(CAPACITY, path))


# -- break-at ----------------------------------------------------------------------------------------------------------


def stepped(gate: str) -> Callable[[labkit.Machine], object]:
    """The iothread, held with work in the ring, and stepped as far as that gate."""

    def hold(vm: labkit.Machine) -> None:
        vm.hold("iothread", at="before-handler")
        vm.reset()
        vm.gates.wait("iothread")
        while not vm.proxy.queues[0].avail_idx:
            pass
        while (held := vm.step("iothread")) and held.gate != gate:
            pass

    return hold


def too_early(vm: labkit.Machine) -> None:
    """Before the walk of the start, for which nothing is there: the driver is held, too."""
    vm.hold("iothread", at="before-run")
    vm.hold("vcpu0", at="owner")
    vm.reset()
    vm.gates.wait("iothread")


def not_started_again(vm: labkit.Machine) -> None:
    """Held, and its guest has ended."""
    vm.hold("iothread", at="before-run")


def another(vm: labkit.Machine) -> None:
    """The vCPU."""
    vm.hold("vcpu0", at="owner")
    vm.reset()
    vm.gates.wait("vcpu0")


def test_right_before_the_walk(cpu: str, reads: Path) -> None:  # noqa: ARG001
    """With a request in the ring."""
    assert course.check(BREAK, stepped("queue-notify"), reads)


@pytest.mark.parametrize("function", [stepped("kick-eventfd"), too_early, not_started_again, another])
def test_another_place(cpu: str, reads: Path, function: Callable[[labkit.Machine], object]) -> None:  # noqa: ARG001
    """A gate too early, an empty ring, no reset, another thread."""
    wrong(course.check(BREAK, function, reads), "queue-notify")


# -- where-it-crashed --------------------------------------------------------------------------------------------------


@pytest.fixture
def crashed(boot: Boot, tmp_path: Path) -> labkit.Machine:
    """A guest that has divided by 0 in share()."""
    vm = boot(kernel=assemble(tmp_path, DIVIDES))
    with pytest.raises(labkit.GuestError, match="triple fault"):
        vm.wait(10)
    return vm


@pytest.mark.parametrize("register", ["ecx", "rcx"])
def test_where_the_crash_was(crashed: labkit.Machine, register: str) -> None:
    """The function, and the divisor by either of its names."""
    assert course.check(CRASH, {"function": "share", "register": register}, crashed)


@pytest.mark.parametrize(
    "answer",
    [
        {"function": "guest_main", "register": "ecx"},
        {"function": "share", "register": "eax"},
        {"function": "share", "register": "rip"},
        {"function": "share", "register": 0},
        {"function": "share"},
        ("share", "ecx"),
    ],
)
def test_where_it_was_not(crashed: labkit.Machine, answer: object) -> None:
    """Who called it, the dividend, where it stood, a value, half of it, another form."""
    wrong(course.check(CRASH, answer, crashed), "rcx")


def test_no_crash_is_no_evidence(boot: Boot) -> None:
    """A machine that runs has nothing to blame."""
    wrong(course.check(CRASH, {"function": "guest_main", "register": "eax"}, boot()))


# -- from-a-file -------------------------------------------------------------------------------------------------------


def kicks(path: Path, *names: str, field: str = "kicks") -> dict[str, int]:
    """From these kinds of events."""
    trace = labkit.replay(path).trace
    signalled = sum(int(event[field]) for event in trace.events(*names))
    return {"trapped": len(trace.events("kick_trap")), "signalled": signalled}


def test_kicks_of_a_recording(cpu: str) -> None:  # noqa: ARG001
    """Counted from its events."""
    assert course.check(FILE, lambda path: kicks(path, "kick_eventfd", "drain"))


@pytest.mark.parametrize(
    "function",
    [
        lambda path: {"trapped": 2, "signalled": len(labkit.replay(path).trace.events("kick_eventfd"))},
        lambda path: kicks(path, "kick_eventfd", field="synthetic") | {"trapped": 1},
        lambda path: kicks(path, "kick_eventfd")["trapped"],
        lambda path: labkit.replay(path).trace.events("kick_trap"),
        lambda _: {"trapped": 4, "signalled": 4},
        str,
    ],
    ids=["wake-ups", "synthetic", "one", "events", "the-notebook's", "path"],
)
def test_not_those(cpu: str, function: Callable[[Any], object]) -> None:  # noqa: ARG001
    """Wake-ups, synthetic ones, one number, events, those of the machine in the notebook, the path."""
    wrong(course.check(FILE, function), "'signalled': 3}")
