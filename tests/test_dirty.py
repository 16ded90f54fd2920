"""Is every page that was written told? Whatever writes: the guest, the device by each path, the host."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from frames import arp_request, read_arp
from rings import DATA, HEADERS, INDIRECT, MEMORY_BYTES, TABLES, UNTOUCHED, WRITE, Descriptor, Rig, chained

import labkit
from labkit import HostError, Machine, UsageError
from labkit.abi import GPA_BUFFERS, NUMBERS, BlkType, Feature
from labkit.dirty import PAGE_BYTES
from labkit.native import ffi, lib
from labkit.virtio.devices.chain import DeviceQueue

Boot = Callable[..., Machine]
EVERYTHING = 0xFFFFFFFF
INPUT, OUTPUT = NUMBERS["CONSOLE_INPUT"], NUMBERS["CONSOLE_OUTPUT"]
MAC = "52:54:00:12:34:56"
SECTORS = 128  # of one request: 16 pages
ROUNDS = 20


def differing(before: bytes, after: bytes) -> set[int]:
    """Indices of the pages that are not the same."""
    starts = range(0, len(before), PAGE_BYTES)
    return {at // PAGE_BYTES for at in starts if before[at : at + PAGE_BYTES] != after[at : at + PAGE_BYTES]}


def ram(vm: Machine) -> bytes:
    """All of it."""
    return vm.memory.read(0, vm.memory.size_bytes)


def written_by(vm: Machine, activity: Callable[[Machine], object]) -> tuple[set[int], set[int]]:
    """What it wrote, and what was told of that. The machine is paused then."""
    dirty = vm._board.dirty
    vm.pause()
    dirty.track(True)
    before = ram(vm)
    vm.resume()
    activity(vm)
    vm.pause()
    return differing(before, ram(vm)), set(dirty.take())


# -- a machine ---------------------------------------------------------------------------------------------------------


class Upper(labkit.Device):
    """Answers what it is sent, in capitals."""

    queue_sizes = (64,)

    def handle(self, queue: DeviceQueue) -> None:
        """One answer a chain."""
        for chain in queue:
            queue.push(chain, chain.read().upper())


def read(vm: Machine) -> None:
    """Several pages of a buffer."""
    vm.guest.read(0, SECTORS)


def write(vm: Machine) -> None:
    """Only a status byte comes back."""
    vm.guest.write(0, bytes(512))


def storm(vm: Machine) -> None:
    """As many at once as it may."""
    vm.guest.storm(200, 16)


def storm_by_backend(vm: Machine) -> None:
    """The same, served by a backend, whose queue is taken back at the pause."""
    vm.hand_over()
    vm.guest.storm(200, 16)


def read_without_event_idx(vm: Machine) -> None:
    """The device writes used.flags instead."""
    vm.guest.negotiate(features=EVERYTHING & ~Feature.EVENT_IDX, driver_ok=True)
    vm.guest.read(0)


def reset_and_read(vm: Machine) -> None:
    """The guest's image is loaded anew."""
    vm.reset()
    vm.guest.read(0)


def left_unfinished(vm: Machine) -> None:
    """More than a slow disk has served when the pause comes."""
    for _ in range(4):
        vm.guest.add(BlkType.IN, bytes=SECTORS * 512)
    vm.guest.publish()
    vm.guest.kick()


def talk(vm: Machine) -> None:
    """Both ways."""
    vm.guest.exchange(b"out", queue=OUTPUT)
    added = vm.guest.add_buffers(INPUT, receive_bytes=10 * PAGE_BYTES)
    vm.guest.publish(INPUT)
    vm.guest.kick(INPUT)
    vm.terminal.send(b"x" * (2 * PAGE_BYTES))
    assert vm.guest.wait(INPUT).head == added.head


def write_from_host(vm: Machine) -> None:
    """Across the border of two pages."""
    vm.memory.write(GPA_BUFFERS + PAGE_BYTES - 2, b"host")


def store(vm: Machine) -> None:
    """One of the guest's own."""
    vm.guest.store(GPA_BUFFERS + 5 * PAGE_BYTES, 8, 0x1234)


def ask_upper(vm: Machine) -> None:
    """An answer of several pages."""
    vm.guest.exchange(b"x" * (3 * PAGE_BYTES), receive=3 * PAGE_BYTES)


ACTIVITIES: dict[str, tuple[Callable[[Machine], None], dict[str, Any]]] = {
    "reads by msix": (read, {}),
    "reads by poll": (read, {"irq": "poll"}),
    "reads by intx": (read, {"irq": "intx"}),
    "reads by trap": (read, {"ioeventfd": False}),
    "reads without event_idx": (read_without_event_idx, {}),
    "writes": (write, {}),
    "storm": (storm, {}),
    "storm of two vCPUs": (storm, {"vcpus": 2}),
    "storm with a backend": (storm_by_backend, {"ioeventfd": True}),
    "an unfinished run": (left_unfinished, {"delay_ns": 1_000_000}),
    "reset": (reset_and_read, {}),
    "store": (store, {}),
    "host": (write_from_host, {}),
    "console": (talk, {"device": "console"}),
    "python": (ask_upper, {"device": Upper()}),
}


@pytest.mark.parametrize("name", ACTIVITIES)
def test_what_was_written_is_told(boot: Boot, name: str) -> None:
    """Of all of RAM no page differs that is not told; not everything is told; and what was told once is not again."""
    activity, options = ACTIVITIES[name]
    vm = boot(**options)
    if vm.proxy.device.blk.fd >= 0:
        fill_disk(vm)
    changed, told = written_by(vm, activity)
    assert changed
    assert changed - told == set()
    assert len(told) < vm._board.dirty.count / 4
    assert not vm._board.dirty.take()


def fill_disk(vm: Machine) -> None:
    """With ones, through the guest: what is read then is not what was in memory."""
    vm.guest.write(0, b"\1" * (SECTORS * 512))
    vm.memory.write(GPA_BUFFERS, bytes(1 << 20))


def test_frames_for_the_guest_are_told(boot: Boot) -> None:
    """A frame that the iothread gives to the guest marks the rx buffer and the ring."""
    near, far = labkit.link()
    cable = near.plug()
    with closing(cable), socket.socket(fileno=os.dup(cable.fd)) as peer:
        peer.settimeout(60)
        vm = boot("net", kernel=labkit.guest_image("ping"), net=far, mac=MAC, cmdline="ip=10.0.2.15")

        def ask(_: Machine) -> None:
            peer.send(arp_request(bytes.fromhex("525400000002"), "10.0.2.2", "10.0.2.15"))
            while not read_arp(peer.recv(4096)):
                pass

        ask(vm)
        changed, told = written_by(vm, ask)
        assert changed
        assert changed - told == set()
        assert len(told) < vm._board.dirty.count / 4


@pytest.mark.parametrize("backend", [False, True])
def test_rounds_of_dirty_pages_make_a_copy(boot: Boot, backend: bool) -> None:
    """Everything once, then in rounds what was written meanwhile, then the rest: a copy of a machine at work."""
    vm = boot("blk", ioeventfd=True, irq="poll")
    fill_disk(vm)
    if backend:
        vm.hand_over()
    dirty, over = vm._board.dirty, threading.Event()
    dirty.track(True)
    copy = bytearray(dirty.copy(range(dirty.count)))

    def work() -> None:
        while not over.is_set():
            vm.guest.storm(200, 16)

    def one_round() -> None:
        pages = dirty.take()
        contents = dirty.copy(pages)
        for n, page in enumerate(pages):
            copy[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = contents[n * PAGE_BYTES : (n + 1) * PAGE_BYTES]

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(ROUNDS):
        one_round()
    over.set()
    thread.join()
    vm.pause()
    one_round()
    assert differing(copy, ram(vm)) == set()


def test_what_is_put_back_is_as_it_was(boot: Boot) -> None:
    """The told pages are all it takes to have RAM back; that makes nothing dirty, and can be done again."""
    vm = boot("blk")
    fill_disk(vm)
    vm.pause()
    before = ram(vm)
    for _ in range(2):
        _, told = written_by(vm, write_from_host)
        assert told
        vm._board.dirty.put_back(sorted(told), before)
        assert ram(vm) == before
        assert not vm._board.dirty.take()


def test_tracking_begins_with_nothing_and_ends(boot: Boot) -> None:
    """Off at first; to begin again is to forget; after the end there is no answer."""
    vm = boot("blk")
    dirty = vm._board.dirty
    with pytest.raises(UsageError, match="track"):
        dirty.take()
    for _ in range(2):
        dirty.track(True)
        vm.guest.read(0)
        vm.pause()
        dirty.track(True)
        assert not dirty.take()
        vm.resume()
    dirty.track(False)
    assert not dirty.on
    with pytest.raises(UsageError, match="track"):
        dirty.take()


def test_pages_outside_are_refused(boot: Boot) -> None:
    """A page that is not there, an image of another size, a closed machine: UsageError, and nothing is copied."""
    vm = boot("blk")
    vm.pause()
    dirty, image = vm._board.dirty, ram(vm)
    for pages in ([dirty.count], [0, 1 << 31], [-1], [1 << 32], ["x"]):
        with pytest.raises(UsageError):
            dirty.copy(pages)
        with pytest.raises(UsageError):
            dirty.put_back(pages, bytes(len(image)))
    with pytest.raises(UsageError, match="image"):
        dirty.put_back([0], image[:-1])
    assert ram(vm) == image
    dirty.track(True)
    vm.close()
    for call in (dirty.take, lambda: dirty.track(True), lambda: dirty.copy([0]), lambda: dirty.put_back([0], image)):
        with pytest.raises(UsageError):
            call()


@pytest.mark.emulated
def test_a_page_written_and_written_back_is_copied_as_compared(boot: Boot) -> None:
    """Between two looks that see the same nothing else can be copied: no look would tell of what stood there."""
    vm = boot("blk")
    vm.pause()
    dirty, page = vm._board.dirty, GPA_BUFFERS // PAGE_BYTES
    before = vm.memory.read(GPA_BUFFERS, PAGE_BYTES)
    dirty.track(True)
    os.pwrite(vm.memory.fd, b"for a moment", GPA_BUFFERS)
    assert dirty.copy([page]) == before
    os.pwrite(vm.memory.fd, before, GPA_BUFFERS)
    assert not dirty.take()
    os.pwrite(vm.memory.fd, b"for good", GPA_BUFFERS)
    assert list(dirty.take()) == [page]
    assert dirty.copy([page]) == vm.memory.read(GPA_BUFFERS, PAGE_BYTES)


@pytest.mark.kvm
def test_a_log_that_kvm_refuses_is_not_half_on(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    """HostError names the ioctl, and nothing is tracked."""
    vm = boot("blk")
    monkeypatch.setattr(vm._board.cpu, "_region", ffi.new("struct kvm_userspace_memory_region *", {"memory_size": 1}))
    with pytest.raises(HostError, match="KVM_SET_USER_MEMORY_REGION"):
        vm._board.dirty.track(True)
    assert not vm._board.dirty.on


# -- the device alone: what the core marks, with no CPU that could find it by itself -----------------------------------


@pytest.fixture
def rig(leaves_nothing: None) -> Iterator[Rig]:  # noqa: ARG001 - ordered around this one
    """A RAM disk full of ones behind a large queue, whose used ring has more than two pages."""
    with closing(Rig(num=NUMBERS["QUEUE_SIZE_MAX"])) as rig:
        os.pwrite(rig.device.blk.fd, b"\1" * (16 * PAGE_BYTES), 0)
        assert not lib.lk_dirty_track(rig.memory.native, True)
        yield rig


def written_in(rig: Rig, activity: Callable[[], object]) -> tuple[set[int], set[int]]:
    """What it wrote, and what the core has marked."""
    pages = ffi.new("uint32_t[]", MEMORY_BYTES // PAGE_BYTES)
    lib.lk_dirty_take(rig.memory.native, ffi.NULL, pages)
    before = rig.memory.read(0, MEMORY_BYTES)
    activity()
    told = set(pages[0 : lib.lk_dirty_take(rig.memory.native, ffi.NULL, pages)])
    return differing(before, rig.memory.read(0, MEMORY_BYTES)), told


def pages_at(*addresses: int) -> set[int]:
    """The pages of these addresses."""
    return {gpa // PAGE_BYTES for gpa in addresses}


def test_a_read_marks_its_buffer_its_status_and_the_used_ring(rig: Rig) -> None:
    """And nothing else: not the header, nor the tables of the driver."""
    rig.ring.publish(rig.request(BlkType.IN, size=2 * PAGE_BYTES))
    changed, told = written_in(rig, rig.run)
    assert changed == told == pages_at(DATA, DATA + PAGE_BYTES, HEADERS, rig.ring.used)


def test_a_write_marks_what_comes_back(rig: Rig) -> None:
    """What the device only reads stays clean."""
    rig.ring.publish(rig.request(BlkType.OUT))
    changed, told = written_in(rig, rig.run)
    assert changed == told == pages_at(HEADERS, rig.ring.used)


def test_scattered_and_indirect_buffers_are_marked(rig: Rig) -> None:
    """Cut anywhere, the status byte in the last of them: each part of the chain by itself."""
    rig.accept(Feature.INDIRECT_DESC)
    first, second, third = (DATA + n * PAGE_BYTES for n in (0, 5, 9))
    parts = [
        rig.header(0, BlkType.IN),
        Descriptor(first + 100, 24, WRITE),
        Descriptor(second - 8, 1000, WRITE),
        Descriptor(third - 512, 513, WRITE),
    ]
    table = b"".join(part.packed() for part in chained(parts))
    rig.memory.write(TABLES, table)
    rig.ring.put([Descriptor(TABLES, len(table), INDIRECT)])
    rig.ring.publish(0)
    changed, told = written_in(rig, rig.run)
    assert told == pages_at(first, second - 1, second, third - 1, third, rig.ring.used)
    assert changed <= told


def test_a_read_that_fails_half_way_is_marked(rig: Rig) -> None:
    """The image is shorter than it said: what came before the end is in the buffer, and told."""
    os.ftruncate(rig.device.blk.fd, PAGE_BYTES)
    rig.ring.publish(rig.request(BlkType.IN, size=2 * PAGE_BYTES))
    changed, told = written_in(rig, rig.run)
    assert rig.status() != UNTOUCHED
    assert pages_at(DATA) <= changed <= told


def test_the_wish_for_kicks_is_marked_alone(rig: Rig) -> None:
    """A run that finds nothing writes avail_event, two pages behind the used ring's head, and nothing else."""
    rig.accept(Feature.EVENT_IDX)
    rig.memory.write(avail_event_at(rig), b"\xff\xff")
    changed, told = written_in(rig, rig.run)
    assert changed == told == pages_at(avail_event_at(rig))


def avail_event_at(rig: Rig) -> int:
    """Behind the used ring."""
    return rig.ring.used + 4 + 8 * rig.ring.num


def test_the_older_wish_is_marked_too(rig: Rig) -> None:
    """Without EVENT_IDX a device that suppresses kicks writes used.flags."""
    rig.device.suppress = 1
    rig.memory.write(rig.ring.used, b"\1")
    changed, told = written_in(rig, rig.run)
    assert changed == told == pages_at(rig.ring.used)


def test_a_used_entry_is_marked_where_it_stands(rig: Rig) -> None:
    """used.idx is in the first page of the ring, the entry may be in another."""
    at = PAGE_BYTES // 8 + 1
    rig.vq.last_avail = rig.vq.used_idx = rig.ring.idx = at
    rig.ring.publish(rig.request(BlkType.FLUSH, size=0))
    changed, told = written_in(rig, rig.run)
    assert changed == told == pages_at(HEADERS, rig.ring.used, rig.ring.used + 4 + 8 * at)


@pytest.mark.parametrize(
    ("gpa", "size"), [(0, 1), (PAGE_BYTES - 1, 2), (60 * PAGE_BYTES, 10 * PAGE_BYTES), (0, MEMORY_BYTES), (5, 0)]
)
def test_a_range_marks_the_pages_it_touches(rig: Rig, gpa: int, size: int) -> None:
    """Across a border, across a word of the bitmap, all of memory, nothing."""
    _, told = written_in(rig, lambda: rig.memory.write(gpa, b"x" * size))
    assert told == {at // PAGE_BYTES for at in range(gpa, gpa + size)}


def test_nothing_is_marked_while_nobody_tracks(rig: Rig) -> None:
    """Off means off, and on again begins anew."""
    lib.lk_dirty_track(rig.memory.native, False)
    assert written_in(rig, lambda: rig.memory.write(0, b"x"))[1] == set()
    lib.lk_dirty_track(rig.memory.native, True)
    assert written_in(rig, lambda: None)[1] == set()
