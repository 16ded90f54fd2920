"""Rules R1 to R15 of labkit/virtio/notifier.py, revision v6, each on a real guest. A test is named by its rule."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from labkit import HostError, Machine
from labkit.abi import PAGE_BYTES, BlkStatus, PciCommand, Register, Status
from labkit.trace.events import Cause, Event, Owner
from labkit.virtio.notifier import Flag, Situation

Boot = Callable[..., Machine]
NEGOTIATED = Status.ACKNOWLEDGE | Status.DRIVER
UP = NEGOTIATED | Status.DRIVER_OK


def notify_port(vm: Machine) -> int:
    """The port of a kick."""
    return vm.proxy.notify_base + Register.QUEUE_NOTIFY


def names(events: list[Event]) -> list[str]:
    """Kinds of events, in order."""
    return [event.name for event in events]


def owners(vm: Machine, since: int = 0) -> list[tuple[object, object, object, object]]:
    """Every change of owner: before, after, rule, cause."""
    return [(e["before"], e["after"], e["rule"], e["cause"]) for e in vm.trace.events("owner", since=since)]


@contextmanager
def iothread_held(vm: Machine) -> Iterator[None]:
    """While this thread has the big lock the iothread cannot handle a kick; the guest's kicks need no lock."""
    with vm._board.locked():
        yield


@pytest.fixture
def three_queues(boot: Boot) -> Machine:
    """A machine with a device of three queues, running, the driver not up."""
    return boot("null", queues=3, ioeventfd=True, irq="poll", bring_up=False)


# -- R1, R2, R3 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "default"), [("blk", True), ("null", False)])
def test_r1_the_property_is_the_devices_own(boot: Boot, device: str, default: bool) -> None:
    """R1: blk has ioeventfd on by default, other devices have not; whoever creates the device can say otherwise."""
    assert (Flag.USE_IOEVENTFD in boot(device).proxy.flags) is default
    assert (Flag.USE_IOEVENTFD in boot(device, ioeventfd=not default).proxy.flags) is not default


def test_r1_without_the_property_every_kick_traps(boot: Boot) -> None:
    """R1: with ioeventfd off DRIVER_OK starts nothing, and a read comes by the trap path."""
    vm = boot("blk", ioeventfd=False)
    vm.guest.read(0)
    notifier = vm.proxy.queues[0].notifier
    assert (notifier.owner, notifier.trapped, notifier.signalled, notifier.synthetic) == ("none", 1, 0, 0)


def test_r2_start_comes_before_the_status_is_stored(boot: Boot) -> None:
    """R2: STATUS with DRIVER_OK starts the notifiers and then stores the status."""
    vm = boot("blk", bring_up=False)
    vm.guest.negotiate()
    mark = vm.trace.mark()
    vm.guest.set_driver_ok()
    assert names(vm.trace.events("assign", "attach", "owner", "status", since=mark)) == [
        "assign",
        "attach",
        "owner",
        "status",
    ]
    assert owners(vm, mark) == [("none", "vmm", "R2", "DRIVER_OK")]


def test_r2_stop_comes_before_the_status_is_stored(boot: Boot) -> None:
    """R2: STATUS without DRIVER_OK stops the notifiers and then stores the status."""
    vm = boot("blk")
    vm.guest.read(0)
    mark = vm.trace.mark()
    assert vm.guest.clear_driver_ok() == NEGOTIATED
    assert names(vm.trace.events("detach", "deassign", "close_fd", "owner", "status", since=mark)) == [
        "detach",
        "deassign",
        "close_fd",
        "owner",
        "status",
    ]
    assert owners(vm, mark) == [("vmm", "none", "R2", "DRIVER_NOT_OK")]


def test_r2_a_status_of_zero_resets_the_virtio_device(boot: Boot) -> None:
    """R2: STATUS = 0 stops, stores, and then the device forgets its rings; COMMAND is left alone."""
    vm = boot("blk")
    assert vm.guest.reset_device() == 0
    assert owners(vm)[-1] == ("vmm", "none", "R2", "STATUS_ZERO")
    assert vm.proxy.queues[0].pfn == 0
    assert vm.proxy.command & PciCommand.MASTER


def test_r3_the_eventfd_is_assigned_at_bar0_plus_16(boot: Boot) -> None:
    """R3: PIO, BAR0 + 16, value = queue index."""
    vm = boot("blk")
    (assigned,) = vm.trace.events("assign")
    assert (assigned["port"], assigned["value"]) == (hex(vm.proxy.notify_base + 16), 0)
    assert vm.proxy.queues[0].notifier.port == notify_port(vm)


def test_r3_a_queue_without_a_ring_is_covered_too(three_queues: Machine) -> None:
    """R3: every queue with a size gets its notifier, whether or not the guest gave it a ring."""
    vm = three_queues
    vm.guest.negotiate(queues=1)
    vm.guest.set_driver_ok()
    assert [queue.pfn != 0 for queue in vm.proxy.queues] == [True, False, False]
    assert [queue.notifier.owner for queue in vm.proxy.queues] == ["vmm", "vmm", "vmm"]


def test_r3_one_synthetic_kick_a_start_picks_up_what_was_there(boot: Boot) -> None:
    """R3: the eventfd starts at 1, so a request put in the ring before DRIVER_OK is served without a kick."""
    vm = boot("blk", bring_up=False)
    vm.guest.negotiate()
    vm.guest.add(sector=0)
    vm.guest.publish()
    vm.guest.set_driver_ok()
    done = vm.guest.wait()
    notifier = vm.proxy.queues[0].notifier
    assert (done.status, done.used_len) == (BlkStatus.OK, 513)
    assert (notifier.synthetic, notifier.signalled, notifier.trapped) == (1, 0, 0)


def test_start_is_idempotent(boot: Boot) -> None:
    """DRIVER_OK written twice assigns once."""
    vm = boot("blk")
    vm.guest.set_status(UP)
    assert len(vm.trace.events("assign")) == 1


def test_stop_is_idempotent(boot: Boot) -> None:
    """STATUS without DRIVER_OK written twice deassigns once."""
    vm = boot("blk")
    vm.guest.clear_driver_ok()
    vm.guest.set_status(NEGOTIATED)
    assert len(vm.trace.events("deassign")) == 1


# -- R4: roll-back ----------------------------------------------------------------------------------------------------


def test_r4_a_failed_assign_rolls_back_and_traps_for_life(three_queues: Machine) -> None:
    """R4: somebody else has the tuple of queue 2: queues 1 and 0 are undone in reverse, and the property is gone."""
    vm = three_queues
    vm.guest.negotiate()
    port, other = notify_port(vm), os.eventfd(0)
    files = len(os.listdir("/proc/self/fd"))
    vm._board.cpu.assign(port, 2, 2, other)
    vm.guest.set_driver_ok()
    assert [e.queue for e in vm.trace.events("deassign")] == [1, 0]
    assert vm.trace.events("roll_back")[0]["errno"] == errno.EEXIST
    assert (vm.proxy.ioeventfd_started, vm.proxy.flags) == (False, Flag(0))
    assert [queue.notifier.owner for queue in vm.proxy.queues] == ["none"] * 3
    assert len(os.listdir("/proc/self/fd")) == files
    vm._board.cpu.deassign(port, 2, 2, other)
    for value in range(3):
        vm._board.cpu.assign(port, 2, value, other)  # every tuple is free again
        vm._board.cpu.deassign(port, 2, value, other)
    os.close(other)
    vm.guest.clear_driver_ok()
    vm.guest.set_driver_ok()
    assert not vm.proxy.ioeventfd_started, "off for life"


def test_r4_the_guest_notices_nothing(boot: Boot) -> None:
    """R4: after a failed START requests complete by the trap path."""
    vm = boot("blk", bring_up=False)
    vm.guest.negotiate()
    other = os.eventfd(0)
    vm._board.cpu.assign(notify_port(vm), 2, 0, other)
    vm.guest.set_driver_ok()
    vm._board.cpu.deassign(notify_port(vm), 2, 0, other)
    os.close(other)
    assert len(vm.guest.read(0)) == 512
    assert vm.proxy.queues[0].notifier.trapped == 1


def test_r4_no_file_left_for_the_eventfd(three_queues: Machine) -> None:
    """R4: the process is out of files (a real limit): the same roll-back, and the same fd count."""
    vm = three_queues
    vm.guest.negotiate()
    before, lowest_free = resource.getrlimit(resource.RLIMIT_NOFILE), os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, before[1]))  # room for one eventfd
    try:
        vm.guest.set_driver_ok()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [event.queue for event in vm.trace.events("deassign")] == [0]
    assert vm.trace.events("roll_back")[0]["errno"] == errno.EMFILE
    assert not vm.proxy.ioeventfd_started


# -- R5: STOP drains --------------------------------------------------------------------------------------------------


def test_r5_a_pending_kick_is_served_by_the_thread_that_stops(boot: Boot) -> None:
    """R5: the race of the patch. The iothread is held, the guest kicks, STOP runs: the request completes here."""
    vm = boot("blk", irq="poll")
    vm.guest.read(0)
    vm.guest.add()
    vm.guest.publish()
    mark = vm.trace.mark()
    with iothread_held(vm):
        vm.guest.kick()
        assert vm.proxy.queues[0].notifier.pending == 1
        vm.proxy.notifiers.happens(Situation(Cause.PAUSE))
    assert vm.guest.wait().status == BlkStatus.OK
    notifier = vm.proxy.queues[0].notifier
    assert (notifier.drained, notifier.owner) == (1, "none")
    run = vm.trace.events("queue_notify", since=mark)
    assert [(e.actor, e["by"]) for e in run] == [("host", "drain")]


def test_r5_the_steps_of_a_stop(boot: Boot) -> None:
    """R5: handler off, deassign, test-and-clear, run, close: in this order."""
    vm = boot("blk", irq="poll")
    vm.guest.read(0)
    mark = vm.trace.mark()
    with iothread_held(vm):
        vm.guest.kick()
        vm.proxy.notifiers.happens(Situation(Cause.PAUSE))
    kinds = ("detach", "deassign", "drain", "queue_notify", "close_fd", "owner")
    assert names(vm.trace.events(*kinds, since=mark)) == list(kinds)


def test_r5_nothing_pending_runs_nothing(boot: Boot) -> None:
    """R5: without a pending kick STOP runs no queue."""
    vm = boot("blk")
    vm.guest.read(0)
    mark = vm.trace.mark()
    vm.guest.clear_driver_ok()
    assert vm.trace.events("queue_notify", "drain", since=mark) == []


# -- R6, R7, R8 -------------------------------------------------------------------------------------------------------


def test_r6_a_zero_pfn_resets_the_device(boot: Boot) -> None:
    """R6: QUEUE_PFN = 0, on a queue that does not even exist: STOP, then the whole device is reset."""
    vm = boot("blk")
    vm.guest.port_out(vm.proxy.notify_base + Register.QUEUE_SEL, 2, 5)
    vm.guest.port_out(vm.proxy.notify_base + Register.QUEUE_PFN, 4, 0)
    assert owners(vm)[-1] == ("vmm", "none", "R6", "PFN_ZERO")
    assert (vm.proxy.status, vm.proxy.queues[0].pfn, vm.proxy.queues[0].vector) == (0, 0, 0xFFFF)


def test_r7_reset_forgets_the_bug_and_keeps_the_property(boot: Boot) -> None:
    """R7: STOP, resets, BUS_MASTER_BUG forgotten; ioeventfd survives, and the next driver starts it."""
    vm = boot("blk", bring_up=False)
    vm.guest.negotiate()
    vm.guest.bus_master(False)
    vm.guest.set_driver_ok()
    assert vm.proxy.flags == Flag.BUS_MASTER_BUG | Flag.USE_IOEVENTFD
    vm.reset()
    assert owners(vm)[-1] == ("vmm", "none", "R7", "DEVICE_RESET")
    assert (vm.proxy.flags, vm.proxy.status, vm.proxy.msix.enabled) == (Flag.USE_IOEVENTFD, 0, False)
    vm.guest.read(0)
    assert vm.proxy.queues[0].notifier.owner == "vmm"


def test_r8_bus_master_off_stops_and_drops_driver_ok(boot: Boot) -> None:
    """R8: STOP, DRIVER_OK dropped, then the config write. Setting bus-master again restarts nothing."""
    vm = boot("blk")
    mark = vm.trace.mark()
    vm.guest.bus_master(False)
    assert owners(vm, mark) == [("vmm", "none", "R8", "BUS_MASTER_OFF")]
    assert vm.proxy.status == NEGOTIATED
    vm.guest.bus_master(True)
    assert (vm.proxy.status, vm.proxy.ioeventfd_started) == (NEGOTIATED, False)


def test_r8_with_the_bug_nothing_but_the_config_write(boot: Boot) -> None:
    """R8, R13: a driver that set DRIVER_OK without bus-master is left alone when COMMAND is written again."""
    vm = boot("blk", bring_up=False)
    vm.guest.negotiate()
    vm.guest.bus_master(False)
    vm.guest.set_driver_ok()
    vm.guest.bus_master(False)
    assert (vm.proxy.status, vm.proxy.queues[0].notifier.owner) == (UP, "vmm")


# -- R9: a backend takes the notifier ---------------------------------------------------------------------------------


def test_r9_a_backend_takes_a_started_notifier(boot: Boot) -> None:
    """R9: STOP, the property is cleared, the queue is assigned again, and the iothread does not watch it."""
    vm = boot("blk")
    vm.guest.read(0)
    notifier, mark = vm.proxy.queues[0].notifier, vm.trace.mark()
    with vm._board.locked():
        vm.proxy.notifiers.set_host_notifier(0, True)
    assert owners(vm, mark) == [("vmm", "none", "R9", "BACKEND_TAKES"), ("none", "backend", "R9", "BACKEND_TAKES")]
    assert Flag.USE_IOEVENTFD not in vm.proxy.flags
    vm.guest.kick(times=3)
    assert notifier.pending == 1 + 3, "born with 1, and nobody here reads it"
    with vm._board.locked():
        vm.proxy.notifiers.set_host_notifier(0, False)
    assert (notifier.owner, notifier.drained, vm.proxy.notifiers.owners[0]) == ("none", 3, Owner.NONE)


def test_r9_not_started_the_property_stays(boot: Boot) -> None:
    """R9: if nothing is started the flag stays, whatever the patch's commit message says."""
    vm = boot("blk", bring_up=False)
    with vm._board.locked():
        vm.proxy.notifiers.set_host_notifier(0, True)
        vm.proxy.notifiers.set_host_notifier(0, False)
    assert Flag.USE_IOEVENTFD in vm.proxy.flags


# -- R10, R11 ---------------------------------------------------------------------------------------------------------


def test_r10_pause_stops_and_resume_starts(boot: Boot) -> None:
    """R10: the notifier goes with the run state, and each START brings its synthetic kick."""
    vm = boot("blk")
    vm.guest.read(0)
    mark = vm.trace.mark()
    vm.pause()
    vm.pause()
    vm.resume()
    vm.resume()
    assert owners(vm, mark) == [("vmm", "none", "R10", "PAUSE"), ("none", "vmm", "R10", "RESUME")]
    assert vm.proxy.status == UP
    vm.guest.read(0)
    assert vm.proxy.queues[0].notifier.synthetic == 2


def test_r10_without_driver_ok_nothing_starts(boot: Boot) -> None:
    """R10: running again without DRIVER_OK starts nothing."""
    vm = boot("blk")
    vm.guest.clear_driver_ok()
    vm.pause()
    vm.resume()
    assert vm.proxy.queues[0].notifier.owner == "none"


def test_r10_a_reset_while_paused_touches_no_eventfd(boot: Boot) -> None:
    """R10: what is stopped already is not stopped again."""
    vm = boot("blk")
    vm.pause()
    mark = vm.trace.mark()
    vm.reset()
    assert vm.state == "paused"
    assert vm.trace.events("assign", "deassign", since=mark) == []


def test_r11_the_device_goes_after_a_stop(boot: Boot) -> None:
    """R11: closing stops the notifiers by its own rule, not as a pause."""
    vm = boot("blk")
    vm.close()
    assert owners(vm)[-1] == ("vmm", "none", "R11", "EXIT")


# -- R12, R13, R14, R15 -----------------------------------------------------------------------------------------------


def test_r12_a_queue_without_a_ring_is_not_run(boot: Boot) -> None:
    """R12: a kick before the driver set a ring is ignored."""
    vm = boot("blk", bring_up=False)
    vm.guest.port_out(notify_port(vm), 2, 0)
    assert vm.trace.events("kick_ignored")[0]["why"] == "no_ring"
    assert vm.trace.events("queue_notify") == []


@pytest.mark.parametrize(("width", "value"), [(2, 64), (2, 0xFFFF), (4, 0xFFFFFFFF)])
def test_r12_an_index_of_64_or_more_is_ignored(boot: Boot, width: int, value: int) -> None:
    """R12: compared unsigned, so that 0xFFFFFFFF is out of range too."""
    vm = boot("blk")
    vm.guest.port_out(notify_port(vm), width, value)
    assert vm.trace.events("kick_ignored")[-1]["why"] == "index"


def test_r13_driver_ok_without_bus_master_is_noted(boot: Boot) -> None:
    """R13: and START happens all the same."""
    vm = boot("blk", bring_up=False)
    vm.guest.negotiate()
    vm.guest.bus_master(False)
    vm.guest.set_driver_ok()
    assert Flag.BUS_MASTER_BUG in vm.proxy.flags
    assert vm.proxy.ioeventfd_started


def test_r14_every_run_is_an_event(boot: Boot) -> None:
    """R14: as many virtio_queue_notify events as runs of the queue, by trap and by eventfd."""
    vm = boot("blk")
    vm.guest.read(0)
    vm.guest.port_out(notify_port(vm), 4, 0)
    runs = vm.trace.events("queue_notify")
    assert len(runs) == vm.proxy.device.vq[0].runs
    assert {e["by"] for e in runs} == {"iothread", "trap"}


def test_r15_after_a_failed_deassign_nothing_is_said_to_be_assigned(boot: Boot) -> None:
    """R15: the queue has no owner, no eventfd and no port any more; what KVM still has is told by the kept error."""
    vm = boot("blk")
    vm.guest.pci_write(0x10, 4, 0xD000)
    vm.guest.port_out(0xD000 + Register.STATUS, 1, NEGOTIATED)
    notifier = vm.proxy.queues[0].notifier
    assert (notifier.owner, notifier.fd, notifier.port) == ("none", None, None)
    assert len(vm.proxy.notifiers.errors) == 1


def test_r15_a_failed_deassign_is_shown_and_not_drained(boot: Boot) -> None:
    """R15: somebody deassigned behind our back: no test-and-clear, no close; the fd goes with the device."""
    vm = boot("blk")
    vm.guest.read(0)
    fd = vm.proxy.queues[0].notifier.fd
    assert fd is not None
    vm._board.cpu.deassign(notify_port(vm), 2, 0, fd)
    mark = vm.trace.mark()
    vm.guest.clear_driver_ok()
    assert vm.trace.events("deassign", since=mark)[0]["errno"] == errno.ENOENT
    assert vm.trace.events("drain", "close_fd", since=mark) == []
    (error,) = vm.proxy.notifiers.errors
    assert isinstance(error, HostError)
    assert error.call == "KVM_IOEVENTFD"
    assert os.fstat(fd)


# -- consequences -----------------------------------------------------------------------------------------------------


def test_kicks_collapse(boot: Boot) -> None:
    """N kicks before one read are one wake-up with value N."""
    vm = boot("blk", irq="poll")
    vm.guest.read(0)
    mark = vm.trace.mark()
    with iothread_held(vm):
        vm.guest.kick(times=5)
    vm.guest.read(0)
    assert vm.trace.events("kick_eventfd", since=mark)[0]["kicks"] in (5, 6), "the read's kick may have joined"
    assert vm.proxy.queues[0].notifier.signalled == 1 + 5 + 1


@pytest.mark.parametrize("width", [1, 4])
def test_another_width_still_traps_while_started(boot: Boot, width: int) -> None:
    """KVM matches address, length and value exactly; the trap path stays complete."""
    vm = boot("blk")
    vm.guest.add()
    vm.guest.publish()
    vm.guest.port_out(notify_port(vm), width, 0)
    assert vm.guest.wait().status == BlkStatus.OK
    assert vm.proxy.queues[0].notifier.trapped == 1


def test_bar0_moved_while_started_leaves_a_stale_registration(boot: Boot) -> None:
    """v6: the old port still signals, kicks at the new one trap, and STOP gets ENOENT."""
    vm = boot("blk", irq="poll")
    vm.guest.read(0)
    old, notifier = notify_port(vm), vm.proxy.queues[0].notifier
    vm.guest.pci_write(0x10, 4, 0xD000)
    vm.guest.port_out(0xD000 + Register.QUEUE_NOTIFY, 2, 0)
    assert notifier.trapped == 1
    with iothread_held(vm):
        vm.guest.port_out(old, 2, 0)
        assert notifier.pending == 1
    vm.guest.port_out(0xD000 + Register.STATUS, 1, NEGOTIATED)
    assert vm.trace.events("deassign")[-1]["errno"] == errno.ENOENT


def test_a_late_kick_sees_a_valid_ring(boot: Boot) -> None:
    """STOP comes before the ring is torn down: a kick pending at STATUS = 0 is served while the ring is still there."""
    vm = boot("blk", irq="poll")
    vm.guest.read(0)
    added = vm.guest.add()
    vm.guest.publish()
    vm.memory.write(added.buffer_gpa, b"\xff" * PAGE_BYTES)
    with iothread_held(vm):
        vm.guest.kick()
        vm.proxy.notifiers.happens(Situation(Cause.STATUS_ZERO))
    assert vm.memory.read(added.buffer_gpa, 6) == b"labkit"
    assert names(vm.trace.events("request", "device_reset"))[-2:] == ["request", "device_reset"]
