"""What does one kick cost the guest that makes it? By trap and by ioeventfd, on a device that does nothing."""

from __future__ import annotations

from labkit.abi import QUEUE_NOTIFY_WIDTH, Command
from labkit.bench.bare import boot
from labkit.bench.row import Effort, Samples, interleaved, settled


def trap(effort: Effort) -> Samples:
    """Kicks that leave the guest and come to user space, ns each."""
    return _kicks(effort.trap_batches, effort, ioeventfd=False)


def ioeventfd(effort: Effort) -> Samples:
    """Kicks that are turned into a signal of an eventfd, ns each."""
    return _kicks(effort.ioeventfd_batches, effort, ioeventfd=True)


def _kicks(batches: int, effort: Effort, *, ioeventfd: bool) -> Samples:
    with boot("null", ioeventfd=ioeventfd, cpu=effort.cpu) as bare:
        guest, kicks = bare.machine.guest, effort.kicks
        port, width, queue = bare.notify_port, QUEUE_NOTIFY_WIDTH, 0

        def value() -> float:
            return settled(guest.kick_loop(batches, kicks, port, width, queue))

        def floor() -> float:
            bare.ignore(Command.KICK_LOOP, port, width, queue, batches, kicks, ioeventfd=ioeventfd)
            return settled(guest.samples_ns(batches, kicks))

        return interleaved(value, floor, effort.kick_repetitions)
