"""Does the iothread run the queue of each eventfd it watches, and of none that it let go? Real eventfds, no KVM."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from labkit.abi import QUEUE_MAX
from labkit.memory import GuestMemory
from labkit.native import ffi, lib
from labkit.trace.events import Event
from labkit.trace.feed import Feed

pytestmark = pytest.mark.usefixtures("leaves_nothing")

RING_PFN = 0x10


class Io:
    """An iothread's loop and a device of 64 queues that does nothing but be looked at."""

    def __init__(self) -> None:
        self.memory = GuestMemory(1)
        self.feed = Feed(self.memory.native)
        self.device: Any = ffi.gc(lib.lk_device_new(self.memory.native, lib.DEVICE_NULL), lib.lk_device_free)
        for queue in range(QUEUE_MAX):
            self.device.vq[queue].num = 2
            lib.lk_queue_set_pfn(self.device, queue, RING_PFN)
        self.loop = lib.lk_loop_new(self.memory.native)
        self.fds: list[int] = []

    def notifier(self, queue: int, count: int = 0) -> int:
        """An eventfd as the host notifier of `queue`."""
        fd = os.eventfd(count, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.fds.append(fd)
        self.device.vq[queue].notifier_fd = fd
        return fd

    def attach(self, queue: int, fd: int) -> int:
        """Let the iothread watch it."""
        return int(lib.lk_loop_attach(self.loop, self.device, queue, fd))

    def detach(self, fd: int) -> int:
        """Let go of it."""
        return int(lib.lk_loop_detach(self.loop, fd))

    def start(self) -> None:
        """Start the iothread."""
        assert lib.lk_loop_start(self.loop, b"iothread") == 0

    def stop(self) -> None:
        """Stop it; what it was doing is done then."""
        lib.lk_loop_free(self.loop)
        self.loop = ffi.NULL

    def wait_for(self, happened: Callable[[], object]) -> None:
        """Until the iothread has done it; a test that waits in vain is ended by its own time limit."""
        while not happened():
            os.sched_yield()

    def held_in_flight(self, fd: int) -> None:
        """Signal `fd` and come back when the iothread has taken the event and waits for the big lock, held here."""
        before = lib.lk_loop_wakeups(self.loop)
        os.eventfd_write(fd, 1)
        self.wait_for(lambda: lib.lk_loop_wakeups(self.loop) > before)

    def runs(self, queue: int) -> int:
        """How often the queue was run."""
        return int(self.device.vq[queue].runs)

    def events(self, *names: str) -> list[Event]:
        """Events of these kinds."""
        return [event for event in self.feed.read()[0] if event.name in names]

    def close(self) -> None:
        """Stop, and give everything back."""
        self.stop()
        for fd in self.fds:
            os.close(fd)
        self.feed.keep()
        self.memory.close()


@pytest.fixture
def io() -> Iterator[Io]:
    """A loop, not started."""
    io = Io()
    yield io
    io.close()


def test_a_signal_runs_the_queue_in_the_iothread(io: Io) -> None:
    """The eventfd is emptied, the kick is counted, and the queue is run once, by the iothread."""
    fd = io.notifier(3)
    assert io.attach(3, fd) == 0
    io.start()
    os.eventfd_write(fd, 1)
    io.wait_for(lambda: io.runs(3))
    (notify,) = io.events("queue_notify")
    assert (notify.actor, notify.queue, notify["by"]) == ("iothread", 3, "iothread")
    assert [(event["kicks"], event["synthetic"]) for event in io.events("kick_eventfd")] == [(1, 0)]
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)


def test_kicks_collapse_into_one_run(io: Io) -> None:
    """What was signalled before the iothread looks is one wake-up with all the kicks counted."""
    fd = io.notifier(0)
    io.attach(0, fd)
    for _ in range(5):
        os.eventfd_write(fd, 1)
    io.start()
    io.wait_for(lambda: io.runs(0))
    assert (io.runs(0), io.device.vq[0].signalled) == (1, 5)


def test_an_eventfd_born_with_one_runs_the_queue_unasked(io: Io) -> None:
    """R3: the synthetic kick is what picks up requests that were in the ring before."""
    fd = io.notifier(0, count=1)
    io.device.vq[0].synthetic_due = 1
    io.attach(0, fd)
    io.start()
    io.wait_for(lambda: io.runs(0))
    assert (io.device.vq[0].synthetic, io.device.vq[0].signalled) == (1, 0)


def test_attaching_and_detaching_are_told(io: Io) -> None:
    """Both are events, with the queue and the fd."""
    fd = io.notifier(7)
    assert (io.attach(7, fd), io.detach(fd)) == (0, 0)
    assert [(e.name, e.queue, e["fd"]) for e in io.events("attach", "detach")] == [("attach", 7, fd), ("detach", 7, fd)]


def test_an_eventfd_can_be_attached_while_the_iothread_waits(io: Io) -> None:
    """The iothread need not be woken to watch one more."""
    io.start()
    fd = io.notifier(1)
    assert io.attach(1, fd) == 0
    os.eventfd_write(fd, 1)
    io.wait_for(lambda: io.runs(1))


def test_a_detached_eventfd_is_not_looked_at(io: Io) -> None:
    """After detach its count stays, for STOP to find (R5), while the others go on."""
    gone, stays = io.notifier(1), io.notifier(2)
    io.attach(1, gone)
    io.attach(2, stays)
    io.start()
    io.detach(gone)
    os.eventfd_write(gone, 1)
    os.eventfd_write(stays, 1)
    io.wait_for(lambda: io.runs(2))
    io.stop()
    assert io.runs(1) == 0
    assert os.eventfd_read(gone) == 1


def test_a_handler_detached_in_flight_never_runs(io: Io) -> None:
    """The iothread has the event already and waits for the big lock; who holds the lock detaches: the kick stays."""
    fd = io.notifier(1)
    io.attach(1, fd)
    io.start()
    lib.lk_lock_take(io.memory.native)
    io.held_in_flight(fd)
    assert io.detach(fd) == 0
    lib.lk_lock_release(io.memory.native)
    io.stop()
    assert io.runs(1) == 0
    assert os.eventfd_read(fd) == 1


def test_an_event_in_flight_does_not_reach_who_came_after(io: Io) -> None:
    """The same place in the loop, given to another queue meanwhile: the old event does not run the new queue."""
    old, new = io.notifier(1), io.notifier(2)
    io.attach(1, old)
    io.start()
    lib.lk_lock_take(io.memory.native)
    io.held_in_flight(old)
    io.detach(old)
    os.eventfd_write(new, 1)
    assert io.attach(2, new) == 0
    lib.lk_lock_release(io.memory.native)
    io.wait_for(lambda: io.runs(2))
    io.stop()
    assert (io.runs(1), io.runs(2), os.eventfd_read(old)) == (0, 1, 1)
    assert [(event.queue, event["kicks"]) for event in io.events("kick_eventfd")] == [(2, 1)]


def test_a_broken_device_still_empties_its_eventfd(io: Io) -> None:
    """A kick that is ignored is taken all the same, or the iothread would spin on it for ever."""
    fd = io.notifier(1)
    io.device.broken = 1
    io.attach(1, fd)
    io.start()
    os.eventfd_write(fd, 1)
    io.wait_for(lambda: io.events("kick_ignored"))
    io.stop()
    assert io.runs(1) == 0
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)


def test_many_eventfds_are_all_served(io: Io) -> None:
    """64 queues, as many as a device can have: each runs once, and one more finds no room."""
    fds = [io.notifier(queue) for queue in range(QUEUE_MAX)]
    assert [io.attach(queue, fd) for queue, fd in enumerate(fds)] == [0] * QUEUE_MAX
    spare = os.eventfd(0)
    io.fds.append(spare)
    assert io.attach(0, spare) == -errno.ENOSPC
    for fd in fds:
        os.eventfd_write(fd, 1)
    io.start()
    io.wait_for(lambda: all(io.runs(queue) for queue in range(QUEUE_MAX)))
    assert [io.runs(queue) for queue in range(QUEUE_MAX)] == [1] * QUEUE_MAX
    assert io.detach(fds[17]) == 0
    assert io.attach(0, spare) == 0, "a place given back is free again"


def test_what_cannot_be_attached_is_told(io: Io) -> None:
    """Twice the same: EEXIST; closed: EBADF; a plain file: EPERM. None of them takes a place or leaves an event."""
    fd = io.notifier(0)
    assert io.attach(0, fd) == 0
    assert io.attach(1, fd) == -errno.EEXIST
    assert io.attach(1, -1) == -errno.EBADF
    assert io.attach(1, io.memory.fd) == -errno.EPERM
    assert len(io.events("attach")) == 1


@pytest.mark.parametrize("which", ["never attached", "no fd at all"])
def test_what_is_not_attached_cannot_be_detached(io: Io, which: str) -> None:
    """ENOENT, without an event, also for -1, which is no fd and marks an empty place."""
    fd = io.notifier(0) if which == "never attached" else -1
    assert io.detach(fd) == -errno.ENOENT
    assert io.events("detach") == []


def test_detaching_twice_is_told(io: Io) -> None:
    """The second time there is nothing to let go."""
    fd = io.notifier(0)
    io.attach(0, fd)
    assert (io.detach(fd), io.detach(fd)) == (0, -errno.ENOENT)


def test_a_loop_that_was_never_started_can_be_freed(io: Io) -> None:
    """There is no thread to wait for, and its fds are closed (leaves_nothing)."""
    io.attach(0, io.notifier(0, count=1))
    io.stop()
    assert io.runs(0) == 0


def test_a_loop_stops_while_it_waits(io: Io) -> None:
    """With nothing to do the iothread sleeps in the kernel, and comes out to end."""
    io.start()
    io.stop()
    assert io.events("queue_notify") == []


def test_a_loop_stops_while_it_is_kicked(io: Io) -> None:
    """An eventfd that is signalled again and again does not keep the iothread from ending."""
    fd = io.notifier(0)
    io.attach(0, fd)
    io.start()
    for _ in range(1000):
        os.eventfd_write(fd, 1)
    io.stop()
    served = int(io.device.vq[0].signalled)
    assert served + (os.eventfd_read(fd) if served < 1000 else 0) == 1000
