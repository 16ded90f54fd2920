"""Do both CPU back ends tell the same story? The same steps on each, and every thread's events compared one by one.

Where a thread's events meet those of another is a matter of time, so each is compared by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import labkit
from labkit import GuestError, Machine
from labkit.abi import NUMBERS, BlkType, Fault, Register, Status
from labkit.trace.events import Kind

Play = Callable[[Machine], None]
OF_THE_HOST = {"fd", "rip"}  # numbers that the host gives out, or a matter of who executes
COUNTS = {Kind.STEP_DONE: {"result0"}}  # a wait answers what it happened to reap


def settled(vm: Machine) -> None:
    """Whoever has the notifier has heard of the start; a kick that comes now is heard by itself."""
    for queue in vm.proxy.queues:
        while queue.notifier.owner != "none" and (queue.notifier.pending or queue._vq.synthetic_due):
            os.sched_yield()


def up(vm: Machine) -> None:
    """The driver is up, and the synthetic kick is over."""
    vm.guest.negotiate(driver_ok=True)
    settled(vm)


def requests(vm: Machine) -> None:
    """Reads, writes, a flush, an id; one sector behind the end."""
    up(vm)
    vm.guest.read(0, 3)
    vm.guest.write(1, bytes(range(256)) * 4)
    vm.guest.flush()
    vm.guest.get_id()
    with pytest.raises(GuestError, match="IOERR"):
        vm.guest.read(1 << 40)


def step_by_step(vm: Machine) -> None:
    """Each driver step by itself, three requests for one kick."""
    up(vm)
    for sector in range(3):
        vm.guest.add(BlkType.IN, sector)
    vm.guest.publish()
    vm.guest.kick()
    vm.guest.wait(completions=3)
    vm.guest.kick()
    settled(vm)


def stops_and_starts(vm: Machine) -> None:
    """DRIVER_OK cleared and set, STATUS = 0, bus-master off, a ring taken away, pause and resume."""
    up(vm)
    vm.guest.clear_driver_ok()
    vm.guest.set_driver_ok()
    settled(vm)
    vm.pause()
    vm.resume()
    settled(vm)
    vm.guest.bus_master(False)
    vm.guest.bus_master(True)
    vm.guest.reset_device()
    up(vm)
    bar0 = vm.proxy.notify_base
    vm.guest.port_out(bar0 + Register.QUEUE_SEL, 2, 0)
    vm.guest.port_out(bar0 + Register.QUEUE_PFN, 4, 0)
    vm.reset()
    up(vm)


def wrong_accesses(vm: Machine) -> None:
    """Registers read and written with every width, at every offset; kicks of queues that are not there."""
    up(vm)
    bar0 = vm.proxy.notify_base
    for width in (1, 2, 4):
        for offset in range(24):
            if offset not in (Register.QUEUE_NOTIFY, Register.ISR):
                vm.guest.port_in(bar0 + offset, width)
    for queue in (1, 7, 64, 0xFFFF):
        vm.guest.port_out(bar0 + Register.QUEUE_NOTIFY, 2, queue)
    vm.guest.port_out(bar0 + Register.STATUS, 1, int(Status.FAILED))


def owners(vm: Machine) -> None:
    """A backend takes the queue and gives it back; an assign fails; the device is pulled out and put back."""
    up(vm)
    vm.hand_over()
    settled(vm)
    vm.guest.read(0)
    vm.take_back()
    settled(vm)
    vm.guest.clear_driver_ok()
    vm.fault.fail_assign(queue=0)
    vm.guest.set_driver_ok()
    vm.guest.read(0)
    vm.unplug()
    vm.plug()
    up(vm)


def memory_of_the_pc(vm: Machine) -> None:
    """The vector table and the PCI config space, by every width."""
    up(vm)
    for at in range(0, 32, 4):
        vm.guest.load(NUMBERS["GPA_MSIX_BAR"] + at, 4)
    for offset in range(0, 64, 2):
        vm.guest.pci_read(offset, 2)
    vm.guest.store(NUMBERS["GPA_MSIX_BAR"] + 12, 4, 1)


def breaks(vm: Machine) -> None:
    """The guest breaks its ring, then crashes; the reset mends both."""
    up(vm)
    vm.guest.add()
    vm.memory.write(vm.proxy.device.vq[0].avail + 2, (1000).to_bytes(2, "little"))
    vm.guest.port_out(vm.proxy.notify_base + Register.QUEUE_NOTIFY, 4, 0)
    with pytest.raises(GuestError, match="triple fault"):
        vm.guest.fault(Fault.TRIPLE)
    vm.reset()
    up(vm)
    vm.guest.read(0)


PLAYS = (requests, step_by_step, stops_and_starts, wrong_accesses, owners, memory_of_the_pc, breaks)


def story(cpu: str, play: Play, **options: Any) -> dict[str, list[tuple[object, ...]]]:
    """Thread → its events, without times."""
    with labkit.boot("blk", cpu=cpu, bring_up=False, **options) as vm:
        assert vm.cpu == cpu
        play(vm)
        events = vm.trace.events()
    told: dict[str, list[tuple[object, ...]]] = {}
    for event in events:
        left_out = OF_THE_HOST | COUNTS.get(event.kind, set())
        values = [(name, event[name]) for name in event.values if name not in left_out]
        told.setdefault(event.actor, []).append((event.name, event.queue, *values))
    return told


def both(play: Play, **options: Any) -> Iterable[dict[str, list[tuple[object, ...]]]]:
    """The story on each back end."""
    return story("kvm", play, **options), story("emulated", play, **options)


@pytest.mark.kvm
@pytest.mark.emulated
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("play", PLAYS)
@pytest.mark.parametrize("revision", labkit.rules.names())
@pytest.mark.parametrize("ioeventfd", [True, False])
def test_both_back_ends_tell_the_same_story(play: Play, revision: str, ioeventfd: bool) -> None:
    """Event by event and value by value, in each thread, by every revision, with the notifiers and without."""
    on_kvm, emulated = both(play, irq="poll", revision=revision, ioeventfd=ioeventfd)
    assert on_kvm == emulated


@pytest.mark.kvm
@pytest.mark.emulated
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("irq", ["msix", "intx"])
def test_interrupts_are_part_of_it(irq: str) -> None:
    """With interrupts, by message and by line, where the completion comes in the kick itself."""
    on_kvm, emulated = both(requests, irq=irq, ioeventfd=False)
    assert on_kvm == emulated
