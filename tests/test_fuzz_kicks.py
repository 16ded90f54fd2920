"""Is every kick counted once, while another thread starts and stops the notifiers?

The guest kicks as fast as it can; the host meanwhile does START and STOP by the rules, with the vCPUs running. A kick
that falls between two owners would be missing here, one that is taken twice would be too many: always
trapped + signalled + pending = made.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest
from fuzzing import much, report

from labkit import Machine
from labkit.abi import QUEUE_NOTIFY_WIDTH, Command, Register
from labkit.native import lib
from labkit.trace.events import Cause
from labkit.virtio.notifier import REVISIONS, Situation

Boot = Callable[..., Machine]
BATCHES = 10
TIMEOUT_S = 1500.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(much(600, 1800))]
each_revision = pytest.mark.parametrize("revision", REVISIONS)


class Kickers:
    """vCPUs that kick, each one queue, and the counts before they began."""

    def __init__(self, vm: Machine, queues: list[int], kicks: int) -> None:
        self.vm, self.queues, self.kicks = vm, queues, kicks // BATCHES * BATCHES
        self.before = {queue: self.counted(queue) for queue in set(queues)}
        port = vm.proxy.notify_base + Register.QUEUE_NOTIFY
        for vcpu, queue in enumerate(queues):
            vm.guest._post(Command.KICK_LOOP, (port, QUEUE_NOTIFY_WIDTH, queue, BATCHES, self.kicks // BATCHES), vcpu)

    def counted(self, queue: int) -> int:
        """Kicks of a queue by any path; not what an eventfd holds that no vCPU put there, or that trapped before."""
        notifier, vq = self.vm.proxy.queues[queue].notifier, self.vm.proxy.device.vq[queue]
        with self.vm._board.locked():
            not_kicks = vq.synthetic_due + vq.forwarded_due if notifier.fd is not None else 0
            return notifier.trapped + notifier.signalled + notifier.pending - not_kicks

    def by_path(self) -> tuple[int, int]:
        """Trapped and signalled so far, of all queues."""
        notifiers = [self.vm.proxy.queues[queue].notifier for queue in self.before]
        return sum(n.trapped for n in notifiers), sum(n.signalled for n in notifiers)

    def going_on(self) -> bool:
        """Is anyone still kicking?"""
        natives = [self.vm._board.cpu.vcpus[vcpu].native for vcpu in range(len(self.queues))]
        return any(lib.lk_step_wait(native, 0) != 1 for native in natives)

    def let_kick(self, path: int) -> None:
        """Until a kick has come by this path (0: trap, 1: eventfd), or all are made."""
        start = self.by_path()[path]
        while self.by_path()[path] == start and self.going_on():
            os.sched_yield()

    def all_counted(self) -> None:
        """Every kick of every vCPU is there, exactly once: with what is pending, and when that is drained."""
        for vcpu in range(len(self.queues)):
            self.vm.guest._result(Command.KICK_LOOP, vcpu, TIMEOUT_S)
        made = {queue: self.queues.count(queue) * self.kicks for queue in self.before}
        assert {queue: self.counted(queue) - self.before[queue] for queue in self.before} == made
        with self.vm._board.locked():
            self.vm.proxy.notifiers.happens(Situation(Cause.PAUSE))
        assert sum(self.by_path()) == sum(made.values()) + sum(self.before.values())


def start_and_stop(vm: Machine, kickers: Kickers, seed: int) -> int:
    """START and STOP under the big lock until the guest is done; how often. Half of the time a kick is let through, and
    the first time by each path: whatever the scheduler does, both are used."""
    dice, times = random.Random(seed), 0
    while kickers.going_on():
        for path, cause in enumerate((Cause.PAUSE, Cause.RESUME)):
            with vm._board.locked():
                vm.proxy.notifiers.happens(Situation(cause))
            if not times or dice.random() < 0.5:
                kickers.let_kick(path)
        times += 1
    return times


def tell(what: str, kickers: Kickers, times: int, since: float) -> None:
    """The line of the summary."""
    trapped, signalled = kickers.by_path()
    made, seconds = kickers.kicks * len(kickers.queues), time.monotonic() - since
    report(f"kicks: {what}: {made} made, {trapped} trapped + {signalled} signalled, {times} starts, {seconds:.1f} s")


@each_revision
@pytest.mark.parametrize(("device", "kicks"), [("null", much(50_000, 10_000_000)), ("blk", much(50_000, 2_000_000))])
def test_no_kick_is_lost_between_trap_and_eventfd(boot: Boot, device: str, kicks: int, revision: str) -> None:
    """ioeventfd: assign and deassign against a kicking vCPU: by trap + by eventfd = made by the guest."""
    vm = boot(device, ioeventfd=True, irq="poll", revision=revision)
    since, kickers = time.monotonic(), Kickers(vm, [0], kicks)
    times = start_and_stop(vm, kickers, seed=1)
    kickers.all_counted()
    assert min(kickers.by_path()) > 0, "both paths were used"
    tell(f"{revision}, {device}", kickers, times, since)


@each_revision
@pytest.mark.parametrize("queues", [[0, 1], [0, 0]], ids=["two queues", "one queue"])
def test_no_kick_of_two_vcpus_is_lost(boot: Boot, queues: list[int], revision: str) -> None:
    """ioeventfd: assign and deassign against two vCPUs that kick, each its own queue or both the same."""
    vm = boot("null", queues=2, vcpus=2, ioeventfd=True, irq="poll", revision=revision)
    since, kickers = time.monotonic(), Kickers(vm, queues, much(25_000, 1_000_000))
    times = start_and_stop(vm, kickers, seed=2)
    kickers.all_counted()
    assert min(kickers.by_path()) > 0, "both paths were used"
    tell(f"{revision}, vCPUs on queues {queues}", kickers, times, since)


@each_revision
def test_no_kick_is_lost_over_pause_and_resume(boot: Boot, revision: str) -> None:
    """ioeventfd: the same with the whole machine paused and resumed: the vCPU leaves in the middle of its kicks."""
    vm = boot("null", ioeventfd=True, irq="poll", revision=revision)
    since, kickers, times = time.monotonic(), Kickers(vm, [0], much(10_000, 1_000_000)), 0
    while kickers.going_on():
        vm.pause()
        vm.resume()
        kickers.let_kick(1)
        times += 1
    kickers.all_counted()
    tell(f"{revision}, pause and resume", kickers, times, since)


def test_a_kick_left_in_the_eventfd_is_counted_as_pending(boot: Boot) -> None:
    """ioeventfd: a kick that nobody has read yet is neither lost nor counted twice when it is read."""
    vm = boot("null", ioeventfd=True, irq="poll")
    vm.guest.kick()
    with vm._board.locked():  # the iothread cannot take them
        vm.guest.kick(times=5)
        notifier = vm.proxy.queues[0].notifier
        assert notifier.trapped + notifier.signalled + notifier.pending - vm.proxy.device.vq[0].synthetic_due == 6
        vm.proxy.notifiers.happens(Situation(Cause.PAUSE))
        assert (notifier.pending, notifier.trapped + notifier.signalled) == (0, 6)


def test_the_count_can_be_wrong(boot: Boot) -> None:
    """ioeventfd: a kick too few is noticed: the check of these tests can fail."""
    vm = boot("null", ioeventfd=True, irq="poll")
    kickers = Kickers(vm, [0], 1000)
    while kickers.going_on():
        os.sched_yield()
    vm.proxy.device.vq[0].trapped += 1
    with pytest.raises(AssertionError):
        kickers.all_counted()
