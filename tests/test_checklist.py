"""What do other people's tests ask of a virtio-blk device? Their checklist, a line a test, each on a real guest."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit import GuestError, Machine, UsageError
from labkit.abi import (
    CONFIG_MSIX,
    CONFIG_NO_MSIX,
    NO_VECTOR,
    NUMBERS,
    SECTOR_BYTES,
    BlkStatus,
    BlkType,
    Feature,
    Register,
    Status,
)

Boot = Callable[..., Machine]
DISK_BYTES = 16 << 20
EVERYTHING = 0xFFFFFFFF
ISR_QUEUE, ISR_CONFIG = NUMBERS["ISR_QUEUE"], NUMBERS["ISR_CONFIG"]
VECTOR_CONTROL = NUMBERS["MSIX_ENTRY_CONTROL"]
PENDING_BITS = NUMBERS["GPA_MSIX_BAR"] + NUMBERS["MSIX_PBA_OFFSET"]


def port(vm: Machine, register: int) -> int:
    """The port of a register of BAR0."""
    return vm.proxy.notify_base + register


def capacity(vm: Machine) -> int:
    """What the guest reads in the device's config, in sectors."""
    at = port(vm, CONFIG_MSIX if vm.proxy.msix.enabled else CONFIG_NO_MSIX)
    return vm.guest.port_in(at, 4) | vm.guest.port_in(at + 4, 4) << 32


def add_and_kick(vm: Machine, **request: int | bool) -> int:
    """A request, published and kicked for. Returns its head."""
    added = vm.guest.add(**request)
    vm.guest.publish()
    vm.guest.kick()
    return added.head


# -- qtest: virtio-blk -------------------------------------------------------------------------------------------------


def test_basic(boot: Boot) -> None:
    """basic: write, read back, status 0, used id = head."""
    vm = boot("blk")
    added = vm.guest.add(BlkType.OUT, sector=1)
    vm.memory.write(added.buffer_gpa, b"TEST".ljust(SECTOR_BYTES, b"\0"))
    vm.guest.publish()
    vm.guest.kick()
    written = vm.guest.wait()
    assert (written.head, written.status, written.used_len) == (added.head, BlkStatus.OK, 1)

    added = vm.guest.add(BlkType.IN, sector=1)
    vm.memory.write(added.buffer_gpa, b"\xff" * SECTOR_BYTES)
    vm.guest.publish()
    vm.guest.kick()
    read = vm.guest.wait()
    assert (read.head, read.status, read.used_len) == (added.head, BlkStatus.OK, SECTOR_BYTES + 1)
    assert vm.memory.read(added.buffer_gpa, SECTOR_BYTES) == b"TEST".ljust(SECTOR_BYTES, b"\0")


@pytest.mark.parametrize("type", [BlkType.IN, BlkType.OUT, BlkType.FLUSH])
def test_indirect(boot: Boot, type: BlkType) -> None:
    """indirect: the same request from a table of its own, used id = head."""
    vm = boot("blk")
    added = vm.guest.add(type, sector=0, indirect=True)
    flags = vm.memory.u16(vm.proxy.device.vq[0].desc + 16 * added.head + 12)
    assert flags == NUMBERS["DESC_INDIRECT"]
    vm.guest.publish()
    vm.guest.kick()
    done = vm.guest.wait()
    assert (done.head, done.status) == (added.head, BlkStatus.OK)
    if type is BlkType.IN:
        assert vm.memory.read(added.buffer_gpa, 6) == b"labkit"
    assert vm.guest.read(0), "and a slot is used directly again"


def test_indirect_only_when_accepted(boot: Boot) -> None:
    """indirect, not accepted: the driver refuses to build what the device would break over."""
    vm = boot("blk", bring_up=False)
    vm.guest.negotiate(features=EVERYTHING & ~Feature.INDIRECT_DESC, driver_ok=True)
    with pytest.raises(GuestError, match="NO_FEATURE"):
        vm.guest.add(indirect=True)
    assert add_and_kick(vm) == vm.guest.wait().head


@pytest.mark.parametrize("irq", ["msix", "intx", "poll"])
@pytest.mark.parametrize("size_bytes", [DISK_BYTES * 2, SECTOR_BYTES])
def test_config(boot: Boot, irq: str, size_bytes: int) -> None:
    """config: a resize raises ISR bit 1 (and bit 0 with it), and the guest reads the new capacity."""
    vm = boot("blk", irq=irq)
    assert (capacity(vm), vm.guest.port_in(port(vm, Register.ISR), 1)) == (DISK_BYTES // SECTOR_BYTES, 0)
    vm.resize_disk(size_bytes)
    assert vm.guest.port_in(port(vm, Register.ISR), 1) == ISR_QUEUE | ISR_CONFIG
    assert vm.guest.port_in(port(vm, Register.ISR), 1) == 0
    assert capacity(vm) == size_bytes // SECTOR_BYTES
    way = {"msix": "msix", "intx": "intx", "poll": "isr"}[irq]
    assert [event["way"] for event in vm.trace.events("config_changed")] == [way]


def test_config_of_a_file(boot: Boot, tmp_path: Path) -> None:
    """config: the file has the new size; what lies beyond the old end reads zero, and what was cut off is IOERR."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"old!" * (SECTOR_BYTES // 4) * 4)
    vm = boot("blk", disk=path, writable=True)
    vm.resize_disk(8 * SECTOR_BYTES)
    assert vm.guest.read(3, 2) == b"old!" * (SECTOR_BYTES // 4) + bytes(SECTOR_BYTES)
    vm.resize_disk(2 * SECTOR_BYTES)
    assert path.stat().st_size == 2 * SECTOR_BYTES
    with pytest.raises(GuestError, match="IOERR"):
        vm.guest.read(3)


def test_config_and_a_request_in_the_ring(boot: Boot) -> None:
    """config: a request that was published before the disk ended in front of it gets IOERR."""
    vm = boot("blk", ioeventfd=False)  # no synthetic kick either
    vm.guest.add(sector=DISK_BYTES // SECTOR_BYTES - 1)
    vm.guest.publish()
    vm.resize_disk(DISK_BYTES - SECTOR_BYTES)
    vm.guest.kick()
    assert vm.guest.wait().status == BlkStatus.IOERR


def test_config_without_a_driver(boot: Boot) -> None:
    """config: before DRIVER_OK there is nobody to interrupt; the capacity is there all the same, running or paused."""
    vm = boot("blk", bring_up=False)
    vm.pause()
    vm.resize_disk(SECTOR_BYTES)
    vm.resume()
    assert (vm.guest.port_in(port(vm, Register.ISR), 1), capacity(vm)) == (0, 1)
    assert vm.trace.events("config_changed") == []


@pytest.mark.parametrize("size_bytes", [0, -512, 511, 513, 512.0, True, (1 << 41) + 512])
def test_config_that_cannot_be(boot: Boot, size_bytes: int) -> None:
    """config: no whole number of sectors, none at all, or too many: the caller's fault, and nothing changes."""
    vm = boot("blk")
    with pytest.raises(UsageError, match="disk"):
        vm.resize_disk(size_bytes)
    assert (capacity(vm), vm.trace.events("config_changed")) == (DISK_BYTES // SECTOR_BYTES, [])


def test_config_of_what_cannot_be_resized(boot: Boot, tmp_path: Path) -> None:
    """config: a read-only disk keeps its size, and a device without a disk says so."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SECTOR_BYTES))
    with pytest.raises(UsageError, match="writable=True"):
        boot("blk", disk=path).resize_disk(2 * SECTOR_BYTES)
    assert path.stat().st_size == SECTOR_BYTES
    with pytest.raises(UsageError, match="virtio-null has no disk"):
        boot("null").resize_disk(SECTOR_BYTES)


def test_msix(boot: Boot) -> None:
    """msix: a completion arrives on the queue's own vector and a config change on the config vector."""
    vm = boot("blk")
    assert (vm.proxy.config_vector, vm.proxy.queues[0].vector) == (0, 1)
    for vector in (0, 1):  # masked, each pending bit shows by itself what was raised
        vm.guest.store(NUMBERS["GPA_MSIX_BAR"] + vector * NUMBERS["MSIX_ENTRY_BYTES"] + VECTOR_CONTROL, 4, 1)
    vm.resize_disk(SECTOR_BYTES)
    assert vm.guest.load(PENDING_BITS, 4) == 0b01
    add_and_kick(vm)
    vm.guest.wait()
    vm.pause()  # the iothread is done with the interrupt too
    vm.resume()
    assert vm.guest.load(PENDING_BITS, 4) == 0b11
    assert [(event["vector"], event["way"]) for event in vm.trace.events("config_changed", "interrupt")] == [
        (0, "masked"),
        (1, "masked"),
    ]


def test_msix_vectors_that_do_not_exist(boot: Boot) -> None:
    """msix: a vector register reads back what was written, or NO_VECTOR where the device has no such vector."""
    vm = boot("blk")
    for register in (Register.MSI_CONFIG_VECTOR, Register.MSI_QUEUE_VECTOR):
        for vector, expected in ((1, 1), (NUMBERS["BLK_VECTORS"], NO_VECTOR), (0, 0), (NO_VECTOR, NO_VECTOR)):
            vm.guest.port_out(port(vm, register), 2, vector)
            assert vm.guest.port_in(port(vm, register), 2) == expected


def test_intx(boot: Boot) -> None:
    """intx: without MSI-X a completion sets ISR bit 0 and raises the line; the read of ISR clears and lowers it."""
    vm = boot("blk", irq="intx", ioeventfd=False)
    add_and_kick(vm)
    vm.guest.wait()
    assert vm.guest.port_in(port(vm, Register.ISR), 1) == ISR_QUEUE
    assert vm.guest.port_in(port(vm, Register.ISR), 1) == 0
    assert [event["level"] for event in vm.trace.events("intx")] == [1, 0]


@pytest.fixture
def event_idx(boot: Boot) -> Machine:
    """A machine whose disk offers EVENT_IDX, accepted without NOTIFY_ON_EMPTY; every kick traps."""
    vm = boot("blk", bring_up=False, ioeventfd=False, revision="today")
    accepted = vm.guest.negotiate(features=EVERYTHING & ~Feature.NOTIFY_ON_EMPTY, driver_ok=True).accepted
    assert accepted & Feature.EVENT_IDX
    return vm


def test_idx(event_idx: Machine) -> None:
    """idx: with used_event = 2 the second completion is silent, the third interrupts."""
    vm, vq = event_idx, event_idx.proxy.device.vq[0]
    used_event = vq.avail + 4 + 2 * vq.num
    for completion, interrupts in ((1, 1), (2, 1), (3, 2)):
        add_and_kick(vm)
        assert vm.proxy.queues[0].used_idx == completion
        assert len(vm.trace.events("interrupt")) == interrupts
        vm.memory.write(used_event, struct.pack("<H", 2))
    assert vm.guest.wait(completions=3).reaped == 3


def test_idx_asks_for_each_kick(event_idx: Machine) -> None:
    """idx: the device asks for the next kick when it has emptied the ring, and for none it does not need."""
    vm = event_idx
    for _ in range(3):
        vm.guest.add()
        assert vm.guest.publish() is True
        vm.guest.add()
        assert vm.guest.publish() is False, "it was asked for one, and will look at both"
        vm.guest.kick()
        assert vm.guest.wait(completions=2).reaped == 2


@pytest.mark.parametrize("suppress", [0, 1])
@pytest.mark.parametrize("accepted", [EVERYTHING, EVERYTHING & ~Feature.EVENT_IDX])
def test_idx_under_load(boot: Boot, suppress: int, accepted: int) -> None:
    """idx: two vCPUs that kick only when asked, beside the iothread: no request is left behind."""
    vm = boot("blk", bring_up=False, vcpus=2, revision="today")
    vm.proxy.device.suppress = suppress
    vm.guest.negotiate(features=accepted, driver_ok=True)
    storm = vm.guest.storm(1000, depth=4, timeout_s=60)
    assert (storm.requests, storm.errors) == (1000, 0)


def test_nxvirtq(boot: Boot) -> None:
    """nxvirtq: a PFN on a missing queue must not crash; it is not taken, and the guest goes on."""
    vm = boot("blk")
    for queue in (1, 63):
        vm.guest.port_out(port(vm, Register.QUEUE_SEL), 2, queue)
        assert vm.guest.port_in(port(vm, Register.QUEUE_NUM), 2) == 0
        vm.guest.port_out(port(vm, Register.QUEUE_PFN), 4, 1)
        assert vm.guest.port_in(port(vm, Register.QUEUE_PFN), 4) == 0
        vm.guest.kick(queue)
    assert vm.guest.read(0).startswith(b"labkit")


def test_hotplug(boot: Boot) -> None:
    """hotplug: pulled out, the slot is empty; put back, the driver finds the device and reads."""
    vm = boot("blk")
    assert vm.guest.read(0).startswith(b"labkit")
    vm.unplug()
    with pytest.raises(GuestError, match="NO_DEVICE"):
        vm.guest.negotiate()
    vm.plug()
    vm.guest.negotiate(driver_ok=True)
    assert vm.guest.read(0).startswith(b"labkit")


# -- libqos, scsi ------------------------------------------------------------------------------------------------------


def test_status_reads_back(boot: Boot) -> None:
    """libqos: STATUS reads 0 after a reset; 1, 3, 7 read back."""
    vm = boot("blk", bring_up=False)
    vm.guest.port_out(port(vm, Register.STATUS), 1, 0)
    assert vm.guest.port_in(port(vm, Register.STATUS), 1) == 0
    for status in (1, 3, 7):
        vm.guest.port_out(port(vm, Register.STATUS), 1, status)
        assert vm.guest.port_in(port(vm, Register.STATUS), 1) == status
    vm.guest.port_out(port(vm, Register.STATUS), 1, 0)
    assert (vm.guest.port_in(port(vm, Register.STATUS), 1), vm.proxy.status) == (0, Status(0))


def test_queue_size_is_a_power_of_two(boot: Boot) -> None:
    """libqos: the size of each queue that exists is a power of two."""
    vm = boot("blk", bring_up=False)
    vm.guest.port_out(port(vm, Register.QUEUE_SEL), 2, 0)
    num = vm.guest.port_in(port(vm, Register.QUEUE_NUM), 2)
    assert num == NUMBERS["BLK_QUEUE_SIZE"]
    assert num & (num - 1) == 0


@pytest.mark.parametrize("by_button", [False, True])
def test_avail_idx_that_jumps(boot: Boot, by_button: bool) -> None:
    """scsi: avail.idx jumped by 2 * size: the device is broken until reset, and a reset, of either kind, recovers."""
    vm = boot("blk", irq="poll")
    vm.guest.read(0)
    queue, vq = vm.proxy.queues[0], vm.proxy.device.vq[0]
    vm.memory.write(vq.avail + 2, struct.pack("<H", queue.last_avail_idx + 2 * queue.num))
    vm.guest.port_out(port(vm, Register.QUEUE_NOTIFY), 4, 0)
    assert [event["reason"] for event in vm.trace.events("broken")] == ["avail_jumped"]
    vm.guest.port_out(port(vm, Register.QUEUE_NOTIFY), 4, 0)
    assert [event["why"] for event in vm.trace.events("kick_ignored")] == ["broken"]
    if by_button:
        vm.reset()
    else:
        assert vm.guest.reset_device() == 0
    vm.guest.negotiate(driver_ok=True)
    assert (len(vm.guest.read(0)), vm.proxy.device.broken) == (SECTOR_BYTES, 0)
