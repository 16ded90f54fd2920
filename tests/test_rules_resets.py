"""Rules R6 to R8, R13 and R16: resets, bus-master, and a BAR that moves. Each on a real guest."""

from __future__ import annotations

import errno

import pytest
from rulebook import NEGOTIATED, THEN, UP, Boot, iothread_held, names, notify_port, owners, revisions

from labkit import Machine
from labkit.abi import NUMBERS, BlkStatus, PciCommand, Register
from labkit.virtio.notifier import Flag

BAR0, COMMAND = NUMBERS["PCI_BAR0"], NUMBERS["PCI_COMMAND"]
ELSEWHERE = 0xD000
NO_IO = PciCommand.MEMORY | PciCommand.MASTER
ALL_ON = NO_IO | PciCommand.IO


def without_bus_master(boot: Boot, revision: str) -> Machine:
    """A driver that set DRIVER_OK while bus-master was clear."""
    vm = boot("blk", bring_up=False, irq="poll", revision=revision)
    vm.guest.negotiate()
    vm.guest.bus_master(False)
    vm.guest.set_driver_ok()
    return vm


# -- R6, R7 -----------------------------------------------------------------------------------------------------------


@revisions()
def test_r6_a_zero_pfn_resets_the_device(boot: Boot, revision: str) -> None:
    """R6: QUEUE_PFN = 0, on a queue that does not even exist: STOP, then the whole device is reset."""
    vm = boot("blk", revision=revision)
    vm.guest.port_out(vm.proxy.notify_base + Register.QUEUE_SEL, 2, 5)
    mark = vm.trace.mark()
    vm.guest.port_out(vm.proxy.notify_base + Register.QUEUE_PFN, 4, 0)
    assert owners(vm)[-1] == ("vmm", "none", "R6", "PFN_ZERO")
    assert (vm.proxy.status, vm.proxy.queues[0].pfn, vm.proxy.queues[0].vector) == (0, 0, 0xFFFF)
    kinds = ["deassign", "owner", "status", "device_reset"]
    assert names(vm.trace.events(*kinds, since=mark)) == kinds


@revisions()
def test_r7_reset_stops_and_keeps_the_property(boot: Boot, revision: str) -> None:
    """R7: STOP, virtio reset, MSI-X reset; ioeventfd survives, and the next driver starts it."""
    vm = boot("blk", revision=revision)
    vm.reset()
    assert owners(vm)[-1] == ("vmm", "none", "R7", "DEVICE_RESET")
    assert (vm.proxy.flags, vm.proxy.status, vm.proxy.msix.enabled) == (Flag.USE_IOEVENTFD, 0, False)
    vm.guest.read(0)
    assert vm.proxy.queues[0].notifier.owner == "vmm"


@revisions(*THEN)
def test_r7_reset_forgets_the_bug(boot: Boot, revision: str) -> None:
    """R7: BUS_MASTER_BUG is cleared, and nothing else of the flags."""
    vm = without_bus_master(boot, revision)
    assert vm.proxy.flags == Flag.BUS_MASTER_BUG | Flag.USE_IOEVENTFD
    vm.reset()
    assert vm.proxy.flags == Flag.USE_IOEVENTFD


# -- R8, R13 ----------------------------------------------------------------------------------------------------------


@revisions()
def test_r8_bus_master_off_stops_and_drops_driver_ok(boot: Boot, revision: str) -> None:
    """R8: STOP, and DRIVER_OK is dropped. Setting bus-master again restarts nothing."""
    vm = boot("blk", revision=revision)
    mark = vm.trace.mark()
    assert not vm.guest.bus_master(False) & PciCommand.MASTER
    assert owners(vm, mark) == [("vmm", "none", "R8", "BUS_MASTER_OFF")]
    assert vm.proxy.status == NEGOTIATED
    vm.guest.bus_master(True)
    assert (vm.proxy.status, vm.proxy.ioeventfd_started) == (NEGOTIATED, False)


@revisions(*THEN)
def test_r8_with_the_bug_nothing_but_the_config_write(boot: Boot, revision: str) -> None:
    """R8, R13: a driver that set DRIVER_OK without bus-master is left alone when COMMAND is written again."""
    vm = without_bus_master(boot, revision)
    vm.guest.bus_master(False)
    assert (vm.proxy.status, vm.proxy.queues[0].notifier.owner) == (UP, "vmm")


@revisions(*THEN)
def test_r8_a_pending_kick_is_served_before_the_config_write(boot: Boot, revision: str) -> None:
    """R8: STOP comes first, so the kick it drains still finds a device that works."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    vm.guest.add()
    vm.guest.publish()
    with iothread_held(vm):
        vm.guest.kick()
        vm.proxy.write_config(COMMAND, 2, PciCommand.IO | PciCommand.MEMORY)
    assert vm.guest.wait().status == BlkStatus.OK


@revisions("today")
def test_r8_without_bus_master_the_rings_are_left_alone(boot: Boot, revision: str) -> None:
    """R8: the config write comes first, so a pending kick finds a device that may not touch memory; the request is
    completed by the next kick after bus-master is back.
    """
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    queue = vm.proxy.queues[0]
    vm.guest.add()
    vm.guest.publish()
    with iothread_held(vm):
        vm.guest.kick()
        vm.proxy.write_config(COMMAND, 2, PciCommand.IO | PciCommand.MEMORY)
    assert (queue.used_idx, vm.trace.events("kick_ignored")[-1]["why"]) == (1, "disabled")
    vm.guest.bus_master(True)
    assert queue.used_idx == 1, "setting it starts nothing"
    vm.guest.kick()
    assert vm.guest.wait().status == BlkStatus.OK


@revisions("today")
def test_r8_driver_ok_without_bus_master_starts_but_serves_nothing(boot: Boot, revision: str) -> None:
    """R8: assigned all the same; requests hang until bus-master is set and the next kick comes."""
    vm = without_bus_master(boot, revision)
    assert vm.proxy.queues[0].notifier.owner == "vmm"
    vm.guest.add()
    vm.guest.publish()
    vm.guest.kick()
    with pytest.raises(Exception, match="did not answer in time"):
        vm.guest.wait(timeout_s=0.05)
    vm.guest.bus_master(True)
    vm.guest.kick()
    assert vm.guest.wait().status == BlkStatus.OK


@revisions()
def test_r8_bus_master_is_off_until_a_driver_sets_it(boot: Boot, revision: str) -> None:
    """R8: at power-on, and after a reset, bus-master is off; only today's rules keep the device from its rings then."""
    vm = boot("blk", bring_up=False, revision=revision)
    for _ in range(2):
        assert not vm.proxy.command & PciCommand.MASTER
        assert bool(vm.proxy.device.disabled) is (revision == "today")
        vm.guest.read(0)
        assert not vm.proxy.device.disabled
        vm.reset()


@revisions(*THEN)
def test_r13_driver_ok_without_bus_master_is_noted(boot: Boot, revision: str) -> None:
    """R13: and START happens all the same."""
    vm = without_bus_master(boot, revision)
    assert Flag.BUS_MASTER_BUG in vm.proxy.flags
    assert vm.proxy.ioeventfd_started


@revisions("today")
def test_r13_the_flag_is_gone(boot: Boot, revision: str) -> None:
    """R13: today nothing is noted."""
    vm = without_bus_master(boot, revision)
    assert Flag.BUS_MASTER_BUG not in vm.proxy.flags


# -- R16 --------------------------------------------------------------------------------------------------------------


@revisions(*THEN)
def test_r16_a_moved_bar_leaves_a_stale_registration(boot: Boot, revision: str) -> None:
    """R16: the old port still signals, kicks at the new one trap, and STOP gets ENOENT."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    old, notifier = notify_port(vm), vm.proxy.queues[0].notifier
    vm.guest.pci_write(BAR0, 4, ELSEWHERE)
    vm.guest.port_out(ELSEWHERE + Register.QUEUE_NOTIFY, 2, 0)
    assert notifier.trapped == 1
    with iothread_held(vm):
        vm.guest.port_out(old, 2, 0)
        assert notifier.pending == 1
    vm.guest.port_out(ELSEWHERE + Register.STATUS, 1, NEGOTIATED)
    assert vm.trace.events("deassign")[-1]["errno"] == errno.ENOENT


@revisions("today")
def test_r16_the_registration_moves_with_the_bar(boot: Boot, revision: str) -> None:
    """R16: deassigned at the old port, assigned at the new one; the eventfd and its owner stay."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    old, notifier = notify_port(vm), vm.proxy.queues[0].notifier
    fd, mark = notifier.fd, vm.trace.mark()
    vm.guest.pci_write(BAR0, 4, ELSEWHERE)
    moved = [(e.name, e["port"], e["errno"]) for e in vm.trace.events("assign", "deassign", since=mark)]
    assert moved == [("deassign", hex(old), 0), ("assign", hex(ELSEWHERE + Register.QUEUE_NOTIFY), 0)]
    assert (notifier.fd, notifier.owner, owners(vm, mark)) == (fd, "vmm", [])
    vm.guest.port_out(old, 2, 0)  # nobody is there
    with iothread_held(vm):
        vm.guest.port_out(ELSEWHERE + Register.QUEUE_NOTIFY, 2, 0)
        assert notifier.pending == 1


@revisions("today")
def test_r16_no_decoding_no_registration(boot: Boot, revision: str) -> None:
    """R16: I/O decode off deassigns, and kicks are lost; on assigns again, and a pending request needs a new kick."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    notifier = vm.proxy.queues[0].notifier
    vm.guest.add()
    vm.guest.publish()
    vm.guest.pci_write(COMMAND, 2, NO_IO)
    assert (notifier.port, vm.guest.port_in(vm.proxy.notify_base + Register.STATUS, 1)) == (None, 0xFF)
    vm.guest.kick()
    vm.guest.pci_write(COMMAND, 2, ALL_ON)
    assert (notifier.port, notifier.pending, vm.proxy.queues[0].used_idx) == (notify_port(vm), 0, 1)
    vm.guest.kick()
    assert vm.guest.wait().status == BlkStatus.OK


@revisions("today")
def test_r16_a_start_without_decoding_is_assigned_later(boot: Boot, revision: str) -> None:
    """R16: the machine resumes while I/O decode is off: started, but in KVM only when the BAR is decoded again."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    vm.guest.pci_write(COMMAND, 2, NO_IO)
    mark = vm.trace.mark()
    vm.pause()
    vm.resume()
    assert vm.proxy.ioeventfd_started
    assert vm.trace.events("assign", "deassign", since=mark) == []
    vm.guest.pci_write(COMMAND, 2, ALL_ON)
    assert len(vm.trace.events("assign", since=mark)) == 1
    vm.guest.read(0)


@revisions("today")
def test_r16_a_place_that_is_taken_falls_back_to_traps(boot: Boot, revision: str) -> None:
    """R16: KVM refuses the new port: the notifiers stop, and the guest goes on by traps."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    vm.fault.fail_assign(error="EEXIST")
    vm.guest.pci_write(BAR0, 4, ELSEWHERE)
    assert owners(vm)[-1] == ("vmm", "none", "R16", "BAR0_MOVED")
    assert [error.name for error in vm.proxy.notifiers.errors] == ["EEXIST"]
    vm.guest.add()
    vm.guest.publish()
    vm.guest.port_out(ELSEWHERE + Register.QUEUE_NOTIFY, 2, 0)
    assert vm.guest.wait().status == BlkStatus.OK
