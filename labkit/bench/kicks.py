"""What does one kick cost the guest that makes it? By trap and by ioeventfd, on a device that does nothing."""

from __future__ import annotations

import statistics

import labkit
from labkit.abi import QUEUE_NOTIFY_WIDTH, Command
from labkit.bench.bare import BareVcpu
from labkit.bench.row import Effort, Samples, interleaved


def trap(effort: Effort) -> Samples:
    """Kicks that leave the guest and come to user space, ns each."""
    return _kicks(effort, ioeventfd=False)


def ioeventfd(effort: Effort) -> Samples:
    """Kicks that KVM turns into a signal of an eventfd, ns each."""
    return _kicks(effort, ioeventfd=True)


def _kicks(effort: Effort, *, ioeventfd: bool) -> Samples:
    batches, kicks = effort.batches, effort.kicks
    with labkit.boot("null", ioeventfd=ioeventfd) as vm:
        bare = BareVcpu(vm)
        port, width, queue = bare.notify_port, QUEUE_NOTIFY_WIDTH, 0

        def value() -> float:
            return statistics.median(vm.guest.kick_loop(batches, kicks, port, width, queue))

        def floor() -> float:
            bare.ignore(Command.KICK_LOOP, port, width, queue, batches, kicks, ioeventfd=ioeventfd)
            return statistics.median(vm.guest.samples_ns(batches, kicks))

        return interleaved(value, floor, effort.repetitions)
