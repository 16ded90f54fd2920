"""Rules R1 to R5: the property, START and STOP, and what happens when START fails. Each on a real guest."""

from __future__ import annotations

import errno
import os
import resource

import pytest
from rulebook import NEGOTIATED, THEN, Boot, iothread_held, names, notify_port, owners, revisions, runs

from labkit import Machine
from labkit.abi import BlkStatus, PciCommand, Status
from labkit.trace.events import Cause
from labkit.virtio.notifier import Flag, Situation


def three_queues(boot: Boot, revision: str) -> Machine:
    """A machine with a device of three queues, running, its driver at ACKNOWLEDGE|DRIVER."""
    vm = boot("null", queues=3, ioeventfd=True, irq="poll", bring_up=False, revision=revision)
    vm.guest.negotiate()
    return vm


def held_kick(vm: Machine) -> int:
    """STOP while one kick is pending and the iothread cannot get at it; the position in the trace before."""
    mark = vm.trace.mark()
    with iothread_held(vm):
        vm.guest.kick()
        assert vm.proxy.queues[0].notifier.pending == 1
        vm.proxy.notifiers.happens(Situation(Cause.PAUSE))
    return mark


# -- R1 ---------------------------------------------------------------------------------------------------------------


@revisions()
@pytest.mark.parametrize(("device", "default"), [("blk", True), ("null", False)])
def test_r1_the_property_is_the_devices_own(boot: Boot, revision: str, device: str, default: bool) -> None:
    """R1: blk has ioeventfd on by default, other devices have not; whoever creates the device can say otherwise."""
    assert (Flag.USE_IOEVENTFD in boot(device, revision=revision).proxy.flags) is default
    other = boot(device, revision=revision, ioeventfd=not default)
    assert (Flag.USE_IOEVENTFD in other.proxy.flags) is not default


@revisions()
def test_r1_without_the_property_every_kick_traps(boot: Boot, revision: str) -> None:
    """R1: with ioeventfd off DRIVER_OK starts nothing, and a read comes by the trap path."""
    vm = boot("blk", ioeventfd=False, revision=revision)
    vm.guest.read(0)
    notifier = vm.proxy.queues[0].notifier
    assert (notifier.owner, notifier.trapped, notifier.signalled, notifier.synthetic) == ("none", 1, 0, 0)


# -- R2 ---------------------------------------------------------------------------------------------------------------

ORDER_OF_START = {
    "v6": "assign attach owner status",
    "merged": "status assign attach owner",
    "0.14": "status assign attach owner",
    "today": "status assign signal attach owner",
}


@revisions()
def test_r2_driver_ok_starts_and_is_stored_in_the_revisions_order(boot: Boot, revision: str) -> None:
    """R2: v6 starts the notifiers and then stores the status; all later ones store first."""
    vm = boot("blk", bring_up=False, revision=revision)
    vm.guest.negotiate()
    mark = vm.trace.mark()
    vm.guest.set_driver_ok()
    kinds = ("assign", "signal", "attach", "owner", "status")
    assert names(vm.trace.events(*kinds, since=mark)) == ORDER_OF_START[revision].split()
    assert owners(vm, mark) == [("none", "vmm", "R2", "DRIVER_OK")]


@revisions()
def test_r2_stop_comes_before_the_status_is_stored(boot: Boot, revision: str) -> None:
    """R2: STATUS without DRIVER_OK stops the notifiers and then stores the status."""
    vm = boot("blk", revision=revision)
    vm.guest.read(0)
    mark = vm.trace.mark()
    assert vm.guest.clear_driver_ok() == NEGOTIATED
    kinds = ["detach", "deassign", "close_fd", "owner", "status"]
    assert names(vm.trace.events(*kinds, since=mark)) == kinds
    assert owners(vm, mark) == [("vmm", "none", "R2", "DRIVER_NOT_OK")]


@revisions()
def test_r2_a_status_of_zero_resets_the_virtio_device(boot: Boot, revision: str) -> None:
    """R2: STATUS = 0 stops, stores, and then the device forgets its rings; COMMAND is left alone."""
    vm = boot("blk", revision=revision)
    assert vm.guest.reset_device() == 0
    assert owners(vm)[-1] == ("vmm", "none", "R2", "STATUS_ZERO")
    assert vm.proxy.queues[0].pfn == 0
    assert vm.proxy.command & PciCommand.MASTER


@revisions("today")
def test_r2_a_driver_that_forgot_bus_master_is_helped(boot: Boot, revision: str) -> None:
    """R2: a status of exactly ACKNOWLEDGE|DRIVER turns bus-master on; no other status does."""
    vm = boot("blk", revision=revision)
    vm.guest.bus_master(False)
    for status in (Status.ACKNOWLEDGE, NEGOTIATED | Status.FAILED, NEGOTIATED | Status.DRIVER_OK):
        vm.guest.set_status(status)
        assert not vm.proxy.command & PciCommand.MASTER
    vm.guest.set_status(NEGOTIATED)
    assert vm.proxy.command & PciCommand.MASTER


@revisions(*THEN)
def test_r2_bus_master_is_the_drivers_own_business(boot: Boot, revision: str) -> None:
    """R2: before today's rules no status turns bus-master on."""
    vm = boot("blk", bring_up=False, revision=revision)
    vm.guest.negotiate()
    vm.guest.bus_master(False)
    vm.guest.set_status(NEGOTIATED)
    assert not vm.proxy.command & PciCommand.MASTER


# -- R3 ---------------------------------------------------------------------------------------------------------------


@revisions()
def test_r3_the_eventfd_is_assigned_at_bar0_plus_16(boot: Boot, revision: str) -> None:
    """R3: PIO, BAR0 + 16, value = queue index."""
    vm = boot("blk", revision=revision)
    (assigned,) = vm.trace.events("assign")
    assert (assigned["port"], assigned["value"]) == (hex(vm.proxy.notify_base + 16), 0)
    assert vm.proxy.queues[0].notifier.port == notify_port(vm)


@revisions()
def test_r3_a_queue_without_a_ring_is_covered_too(boot: Boot, revision: str) -> None:
    """R3: every queue with a size gets its notifier, whether or not the guest gave it a ring."""
    vm = boot("null", queues=3, ioeventfd=True, irq="poll", bring_up=False, revision=revision)
    vm.guest.negotiate(queues=1)
    vm.guest.set_driver_ok()
    assert [queue.pfn != 0 for queue in vm.proxy.queues] == [True, False, False]
    assert [queue.notifier.owner for queue in vm.proxy.queues] == ["vmm", "vmm", "vmm"]


@revisions(*THEN)
def test_r3_each_queue_is_assigned_and_watched_before_the_next(boot: Boot, revision: str) -> None:
    """R3: assign, attach, queue by queue."""
    vm = three_queues(boot, revision)
    vm.guest.set_driver_ok()
    parts = [(e.queue, e.name) for e in vm.trace.events("assign", "attach", "signal")]
    assert parts == [(queue, name) for queue in range(3) for name in ("assign", "attach")]


@revisions("today")
def test_r3_all_are_assigned_then_signalled_then_watched(boot: Boot, revision: str) -> None:
    """R3: today the steps go over all queues, one after the other."""
    vm = three_queues(boot, revision)
    vm.guest.set_driver_ok()
    parts = [(e.name, e.queue) for e in vm.trace.events("assign", "attach", "signal")]
    assert parts == [(name, queue) for name in ("assign", "signal", "attach") for queue in range(3)]


@revisions()
def test_r3_one_synthetic_kick_a_start_picks_up_what_was_there(boot: Boot, revision: str) -> None:
    """R3: the eventfd starts at 1, so a request put in the ring before DRIVER_OK is served without a kick."""
    vm = boot("blk", bring_up=False, revision=revision)
    vm.guest.negotiate()
    vm.guest.add(sector=0)
    vm.guest.publish()
    vm.guest.set_driver_ok()
    done = vm.guest.wait()
    notifier = vm.proxy.queues[0].notifier
    assert (done.status, done.used_len) == (BlkStatus.OK, 513)
    assert (notifier.synthetic, notifier.signalled, notifier.trapped) == (1, 0, 0)


# -- R4 ---------------------------------------------------------------------------------------------------------------


@revisions()
@pytest.mark.parametrize("failing", range(3))
def test_r4_a_failed_assign_is_rolled_back_in_reverse(boot: Boot, revision: str, failing: int) -> None:
    """R4: the assign of queue k fails: those before are undone in reverse, fds are back at the baseline, and every
    tuple is free.
    """
    vm = three_queues(boot, revision)
    files, cpu, port = len(os.listdir("/proc/self/fd")), vm._board.cpu, notify_port(vm)
    vm.fault.fail_assign(queue=failing, error="ENOSPC")
    vm.guest.set_driver_ok()
    assert [e.queue for e in vm.trace.events("deassign")] == list(reversed(range(failing)))
    assert vm.trace.events("roll_back")[0]["errno"] == errno.ENOSPC
    assert not vm.proxy.ioeventfd_started
    assert [queue.notifier.owner for queue in vm.proxy.queues] == ["none"] * 3
    assert len(os.listdir("/proc/self/fd")) == files
    fd = os.eventfd(0)
    for value in range(3):
        cpu.assign(port, 2, value, fd)
        cpu.deassign(port, 2, value, fd)
    os.close(fd)


STARTS_AGAIN = {"v6": False, "merged": False, "0.14": True, "today": True}


@revisions()
def test_r4_after_a_failure_the_next_start_goes_by_the_revision(boot: Boot, revision: str) -> None:
    """R4: v6 and merged stay off; 0.14 and today try again at the next START."""
    vm = three_queues(boot, revision)
    vm.fault.fail_assign(queue=1)
    vm.guest.set_driver_ok()
    vm.guest.clear_driver_ok()
    vm.guest.set_driver_ok()
    assert vm.proxy.ioeventfd_started is STARTS_AGAIN[revision]
    assert (Flag.USE_IOEVENTFD in vm.proxy.flags) is (revision != "v6"), "only v6 loses the property"


@revisions("v6")
def test_r4_a_reset_does_not_bring_it_back(boot: Boot, revision: str) -> None:
    """R4: off for life, also after a reset of the machine."""
    vm = boot("blk", bring_up=False, revision=revision)
    vm.fault.fail_assign()
    vm.guest.negotiate(driver_ok=True)
    vm.reset()
    vm.guest.read(0)
    assert (vm.proxy.flags, vm.proxy.ioeventfd_started) == (Flag(0), False)


@revisions()
def test_r4_the_guest_notices_nothing(boot: Boot, revision: str) -> None:
    """R4: somebody else has the tuple, so START fails: requests complete by the trap path."""
    vm = boot("blk", bring_up=False, revision=revision)
    vm.guest.negotiate()
    other = os.eventfd(0)
    vm._board.cpu.assign(notify_port(vm), 2, 0, other)
    vm.guest.set_driver_ok()
    vm._board.cpu.deassign(notify_port(vm), 2, 0, other)
    os.close(other)
    assert vm.proxy.notifiers.errors[0].errno == errno.EEXIST
    assert len(vm.guest.read(0)) == 512


@revisions()
def test_r4_a_failure_that_comes_back_is_kept_once(boot: Boot, revision: str) -> None:
    """R4: one line in the errors however often START fails."""
    vm = three_queues(boot, revision)
    vm.fault.fail_assign(times=None)
    for _ in range(3):
        vm.guest.set_driver_ok()
        vm.guest.clear_driver_ok()
    assert [error.name for error in vm.proxy.notifiers.errors] == ["ENOSPC"]


@revisions()
def test_r4_no_eventfd_to_be_had(boot: Boot, revision: str) -> None:
    """R4: creating the eventfd of queue 1 fails: the same roll-back."""
    vm = three_queues(boot, revision)
    vm.fault.fail_eventfd(queue=1)
    vm.guest.set_driver_ok()
    assert [e.queue for e in vm.trace.events("deassign")] == [0]
    assert [(error.call, error.name) for error in vm.proxy.notifiers.errors] == [("eventfd", "EMFILE")]


@revisions()
def test_r4_no_file_left_for_the_eventfd(boot: Boot, revision: str) -> None:
    """R4: the process is out of files (a real limit): the same roll-back, and the same fd count."""
    vm = three_queues(boot, revision)
    before, lowest_free = resource.getrlimit(resource.RLIMIT_NOFILE), os.dup(0)
    os.close(lowest_free)
    room = 1 if vm.cpu == "kvm" else 2  # for one eventfd, and what the back end keeps of it
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + room, before[1]))
    try:
        vm.guest.set_driver_ok()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [event.queue for event in vm.trace.events("deassign")] == [0]
    assert vm.trace.events("roll_back")[0]["errno"] == errno.EMFILE
    assert not vm.proxy.ioeventfd_started


# -- R5 ---------------------------------------------------------------------------------------------------------------


@revisions()
def test_r5_a_pending_kick_is_served_by_the_thread_that_stops(boot: Boot, revision: str) -> None:
    """R5: the race of the patch. The iothread is held, the guest kicks, STOP runs: the request completes here."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    vm.guest.add()
    vm.guest.publish()
    mark = held_kick(vm)
    assert vm.guest.wait().status == BlkStatus.OK
    notifier = vm.proxy.queues[0].notifier
    assert (notifier.drained, notifier.owner) == (1, "none")
    assert runs(vm, mark) == [("host", "drain")]


@revisions()
def test_r5_the_steps_of_a_stop(boot: Boot, revision: str) -> None:
    """R5: handler off, deassign, test-and-clear, run, close: in this order."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    mark = held_kick(vm)
    kinds = ("detach", "deassign", "drain", "queue_notify", "close_fd", "owner")
    assert names(vm.trace.events(*kinds, since=mark)) == list(kinds)


@revisions(*THEN)
def test_r5_each_queue_is_stopped_before_the_next(boot: Boot, revision: str) -> None:
    """R5: detach, deassign, close, queue by queue."""
    vm = three_queues(boot, revision)
    vm.guest.set_driver_ok()
    vm.guest.clear_driver_ok()
    parts = [(e.queue, e.name) for e in vm.trace.events("detach", "deassign", "close_fd")]
    assert parts == [(queue, name) for queue in range(3) for name in ("detach", "deassign", "close_fd")]


@revisions("today")
def test_r5_all_are_detached_then_deassigned_then_drained(boot: Boot, revision: str) -> None:
    """R5: today in one batch: nobody is drained before the last is deassigned."""
    vm = three_queues(boot, revision)
    vm.guest.set_driver_ok()
    vm.guest.clear_driver_ok()
    parts = [(e.name, e.queue) for e in vm.trace.events("detach", "deassign", "close_fd")]
    assert parts == [(name, queue) for name in ("detach", "deassign", "close_fd") for queue in range(3)]


@revisions()
def test_r5_nothing_pending_runs_nothing(boot: Boot, revision: str) -> None:
    """R5: without a pending kick STOP runs no queue."""
    vm = boot("blk", revision=revision)
    vm.guest.read(0)
    mark = vm.trace.mark()
    vm.guest.clear_driver_ok()
    assert vm.trace.events("queue_notify", "drain", since=mark) == []
