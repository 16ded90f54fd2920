"""What follows from the rules, and an implementation must show: each sentence of it on a real guest."""

from __future__ import annotations

import errno
import os

import pytest
from rulebook import UP, Boot, iothread_held, names, notify_port, revisions

from labkit import HostError
from labkit.abi import PAGE_BYTES, BlkStatus
from labkit.trace.events import Cause
from labkit.virtio.notifier import Situation


@revisions()
@pytest.mark.parametrize("starts", [1, 3])
def test_each_start_is_one_synthetic_notify_per_queue(boot: Boot, revision: str, starts: int) -> None:
    """The eventfd starts at 1, so each START causes exactly one synthetic notify per queue."""
    vm = boot("null", queues=2, ioeventfd=True, irq="poll", bring_up=False, revision=revision)
    vm.guest.negotiate()
    for _ in range(starts):
        with iothread_held(vm):  # so that STOP finds the synthetic kick
            vm.proxy.notifiers.happens(Situation(Cause.DRIVER_OK, status=UP))
            vm.proxy.notifiers.happens(Situation(Cause.PAUSE))
    assert [queue.notifier.synthetic for queue in vm.proxy.queues] == [starts, starts]
    assert len(vm.trace.events("queue_notify")) == 2 * starts


@revisions()
def test_start_is_idempotent(boot: Boot, revision: str) -> None:
    """DRIVER_OK written twice assigns once."""
    vm = boot("blk", revision=revision)
    vm.guest.set_status(UP)
    assert len(vm.trace.events("assign")) == 1


@revisions()
def test_stop_is_idempotent(boot: Boot, revision: str) -> None:
    """STATUS without DRIVER_OK written twice deassigns once."""
    vm = boot("blk", revision=revision)
    vm.guest.clear_driver_ok()
    vm.guest.clear_driver_ok()
    assert len(vm.trace.events("deassign")) == 1


@revisions()
def test_a_late_kick_sees_a_valid_ring(boot: Boot, revision: str) -> None:
    """STOP comes before the ring is torn down: a kick pending at STATUS = 0 is served while the ring is still there."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    added = vm.guest.add()
    vm.guest.publish()
    vm.memory.write(added.buffer_gpa, b"\xff" * PAGE_BYTES)
    with iothread_held(vm):
        vm.guest.kick()
        vm.proxy.notifiers.happens(Situation(Cause.STATUS_ZERO))
    assert vm.memory.read(added.buffer_gpa, 6) == b"labkit"
    assert names(vm.trace.events("request", "device_reset"))[-2:] == ["request", "device_reset"]


@revisions()
def test_kicks_collapse(boot: Boot, revision: str) -> None:
    """N kicks before one read are one wake-up with value N."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.read(0)
    mark = vm.trace.mark()
    with iothread_held(vm):
        vm.guest.kick(times=5)
    vm.guest.read(0)
    vm.guest.clear_driver_ok()
    assert vm.trace.events("kick_eventfd", since=mark)[0]["kicks"] in (5, 6), "the read's kick may have joined"
    assert vm.proxy.queues[0].notifier.signalled == 1 + 5 + 1


@revisions()
@pytest.mark.parametrize("width", [1, 4])
def test_another_width_still_traps_while_started(boot: Boot, revision: str, width: int) -> None:
    """KVM matches address, length and value exactly; the trap path stays complete."""
    vm = boot("blk", revision=revision)
    vm.guest.add()
    vm.guest.publish()
    vm.guest.port_out(notify_port(vm), width, 0)
    assert vm.guest.wait().status == BlkStatus.OK
    assert vm.proxy.queues[0].notifier.trapped == 1


@revisions()
def test_a_value_nobody_registered_still_traps(boot: Boot, revision: str) -> None:
    """A 2-byte kick of a queue that does not exist traps, also while started."""
    vm = boot("blk", revision=revision)
    vm.guest.read(0)
    vm.guest.port_out(notify_port(vm), 2, 1)
    assert vm.trace.events("kick_ignored")[-1]["why"] == "no_ring"


@revisions("v6")
def test_a_close_without_deassign_swallows_kicks_for_ever(boot: Boot, revision: str) -> None:
    """KVM keeps a reference of its own: after close(eventfd) kicks go nowhere, a deassign gets ENOENT or EBADF, an
    assign EEXIST. That is why STOP deassigns first.
    """
    vm = boot("null", irq="poll", ioeventfd=False, revision=revision)
    cpu, port, fd, other = vm._board.cpu, notify_port(vm), os.eventfd(0), os.eventfd(0)
    cpu.assign(port, 2, 0, fd)
    os.close(fd)
    vm.guest.kick(times=3)
    assert vm.proxy.queues[0].notifier.trapped == 0, "swallowed"
    with pytest.raises(HostError) as refused:
        cpu.deassign(port, 2, 0, other)
    assert refused.value.errno == errno.ENOENT
    with pytest.raises(HostError) as taken:
        cpu.assign(port, 2, 0, other)
    assert taken.value.errno == errno.EEXIST
    os.close(other)


@revisions()
def test_a_deassign_waits_so_one_look_is_enough(boot: Boot, revision: str) -> None:
    """Deassign returns when no vCPU can still signal: what STOP drains and what traps afterwards are all the kicks."""
    vm = boot("null", irq="poll", ioeventfd=True, revision=revision)
    vm.guest.clear_driver_ok()
    vm.guest.set_driver_ok()
    made = 0
    for _ in range(20):
        with iothread_held(vm):
            vm.guest.kick(times=3)
            vm.proxy.notifiers.happens(Situation(Cause.PAUSE))
        vm.guest.kick(times=2)
        with iothread_held(vm):
            vm.proxy.notifiers.happens(Situation(Cause.RESUME))
        made += 5
    notifier = vm.proxy.queues[0].notifier
    with iothread_held(vm):
        vm.proxy.notifiers.happens(Situation(Cause.PAUSE))
    assert notifier.trapped + notifier.signalled == made
    assert (notifier.drained, notifier.trapped) == (60, 40)
