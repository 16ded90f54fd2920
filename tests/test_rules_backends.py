"""Rule R9: a backend takes the host notifiers, and gives them back. Each on a real guest."""

from __future__ import annotations

from pathlib import Path

import pytest
from rulebook import THEN, Boot, iothread_held, notify_port, owners, revisions

from labkit import GuestError, HostError, UsageError
from labkit.abi import NUMBERS, QUEUE_NOTIFY_WIDTH, SECTOR_BYTES, BlkStatus, BlkType, Command, Register
from labkit.native import lib
from labkit.trace.events import Cause, Owner
from labkit.virtio.notifier import Flag

STOPPED_BY = dict.fromkeys(THEN, "BACKEND_TAKES") | {"today": "GRAB"}
THEN_OWNED_BY = dict.fromkeys(THEN, "none") | {"today": "vmm"}


@revisions()
def test_r9_a_backend_takes_started_notifiers(boot: Boot, revision: str) -> None:
    """R9: STOP, the queue is assigned again, the backend serves it and the iothread does not."""
    vm = boot("blk", revision=revision)
    vm.guest.read(0)
    mark = vm.trace.mark()
    vm.hand_over()
    assert owners(vm, mark) == [
        ("vmm", "none", "R9", STOPPED_BY[revision]),
        ("none", "backend", "R9", "BACKEND_TAKES"),
    ]
    vm.guest.read(1)
    assert vm.backend.requests(0) == 1
    assert {e.actor for e in vm.trace.events("request", since=mark)} == {"backend"}


@revisions()
def test_r9_given_back_the_device_goes_on_where_the_backend_stood(boot: Boot, revision: str) -> None:
    """R9: last_avail and used.idx come back with the queue; who owns the notifier then is the revision's."""
    vm = boot("blk", revision=revision)
    vm.hand_over()
    for sector in range(3):
        vm.guest.read(sector)
    vm.take_back()
    queue = vm.proxy.queues[0]
    assert (queue.last_avail_idx, queue.used_idx) == (3, 3)
    assert queue.notifier.owner == THEN_OWNED_BY[revision]
    vm.guest.read(3)
    assert (vm.backend.requests(0), queue.last_avail_idx) == (3, 4)


@revisions("v6")
def test_r9_v6_loses_the_property_if_it_was_started(boot: Boot, revision: str) -> None:
    """R9: started: the property is cleared, for life. Not started: it stays, whatever the commit message says."""
    started, idle = boot("blk", revision=revision), boot("blk", bring_up=False, revision=revision)
    for vm in (started, idle):
        with vm._board.locked():
            vm.proxy.notifiers.set_host_notifier(0, True)
            vm.proxy.notifiers.set_host_notifier(0, False)
    assert Flag.USE_IOEVENTFD not in started.proxy.flags
    assert Flag.USE_IOEVENTFD in idle.proxy.flags


@revisions("merged", "0.14")
def test_r9_merged_is_off_while_a_backend_has_them(boot: Boot, revision: str) -> None:
    """R9: taken, no START comes through; given back, nothing starts by itself, but the next START does."""
    vm = boot("blk", revision=revision)
    vm.hand_over()
    assert vm.proxy.notifiers.turned_off
    vm.take_back()
    assert (vm.proxy.notifiers.turned_off, vm.proxy.ioeventfd_started) == (False, False)
    vm.guest.clear_driver_ok()
    vm.guest.set_driver_ok()
    assert vm.proxy.ioeventfd_started


@revisions("today")
def test_r9_today_starts_again_at_the_last_release(boot: Boot, revision: str) -> None:
    """R9: two backends grab; only the second release starts the notifiers, and only if they are still wanted."""
    vm = boot("blk", revision=revision)
    notifiers, locked = vm.proxy.notifiers, vm._board.locked
    with locked():
        notifiers.grab()
        notifiers.grab()
        assert (notifiers.started, notifiers.wanted) == (False, True)
        notifiers.release()
        assert not notifiers.started
        notifiers.release()
    assert notifiers.started
    assert owners(vm)[-1] == ("none", "vmm", "R9", "RELEASE")
    with locked():
        notifiers.grab()
    vm.guest.clear_driver_ok()  # nobody wants them any more
    with locked():
        notifiers.release()
    assert not notifiers.started


@revisions()
def test_r9_a_kick_in_the_hand_over_window_arrives(boot: Boot, revision: str) -> None:
    """R9: STOP has run and the backend has not assigned yet: the kick traps, and the VMM serves it; the backend then
    begins where the VMM stands.
    """
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    mark, notifiers = vm.trace.mark(), vm.proxy.notifiers
    with vm._board.locked():
        notifiers.grab()  # today's rules stop here, the older ones only when the first queue is taken
        notifiers._stop(9, Cause.BACKEND_TAKES)
    vm.guest.add(BlkType.IN, 5)
    vm.guest.publish()
    vm.guest.kick()
    vm.hand_over()
    assert vm.guest.wait().status == BlkStatus.OK
    vm.guest.read(6)
    served = [(e.actor, e["sector"]) for e in vm.trace.events("request", since=mark)]
    assert served == [("vcpu0", 5), ("backend", 6)]


@revisions()
def test_r9_a_kick_that_left_the_guest_before_the_hand_over_arrives(boot: Boot, revision: str) -> None:
    """R9: a vCPU that was waiting for the big lock with a trapped kick gets it after the backend has assigned: the kick
    is forwarded, and served once.
    """
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    vm.hand_over()
    mark = vm.trace.mark()
    vm.guest.add(BlkType.IN, 5)
    vm.guest.publish()
    lib.lk_queue_trap(vm.proxy.device, 0, 2, notify_port(vm))  # what the waiting thread does when the lock is its own
    assert vm.guest.wait().status == BlkStatus.OK
    assert [(e.actor, e["sector"]) for e in vm.trace.events("request", since=mark)] == [("backend", 5)]
    assert vm.proxy.queues[0].notifier.pending == 0


@revisions()
@pytest.mark.parametrize("width", [1, 4])
def test_r9_a_trapped_kick_goes_to_the_backend(boot: Boot, revision: str, width: int) -> None:
    """R9: a kick of another width traps although a backend owns the queue: it is written to the backend's eventfd, for
    two consumers of one ring would serve it twice.
    """
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    vm.hand_over()
    vm.guest.read(0)
    mark = vm.trace.mark()
    vm.guest.add(BlkType.IN, 7)
    vm.guest.publish()
    vm.guest.port_out(notify_port(vm), width, 0)
    assert vm.guest.wait().status == BlkStatus.OK
    assert [(e.actor, e["sector"]) for e in vm.trace.events("request", since=mark)] == [("backend", 7)]
    assert len(vm.trace.events("forward", since=mark)) == 1


@revisions()
def test_r9_what_is_pending_when_the_backend_goes_is_served_once(boot: Boot, revision: str) -> None:
    """R9: three requests done by the backend, then a kick is pending when it gives back: its indices come back before
    the drain, so nothing is served twice.
    """
    vm = boot("blk", irq="poll", revision=revision)
    vm.hand_over()
    for sector in range(3):
        vm.guest.read(sector)
    vm.guest.add(BlkType.IN, 9)
    vm.guest.publish()
    mark = vm.trace.mark()
    with iothread_held(vm):  # it has to look at the lock before it takes the kick
        vm.guest.kick()
        vm.proxy.backend.give_back()
    assert vm.guest.wait().status == BlkStatus.OK
    assert [e["sector"] for e in vm.trace.events("request", since=mark)] == [9]
    assert vm.proxy.queues[0].used_idx == 4


@revisions()
def test_r9_the_backend_goes_with_the_driver_and_comes_back(boot: Boot, revision: str) -> None:
    """R9: pause, DRIVER_OK cleared, reset: each time the backend gives its queues back, and takes them when it can."""
    vm = boot("blk", revision=revision)
    vm.hand_over()

    def owner() -> str:
        return vm.proxy.queues[0].notifier.owner

    vm.pause()
    assert owner() == "none"
    vm.resume()
    assert owner() == "backend"
    vm.guest.clear_driver_ok()
    assert owner() == "none"
    vm.guest.set_driver_ok()
    assert owner() == "backend"
    vm.reset()
    assert owner() == "none"
    vm.guest.read(0)
    assert (owner(), vm.backend.has) == ("backend", [0])


@revisions()
def test_r9_a_storm_survives_the_queue_going_to_and_fro(boot: Boot, revision: str) -> None:
    """R9: while a load runs the queue changes hands again and again: every request completes, once."""
    vm, requests = boot("blk", revision=revision), 600
    sectors, vcpu = vm.proxy.device.blk.sectors, vm._board.cpu.vcpus[0].native
    vm.guest._post(Command.STORM, (0, requests, 8, BlkType.IN, SECTOR_BYTES, 1, 0, sectors), 0)
    hand_overs = 0
    while not lib.lk_step_wait(vcpu, 0):
        vm.hand_over()
        vm.take_back()
        hand_overs += 1
    _, completed, errors, *_ = vm.guest._result(Command.STORM, 0, 30.0)
    assert (completed, errors, vm.proxy.queues[0].used_idx) == (requests, 0, requests)
    assert hand_overs > 1


@revisions()
def test_r9_kvm_refuses_the_second_queue(boot: Boot, revision: str) -> None:
    """R9: the backend gets all queues or none; what it had is given back, and the guest goes on."""
    vm = boot("null", queues=3, ioeventfd=True, irq="poll", revision=revision)
    vm.fault.fail_assign(queue=1)
    with pytest.raises(HostError, match="ENOSPC"):
        vm.hand_over()
    assert (vm.backend.has, vm.backend.wants) == ([], ())
    assert Owner.BACKEND not in vm.proxy.notifiers.owners
    vm.guest.kick(queue=2, times=3)


def test_a_backend_takes_what_there_is(boot: Boot) -> None:
    """A queue that does not exist, or none at all, is the caller's mistake."""
    vm = boot("blk")
    for queues in ([], [1], [0, 64]):
        with pytest.raises(UsageError, match="queues="):
            vm.hand_over(queues)
    assert vm.proxy.queues[0].notifier.owner == "vmm"


def test_r16_a_move_that_kvm_refuses_leaves_the_backend_its_notifier(boot: Boot) -> None:
    """R16: what is registered stays where it is and says so; kicks at the new port trap, for the backend."""
    vm = boot("blk", revision="today", irq="poll")
    vm.hand_over()
    before = vm.proxy.queues[0].notifier.port
    vm.fault.fail_deassign()
    vm.guest.pci_write(NUMBERS["PCI_BAR0"], 4, 0xD000)
    notifier = vm.proxy.queues[0].notifier
    assert (notifier.owner, notifier.port, vm.proxy.notify_base) == ("backend", before, 0xD000)
    vm.guest.add(sector=0)
    vm.guest.publish()
    vm.guest.port_out(0xD000 + Register.QUEUE_NOTIFY, QUEUE_NOTIFY_WIDTH, 0)
    assert vm.guest.wait().status == BlkStatus.OK
    assert (vm.backend.requests(0), notifier.trapped, notifier.signalled) == (1, 1, 0)
    vm.take_back()
    assert (notifier.owner, notifier.port) == ("none", None), "the rules had stopped, as R16 says"


@revisions()
def test_a_backend_knows_the_size_of_the_disk(boot: Boot, revision: str, tmp_path: Path) -> None:
    """A resize reaches the backend that has the queue, and one that takes it later; nothing writes past the new end."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4 * SECTOR_BYTES))
    vm = boot("blk", disk=path, writable=True, revision=revision)
    for _ in range(2):
        vm.hand_over()
        vm.resize_disk(8 * SECTOR_BYTES)
        assert vm.guest.read(7) == bytes(SECTOR_BYTES)
        vm.resize_disk(2 * SECTOR_BYTES)
        with pytest.raises(GuestError, match="IOERR"):
            vm.guest.write(3, bytes(SECTOR_BYTES))
        assert path.stat().st_size == 2 * SECTOR_BYTES
        vm.take_back()
        vm.resize_disk(4 * SECTOR_BYTES)


@revisions()
def test_a_resize_in_the_middle_of_a_run_loses_no_request(boot: Boot, revision: str) -> None:
    """What the backend was at is cut short between two requests and goes on afterwards, without another kick."""
    vm = boot("blk", delay_ns=2_000_000, revision=revision)
    vm.hand_over()
    for sector in range(10):
        vm.guest.add(sector=sector)
    vm.guest.publish()
    vm.guest.kick()
    done = [vm.guest.wait()]
    vm.resize_disk(64 * SECTOR_BYTES)
    done += [vm.guest.wait() for _ in range(9)]
    assert [completion.status for completion in done] == [BlkStatus.OK] * 10
    assert {event.actor for event in vm.trace.events("request")} == {"backend"}


def test_a_backend_needs_a_device(boot: Boot) -> None:
    """Pulled out, the device has no queues to take; put back, it has, and a backend that had them has none."""
    vm = boot("blk")
    vm.hand_over()
    vm.unplug()
    assert vm.backend.has == []
    with pytest.raises(UsageError, match="unplugged"):
        vm.hand_over()
    vm.plug()
    vm.guest.negotiate(driver_ok=True)
    vm.hand_over()
    vm.guest.read(0)
    assert vm.backend.requests(0) == 1


def test_the_backend_says_what_it_has(boot: Boot) -> None:
    """Its view: what it wants, what it has, what it has done."""
    vm = boot("blk")
    vm.hand_over()
    vm.guest.read(0)
    assert "queue 0: 1" in repr(vm.backend)
    vm.pause()
    assert (vm.backend.wants, vm.backend.has) == ((0,), [])
