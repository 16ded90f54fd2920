"""Rules R10 to R12, R14, R15 and R17: the run state, the end of a device, and which kicks run what."""

from __future__ import annotations

import errno
import os

import pytest
from rulebook import NEGOTIATED, THEN, UP, Boot, iothread_held, names, notify_port, owners, revisions, runs

from labkit import HostError, Machine
from labkit.abi import BlkStatus, Register
from labkit.trace.events import Run
from labkit.virtio.notifier import Flag


def at_status_3(boot: Boot, revision: str) -> Machine:
    """A driver that has set up its ring and has not written DRIVER_OK."""
    vm = boot("blk", irq="poll", bring_up=False, revision=revision)
    vm.guest.negotiate()
    return vm


# -- R10, R11 ---------------------------------------------------------------------------------------------------------


@revisions()
def test_r10_pause_stops_and_resume_starts(boot: Boot, revision: str) -> None:
    """R10: the notifier goes with the run state, and each START brings its synthetic kick."""
    vm = boot("blk", revision=revision)
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


STATUS_AGAIN = {
    "v6": "runstate deassign runstate assign",
    "merged": "runstate deassign status runstate status assign",
    "0.14": "runstate deassign status runstate status assign",
    "today": "runstate deassign status runstate status assign",
}


@revisions()
def test_r10_the_status_is_stored_again_where_devices_listen(boot: Boot, revision: str) -> None:
    """R10: since merged the core stores the status once more: after STOP, and before START."""
    vm = boot("blk", revision=revision)
    vm.guest.read(0)
    mark = vm.trace.mark()
    vm.pause()
    vm.resume()
    told = names(vm.trace.events("runstate", "assign", "deassign", "status", since=mark))
    assert told == STATUS_AGAIN[revision].split()


@revisions()
def test_r10_what_is_in_the_ring_at_a_pause_is_served_at_resume(boot: Boot, revision: str) -> None:
    """R10: a request that was published and not kicked: the synthetic kick of the START picks it up."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    vm.guest.add()
    vm.guest.publish()
    vm.pause()
    vm.resume()
    assert vm.guest.wait().status == BlkStatus.OK


@revisions()
def test_r10_without_driver_ok_nothing_starts(boot: Boot, revision: str) -> None:
    """R10: running again without DRIVER_OK starts nothing."""
    vm = boot("blk", revision=revision)
    vm.guest.clear_driver_ok()
    vm.pause()
    vm.resume()
    assert vm.proxy.queues[0].notifier.owner == "none"


@revisions()
def test_r10_a_reset_while_paused_touches_no_eventfd(boot: Boot, revision: str) -> None:
    """R10: what is stopped already is not stopped again."""
    vm = boot("blk", revision=revision)
    vm.pause()
    mark = vm.trace.mark()
    vm.reset()
    assert vm.state == "paused"
    assert vm.trace.events("assign", "deassign", since=mark) == []


@revisions()
def test_r11_the_device_goes_after_a_stop(boot: Boot, revision: str) -> None:
    """R11: closing stops the notifiers by its own rule, not as a pause."""
    vm = boot("blk", revision=revision)
    vm.close()
    assert owners(vm)[-1] == ("vmm", "none", "R11", "EXIT")


# -- R12 --------------------------------------------------------------------------------------------------------------


@revisions()
def test_r12_a_queue_without_a_ring_is_not_run(boot: Boot, revision: str) -> None:
    """R12: a kick before the driver set a ring is ignored."""
    vm = boot("blk", bring_up=False, revision=revision)
    vm.guest.port_out(notify_port(vm), 2, 0)
    assert vm.trace.events("kick_ignored")[0]["why"] == "no_ring"
    assert (runs(vm), vm.proxy.ioeventfd_started) == ([], False)


@revisions(*THEN)
@pytest.mark.parametrize(("width", "value"), [(2, 64), (2, 0xFFFF), (4, 0xFFFFFFFF)])
def test_r12_an_index_of_64_or_more_is_ignored(boot: Boot, revision: str, width: int, value: int) -> None:
    """R12: compared unsigned, so that 0xFFFFFFFF is out of range too."""
    vm = boot("blk", revision=revision)
    vm.guest.port_out(notify_port(vm), width, value)
    assert vm.trace.events("kick_ignored")[-1]["why"] == "index"


@revisions("today")
@pytest.mark.parametrize(
    ("width", "value", "why"), [(2, 64, "no_ring"), (2, 1023, "no_ring"), (2, 1024, "index"), (4, 0xFFFFFFFF, "index")]
)
def test_r12_today_indices_go_to_1023(boot: Boot, revision: str, width: int, value: int, why: str) -> None:
    """R12: compared unsigned with 1024; between 64 and that there are queues without a ring."""
    vm = boot("blk", revision=revision)
    vm.guest.read(0)
    mark = vm.trace.mark()
    vm.guest.port_out(notify_port(vm), width, value)
    assert vm.trace.events("kick_ignored")[-1]["why"] == why
    assert runs(vm, mark) == []


# -- R14, R15 ---------------------------------------------------------------------------------------------------------


@revisions()
def test_r14_every_run_is_an_event(boot: Boot, revision: str) -> None:
    """R14: as many virtio_queue_notify events as runs of the queue; a forwarded kick is told once more."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    vm.guest.port_out(notify_port(vm), 4, 0)
    vm.guest.clear_driver_ok()  # so that what was forwarded has been served
    forwarded = len(vm.trace.events("forward"))
    assert len(runs(vm)) == vm.proxy.device.vq[0].runs + forwarded
    assert forwarded == (revision == "today")
    assert ("vcpu0", "trap") in runs(vm)


@revisions(*THEN)
def test_r14_a_trapped_kick_runs_the_queue_in_the_vcpu(boot: Boot, revision: str) -> None:
    """R14: also while started: the trap path serves the kick itself."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    mark = vm.trace.mark()
    vm.guest.port_out(notify_port(vm), 4, 0)
    assert runs(vm, mark) == [("vcpu0", "trap")]


@revisions("today")
def test_r14_a_trapped_kick_is_forwarded_to_the_owner(boot: Boot, revision: str) -> None:
    """R14: while started the vCPU tells of the kick and writes the eventfd; the iothread runs the queue."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    mark, notifier = vm.trace.mark(), vm.proxy.queues[0].notifier
    vm.guest.port_out(notify_port(vm), 4, 0)
    vm.guest.read(0)
    assert runs(vm, mark)[0] == ("vcpu0", "trap")
    assert {by for _, by in runs(vm, mark)[1:]} == {"iothread"}
    vm.guest.clear_driver_ok()
    assert (notifier.trapped, notifier.signalled) == (1, 2), "a forwarded kick is counted as trapped only"


@revisions()
def test_r15_a_failed_deassign_is_shown_and_not_drained(boot: Boot, revision: str) -> None:
    """R15: somebody deassigned behind our back: no test-and-clear, no close; the fd goes with the device."""
    vm = boot("blk", revision=revision)
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
    assert error.call.startswith("KVM_IOEVENTFD")
    assert str(error) in repr(vm.proxy)
    assert os.fstat(fd)


@revisions(*THEN)
def test_r15_after_a_failed_deassign_nothing_is_said_to_be_assigned(boot: Boot, revision: str) -> None:
    """R15: the queue has no owner, no eventfd and no port any more; what KVM still has is told by the kept error."""
    vm = boot("blk", revision=revision)
    vm.guest.pci_write(0x10, 4, 0xD000)
    vm.guest.port_out(0xD000 + Register.STATUS, 1, NEGOTIATED)
    notifier = vm.proxy.queues[0].notifier
    assert (notifier.owner, notifier.fd, notifier.port) == ("none", None, None)
    assert len(vm.proxy.notifiers.errors) == 1


@revisions()
def test_r15_a_fault_on_demand_leaves_the_registration(boot: Boot, revision: str) -> None:
    """R15: the deassign is made to fail: KVM was not asked, so the next START finds its tuple taken, and rolls back."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    vm.fault.fail_deassign(error="EIO")
    vm.guest.clear_driver_ok()
    vm.guest.set_driver_ok()
    assert [error.name for error in vm.proxy.notifiers.errors] == ["EIO", "EEXIST"]
    assert not vm.proxy.ioeventfd_started


# -- R17 --------------------------------------------------------------------------------------------------------------


@revisions(*THEN)
def test_r17_a_kick_before_driver_ok_runs_the_queue(boot: Boot, revision: str) -> None:
    """R17: it traps, the request completes, and nothing starts."""
    vm = at_status_3(boot, revision)
    vm.guest.read(0)
    assert (vm.proxy.status, vm.proxy.ioeventfd_started) == (NEGOTIATED, False)
    assert runs(vm) == [("vcpu0", "trap")]


@revisions("today")
def test_r17_a_kick_before_driver_ok_starts_the_device(boot: Boot, revision: str) -> None:
    """R17: it traps, the notifiers start, the request completes through the eventfd; DRIVER_OK assigns nothing more."""
    vm = at_status_3(boot, revision)
    vm.guest.read(0)
    assert owners(vm) == [("none", "vmm", "R17", "KICK")]
    assert runs(vm) == [("vcpu0", "trap"), ("iothread", "iothread")]
    vm.guest.set_driver_ok()
    assert len(vm.trace.events("assign")) == 1
    notifier = vm.proxy.queues[0].notifier
    assert (notifier.trapped, notifier.signalled, notifier.synthetic) == (1, 0, 1)


@revisions("today")
def test_r17_a_device_started_by_a_kick_comes_back_after_a_pause(boot: Boot, revision: str) -> None:
    """R17, R10: it counts as started although DRIVER_OK was never written."""
    vm = at_status_3(boot, revision)
    vm.guest.read(0)
    vm.pause()
    vm.resume()
    assert [cause for *_, cause in owners(vm)] == ["KICK", "PAUSE", "RESUME"]
    vm.guest.set_status(NEGOTIATED)
    assert not vm.proxy.ioeventfd_started
    vm.guest.read(0)
    assert owners(vm)[-1] == ("none", "vmm", "R17", "KICK")
    vm.guest.reset_device()
    vm.pause()
    vm.resume()
    assert not vm.proxy.ioeventfd_started, "a reset forgets it"


@revisions("today")
def test_r17_a_start_that_fails_leaves_the_kick_to_the_trap_path(boot: Boot, revision: str) -> None:
    """R17, R4: KVM refuses: the request completes in the vCPU, and the next kicks do not try again."""
    vm = at_status_3(boot, revision)
    vm.fault.fail_assign(times=None)
    vm.guest.read(0)
    vm.guest.read(1)
    assert len(vm.trace.events("fault")) == 1
    assert {e.actor for e in vm.trace.events("request")} == {"vcpu0"}
    vm.fault.clear()
    vm.guest.set_driver_ok()
    assert vm.proxy.ioeventfd_started


@revisions("today")
def test_r17_without_the_property_a_kick_starts_nothing(boot: Boot, revision: str) -> None:
    """R17, R1: ioeventfd off: the trap path serves it."""
    vm = boot("blk", irq="poll", bring_up=False, revision=revision, ioeventfd=False)
    vm.guest.negotiate()
    vm.guest.read(0)
    assert runs(vm) == [("vcpu0", "trap")]
    assert vm.proxy.flags == Flag(0)


@revisions("today")
def test_r17_a_string_of_kicks_is_counted_kick_by_kick(boot: Boot, revision: str) -> None:
    """R17: the first of several kicks starts the device; all are counted, by trap or by eventfd."""
    vm = at_status_3(boot, revision)
    vm.guest.kick(times=5)
    with iothread_held(vm):
        vm.proxy.notifiers.each[0].drain()
    notifier = vm.proxy.queues[0].notifier
    assert (notifier.trapped, notifier.signalled, notifier.pending) == (1, 4, 0)
    assert Run.TRAP.name.lower() in {by for _, by in runs(vm)}
    assert vm.guest.port_in(vm.proxy.notify_base + Register.STATUS, 1) == NEGOTIATED
