"""What do other people's tests ask of a back end in another process? Of their lines, those that this version has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from labkit import Machine
from labkit.abi import GPA_BUFFERS, SECTOR_BYTES

Boot = Callable[..., Machine]
# The back end's process: it knows the memfd and an address, prints what stands there, and leaves an answer behind it.
CHILD = """
import mmap, sys
fd, at, size = map(int, sys.argv[1:])
with mmap.mmap(fd, 0) as ram:
    sys.stdout.buffer.write(ram[at : at + size])
    ram[at + size : at + size + 4] = b"seen"
"""
QUEUES = 4


def child_reads(vm: Machine, gpa: int, size: int) -> bytes:
    """What another process finds in guest memory, by the memfd alone."""
    command = [sys.executable, "-c", CHILD, *map(str, (vm.memory.fd, gpa, size))]
    return subprocess.run(command, pass_fds=[vm.memory.fd], capture_output=True, check=True).stdout


def test_guest_memory_by_memfd(boot: Boot) -> None:
    """vhost-user: reads guest memory by memfd: a process sees what guest and device wrote, and the guest its answer."""
    vm = boot("blk")
    sector = vm.guest.read(0)
    vm.guest.store(GPA_BUFFERS + SECTOR_BYTES, 4, 0x12345678)
    assert child_reads(vm, GPA_BUFFERS, SECTOR_BYTES + 4) == sector + bytes.fromhex("78563412")
    assert vm.guest.load(GPA_BUFFERS + SECTOR_BYTES + 4, 4) == int.from_bytes(b"seen", "little")


@pytest.mark.parametrize("taken", [None, [1, 3]])
def test_multiqueue(boot: Boot, taken: list[int] | None) -> None:
    """vhost-user: multiqueue: of several queues each kick reaches the one who has that queue, and no other."""
    vm = boot("null", queues=QUEUES, ioeventfd=True, irq="poll")
    vm.hand_over(taken)
    theirs = list(range(QUEUES)) if taken is None else taken
    assert [queue.index for queue in vm.proxy.queues if queue.notifier.owner == "backend"] == theirs
    mark = vm.trace.mark()
    for queue in vm.proxy.queues:
        vm.guest.kick(queue.index, times=queue.index + 1)
        while queue.index in theirs and queue.notifier.signalled < queue.index + 1:
            os.sched_yield()
    vm.take_back()  # its runs are over then
    for queue in vm.proxy.queues:
        kicks, by_trap = queue.index + 1, queue.index not in theirs
        assert (queue.notifier.trapped, queue.notifier.signalled) == ((kicks, 0) if by_trap else (0, kicks))
        runs = vm.trace.events("queue_notify", queue=queue.index, since=mark)
        assert {event.actor for event in runs} == {"vcpu0" if by_trap else "backend"}
