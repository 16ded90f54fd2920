"""What does a device written in Python see of a hostile guest? Chains written by hand; no guest, no machine, no KVM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rings import DATA, DATA_STRIDE, MEMORY_BYTES, MEMORY_MIB, NO_INTERRUPT, WRITE, Descriptor, Ring, chained

import labkit
from labkit import GuestError
from labkit.memory import GuestMemory
from labkit.native import ffi, lib
from labkit.trace.events import Event, Run
from labkit.trace.feed import Feed
from labkit.virtio.devices.chain import READ_MAX_BYTES, DeviceQueue
from labkit.virtio.devices.python import PythonDevice


class Upper(labkit.Device):
    """Answers what it is sent, in capitals."""

    queue_sizes = (64,)

    def handle(self, queue: DeviceQueue) -> None:
        """One answer a chain."""
        for chain in queue:
            queue.push(chain, chain.read().upper())


def device_that(work: Callable[[DeviceQueue], object], **attributes: Any) -> labkit.Device:
    """A device whose handle is `work`."""
    return type("Odd", (labkit.Device,), {"handle": lambda _, queue: work(queue), **attributes})()


class Rig:
    """A device in Python with queue 0 on 1 MiB of guest memory; the test is the driver, and there is no machine."""

    def __init__(self, device: labkit.Device) -> None:
        self.memory = GuestMemory(MEMORY_MIB)
        self.feed = Feed(self.memory.native)
        self.device: Any = ffi.gc(lib.lk_device_new(self.memory.native, lib.DEVICE_PYTHON), lib.lk_device_free)
        self.model = PythonDevice(device)
        self.vq = self.device.vq[0]
        self.vq.num = self.model.queue_sizes[0]
        self.model.attach(self.device)
        self.ring = Ring(self.memory, self.vq.num)
        lib.lk_queue_set_pfn(self.device, 0, self.ring.pfn)

    def offer(self, *parts: Descriptor) -> None:
        """A chain at descriptor 0, and a kick."""
        self.ring.put(chained(parts))
        self.ring.publish(0)
        self.kick()

    def kick(self, queue: int = 0) -> None:
        """The device looks at the queue."""
        lib.lk_lock_take(self.memory.native)
        lib.lk_queue_run(self.device, queue, Run.TRAP)
        lib.lk_lock_release(self.memory.native)

    def events(self, *names: str) -> list[Event]:
        """The events of these kinds."""
        return [event for event in self.feed.read(0)[0] if event.name in names]

    def close(self) -> None:
        """Give everything back."""
        self.feed.keep()
        self.model.close()
        self.memory.close()


@pytest.fixture
def rig() -> Iterator[Callable[[labkit.Device], Rig]]:
    """Rigs that are closed afterwards."""
    made: list[Rig] = []

    def make(device: labkit.Device) -> Rig:
        made.append(Rig(device))
        return made[-1]

    yield make
    for one in made:
        one.close()


MakeRig = Callable[[labkit.Device], Rig]


def test_a_chain_in_pieces_is_one_text(rig: MakeRig) -> None:
    """Read and written across descriptors of any size; the order is the chain's."""
    r = rig(Upper())
    r.memory.write(DATA, b"abcdef")
    parts = [Descriptor(DATA + 4, 2), Descriptor(DATA, 3), Descriptor(DATA + 3, 1)]
    room = [Descriptor(DATA + DATA_STRIDE + at, size, WRITE) for at, size in ((0, 1), (10, 4), (20, 30))]
    r.offer(*parts, *room)
    assert r.ring.used_entry(0) == (0, 6)
    assert [r.memory.read(DATA + DATA_STRIDE + at, size) for at, size in ((0, 1), (10, 4), (20, 2))] == [
        b"E",
        b"FABC",
        b"D\0",
    ]


def test_parts_of_a_chain_can_be_read(rig: MakeRig) -> None:
    """By size and offset, clipped to what is there; reading consumes nothing."""
    seen: list[bytes] = []

    def work(queue: DeviceQueue) -> None:
        for chain in queue:
            for arguments in ((4,), (4, 2), (100, 5), (None, 6), (3, 99), (-1,), (2, -5), ()):
                seen.append(chain.read(*arguments))
            queue.push(chain)

    r = rig(device_that(work))
    r.memory.write(DATA, b"abcdefgh")
    r.offer(Descriptor(DATA, 5), Descriptor(DATA + 5, 3))
    assert seen == [b"abcd", b"cdef", b"fgh", b"gh", b"", b"", b"ab", b"abcdefgh"]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([Descriptor(MEMORY_BYTES - 1, 2)], "buffer_outside"),
        ([Descriptor(2**64 - 8, 16)], "buffer_outside"),
        ([Descriptor(DATA, 0)], "empty_buffer"),
        ([Descriptor(DATA, 4, WRITE), Descriptor(DATA, 4)], "order"),
        ([Descriptor(DATA, 15, 4)], "indirect"),
    ],
)
def test_a_broken_chain_never_reaches_the_device(rig: MakeRig, parts: list[Descriptor], reason: str) -> None:
    """It is the guest's fault: broken with its reason, handle sees an empty queue, and the device has no error."""
    seen: list[object] = []
    device = device_that(seen.extend)
    r = rig(device)
    r.offer(*parts)
    assert [event["reason"] for event in r.events("broken")] == [reason]
    assert (seen, device.error, r.ring.used_idx) == ([], None, 0)


def test_what_was_taken_before_the_ring_broke_is_not_pushed_after(rig: MakeRig) -> None:
    """A ring that breaks while a chain is held: the push is accepted, and writes to the guest's ring no more."""

    def work(queue: DeviceQueue) -> None:
        first = queue.pop()
        assert first is not None and queue.pop() is None
        queue.push(first)

    device = device_that(work)
    r = rig(device)
    r.ring.put([Descriptor(DATA, 4), Descriptor(MEMORY_BYTES, 4)])
    r.ring.publish(0, 1)
    r.kick()
    assert r.device.broken and device.error is None
    assert (r.ring.used_idx, r.events("chain")) == (0, [])


def test_a_chain_that_claims_terabytes_is_not_read_at_once(rig: MakeRig) -> None:
    """The same memory named over and over: GuestError at the read, before any memory is taken; parts can be read."""
    sizes: list[int] = []

    def work(queue: DeviceQueue) -> None:
        for chain in queue:
            sizes.append(len(chain.read(READ_MAX_BYTES)))
            sizes.append(chain.readable)
            chain.read()

    device = device_that(work, queue_sizes=(32,))
    r = rig(device)
    r.offer(*[Descriptor(0, MEMORY_BYTES)] * 32)
    assert sizes == [READ_MAX_BYTES, 32 * MEMORY_BYTES]
    assert isinstance(device.error, GuestError)
    assert "give read() a size" in device.failure


def test_one_call_takes_no_more_than_the_ring_holds(rig: MakeRig) -> None:
    """A guest that adds while it is served cannot keep handle for ever: after `num` chains it is called again."""
    calls: list[int] = []

    def work(queue: DeviceQueue) -> None:
        calls.append(0)
        for chain in queue:
            calls[-1] += 1
            queue.push(chain)
            if sum(calls) < 20:
                r.ring.publish(0)  # as a guest on another vCPU would

    r = rig(device_that(work, queue_sizes=(8,)))
    r.offer(Descriptor(DATA, 1))
    assert calls == [8, 8, 4]
    assert r.ring.used_idx == 20


def test_a_stop_comes_between_two_calls(rig: MakeRig) -> None:
    """With a stop under way the device is not called again; the rest is marked to be run on resume."""

    def work(queue: DeviceQueue) -> None:
        for chain in queue:
            queue.push(chain)
            r.ring.publish(0)

    r = rig(device_that(work, queue_sizes=(8,)))
    r.device.stopping = 1
    r.offer(Descriptor(DATA, 1))
    assert (r.ring.used_idx, r.vq.unfinished) == (8, 1)


def test_a_guest_that_wants_no_interrupt_gets_none(rig: MakeRig) -> None:
    """avail.flags is looked at as for every device."""
    r = rig(Upper())
    r.ring.set_avail_flags(NO_INTERRUPT)
    r.offer(Descriptor(DATA, 1), Descriptor(DATA, 1, WRITE))
    assert (r.ring.used_idx, r.vq.interrupts) == (1, 0)
    r.ring.set_avail_flags(0)
    r.kick()
    assert r.vq.interrupts == 0, "nothing was pushed"
    r.offer(Descriptor(DATA, 1), Descriptor(DATA, 1, WRITE))
    assert r.vq.interrupts == 1


def test_a_queue_that_is_not_there_calls_nobody(rig: MakeRig) -> None:
    """A ring given to a queue without a size, and kicked: handle does not hear of it."""
    device = device_that(lambda _: pytest.fail("called"))
    r = rig(device)
    lib.lk_queue_set_pfn(r.device, 5, 0x80)
    r.kick(5)
    assert device.error is None


def test_nobody_is_called_after_close(rig: MakeRig) -> None:
    """The device is gone: a late run of a queue finds nobody."""
    r = rig(Upper())
    r.model.close()
    r.offer(Descriptor(DATA, 1), Descriptor(DATA, 1, WRITE))
    assert r.ring.used_idx == 0
