"""Does every kind of machine move: each device, each disk, each way to get there?"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from certificates import folder
from moves import DESTINATIONS, SOURCES, WAIT_S, at, moved
from rulebook import Boot

import labkit
from labkit import HostError, LabkitError, UsageError
from labkit.abi import NUMBERS, SECTOR_BYTES, VCPUS_MAX
from labkit.loader import guest_image
from labkit.migration import destination, source
from labkit.trace.events import Gate
from labkit.virtio.devices.chain import DeviceQueue

Listen = Callable[..., Any]
SECTORS = 64
NET_HEADER_BYTES = NUMBERS["NET_HEADER_BYTES"]
LONG_NS = 50_000_000  # a guest that waits for a disk so slow waits for its interrupt
FIRST = b"first sector of a file".ljust(SECTOR_BYTES, b".")


class Upper(labkit.Device):
    """Answers what it is sent, in capitals."""

    name = "upper"

    def handle(self, queue: DeviceQueue) -> None:
        """One answer a chain."""
        for chain in queue:
            queue.push(chain, chain.read().upper())


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An image of 64 sectors."""
    path = tmp_path / "disk.img"
    path.write_bytes(FIRST + bytes((SECTORS - 1) * SECTOR_BYTES))
    return path


def is_locked(disk: Path) -> bool:
    """Has a machine that may write it the lock?"""
    with open(disk, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


# -- disks -------------------------------------------------------------------------------------------------------------


def test_a_read_only_disk_is_found_by_its_path(boot: Boot, listen: Listen, disk: Path) -> None:
    """On a unix socket, from the same user, its path is believed; both sides have it open for reading."""
    there = moved(boot(disk=disk), listen())
    assert there.guest.read(0) == FIRST
    assert not there.proxy.model.image.writable
    assert not is_locked(disk)


def test_a_writable_disk_is_handed_over_with_its_lock(boot: Boot, listen: Listen, disk: Path) -> None:
    """Nobody else gets it at any gate but while it is nobody's; afterwards the destination has it alone."""
    locked: dict[Gate, bool] = {}

    def look(progress: Any) -> None:
        locked[progress.gate] = is_locked(disk)

    vm = boot(disk=disk, writable=True)
    there = moved(vm, listen(progress=look), progress=look)
    sure = [*SOURCES, *(gate for gate in DESTINATIONS if gate >= Gate.DISK_TAKEN)]  # before, it comes behind its source
    somebodys = [gate for gate in sure if gate not in (Gate.DISK_LET_GO, Gate.STATE_SENT)]
    assert all(locked[gate] for gate in somebodys)
    assert not locked[Gate.DISK_LET_GO]
    there.guest.write(1, b"from there".ljust(SECTOR_BYTES))
    vm.close()
    assert is_locked(disk)
    with pytest.raises(UsageError, match="in use by another machine"):
        labkit.boot(disk=disk)
    there.close()
    assert disk.read_bytes()[SECTOR_BYTES:].startswith(b"from there")


def test_who_takes_the_lock_in_between_gets_no_machine_lost(
    boot: Boot, listen: Listen, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else opens the disk while it is nobody's: neither side runs without it, and the source tells."""
    for side in (source, destination):
        monkeypatch.setattr(side, "LOCK_PATIENCE_S", 0.05)  # a thief does not give it back
    vm, arrival = boot(disk=disk, writable=True), listen()
    with open(disk, "rb") as other:
        take = at(Gate.DISK_LET_GO, lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB))
        with pytest.raises(UsageError, match="in use by another machine"):
            vm.migrate(arrival.address, progress=take)
    assert vm.state == "paused"
    with pytest.raises(UsageError, match="in use by another machine"):
        arrival.machine(WAIT_S)
    vm.resume()
    assert vm.guest.read(0) == FIRST
    assert is_locked(disk)


@pytest.mark.parametrize("writable", [False, True])
def test_another_place_for_the_disk(boot: Boot, listen: Listen, disk: Path, tmp_path: Path, writable: bool) -> None:
    """disk= says where it is there; one of another size is refused."""
    vm, other = boot(disk=disk, writable=writable), tmp_path / "other.img"
    other.write_bytes(bytes((SECTORS + 1) * SECTOR_BYTES))
    with pytest.raises(UsageError, match="65 sectors, the machine's has 64"):
        vm.migrate(listen(disk=other).address)
    assert vm.guest.read(0) == FIRST
    other.write_bytes(b"there".ljust(SECTORS * SECTOR_BYTES, b"."))
    assert moved(vm, listen(disk=other)).guest.read(0).startswith(b"there")


def test_an_image_that_was_resized_moves_as_it_is(boot: Boot, listen: Listen, disk: Path) -> None:
    """Before the move; on the way the two sides disagree, and the source keeps it."""
    vm = boot(disk=disk, writable=True)
    vm.resize_disk(2 * SECTORS * SECTOR_BYTES)
    there = moved(vm, listen())
    assert there.proxy.device.blk.sectors == 2 * SECTORS
    with pytest.raises(UsageError, match="sectors"):
        there.migrate(listen().address, rounds=1, progress=at(Gate.ROUND_SENT, lambda: there.resize_disk(512)))
    assert there.guest.read(0) == FIRST
    assert is_locked(disk)


def test_over_tcp_a_disk_must_be_said(boot: Boot, listen: Listen, disk: Path) -> None:
    """A path from somebody who may be anybody is not opened."""
    vm = boot(disk=disk)
    with pytest.raises(UsageError, match="say where it is here, with disk="):
        vm.migrate(listen("tcp:0").address)
    assert vm.guest.read(0) == FIRST
    assert moved(vm, listen("tcp:0", disk=disk)).guest.read(0) == FIRST


def test_a_path_that_cannot_be_said_is_told_there(boot: Boot, listen: Listen, disk: Path) -> None:
    """A name with odd characters stays at home: whoever receives says where the disk is."""
    odd = disk.rename(disk.with_name("di\nsk\udcff.img"))
    vm = boot(disk=odd)
    with pytest.raises(UsageError, match="say where it is here, with disk="):
        vm.migrate(listen().address)
    assert moved(vm, listen(disk=odd)).guest.read(0) == FIRST


def test_a_disk_for_a_machine_without_one(boot: Boot, listen: Listen, disk: Path) -> None:
    """disk= that fits nothing is refused, and the source runs on."""
    for device, why in (("blk", "RAM disk, which comes along"), ("null", "virtio-null, which has no such thing")):
        vm = boot(device)
        with pytest.raises(UsageError, match=why):
            vm.migrate(listen(disk=disk).address)
        assert vm.state == "running"


@pytest.mark.parametrize("delay_ns", [None, 1000])
def test_a_slow_disk_stays_slow(boot: Boot, listen: Listen, delay_ns: int | None) -> None:
    """delay_ns goes along, and a RAM disk with all that is on it."""
    vm = boot(delay_ns=delay_ns)
    vm.guest.write(9000, b"far".ljust(SECTOR_BYTES))
    there = moved(vm, listen())
    assert there.proxy.model.image.delay_ns == (delay_ns or 0)
    assert there.guest.read(9000).startswith(b"far")
    assert there.guest.read(0).startswith(b"labkit RAM disk")


# -- other devices -----------------------------------------------------------------------------------------------------


def test_a_console_goes_on(boot: Boot, listen: Listen) -> None:
    """What the guest wrote before stays at the old terminal, what it writes now comes at the new one."""
    vm = boot("console")
    vm.guest.exchange(b"before", queue=1)
    there = moved(vm, listen())
    there.guest.exchange(b"after", queue=1)
    assert (vm.terminal.text, there.terminal.text) == ("before", "after")


def test_a_null_device_keeps_its_queues(boot: Boot, listen: Listen) -> None:
    """As many as it had, each with its notifier."""
    there = moved(boot("null", queues=5, ioeventfd=True), listen())
    assert [queue.notifier.owner for queue in there.proxy.queues] == ["vmm"] * 5


def test_a_cable_is_plugged_in_there(boot: Boot, listen: Listen) -> None:
    """net= is the end of a cable at its new place; what the guest sends now comes out there. Its MAC goes along."""
    (old, old_far), (new, new_far) = labkit.link(), labkit.link()
    with old_far:
        vm, peer = boot("net", net=old, mac="52:54:00:00:00:07"), boot("net", net=new_far)
        mac = vm.proxy.model.mac
        peer.guest.add_buffers(0, 0, 2048)
        peer.guest.publish(0)
        peer.guest.kick(0)
        there = moved(vm, listen(net=new))
        there.guest.exchange(bytes(NET_HEADER_BYTES) + b"\xff" * 6 + bytes(54), queue=1)
        assert peer.guest.wait(0).used_len == NET_HEADER_BYTES + 60
        assert there.proxy.model.mac == mac


def test_a_device_of_ones_own(boot: Boot, listen: Listen) -> None:
    """Its code does not go: who receives gives an object of the class; without, or with another, it stays."""
    vm = boot(Upper())
    assert vm.guest.exchange(b"here", 4) == b"HERE"
    with pytest.raises(UsageError, match="say device=, an object of its class"):
        vm.migrate(listen().address)
    with pytest.raises(UsageError, match="the machine has 'upper'"):
        vm.migrate(listen(device=type("Other", (Upper,), {"name": "other"})()).address)
    with pytest.raises(UsageError, match="the machine has a virtio-blk"):
        boot().migrate(listen(device=Upper()).address)
    there = moved(vm, listen(device=Upper()))
    assert there.guest.exchange(b"there", 5) == b"THERE"


# -- machines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("irq", ["msix", "intx", "poll"])
@pytest.mark.parametrize("vcpus", [1, 2, 4, VCPUS_MAX])
def test_vcpus_and_interrupts_go_on(boot: Boot, listen: Listen, irq: str, vcpus: int) -> None:
    """As many as there were, and the driver is told of completions as before."""
    there = moved(boot(irq=irq, vcpus=vcpus, delay_ns=LONG_NS), listen())
    done = there.guest.storm(vcpus, depth=1)
    assert (done.errors, done.vcpus, done.interrupts > 0) == (0, vcpus, irq != "poll")


@pytest.mark.parametrize("memory_mib", [16, 100])
def test_memory_is_as_large(boot: Boot, listen: Listen, memory_mib: int) -> None:
    """All of it, with what stands in its last page."""
    vm = boot(memory_mib=memory_mib)
    vm.memory.write((memory_mib << 20) - 3, b"end")
    there = moved(vm, listen())
    assert there.memory.read((memory_mib << 20) - 3, 3) == b"end"


def test_a_kernel_of_ones_own_goes_on(boot: Boot, listen: Listen) -> None:
    """In the middle of its work, to its end and the right exit code; its ELF goes along, for resets."""
    vm = boot(kernel=guest_image("storm"), cmdline="requests=100 irq=msix", delay_ns=LONG_NS // 5)
    while not vm.proxy.queues[0].used_idx:
        os.sched_yield()
    vm.pause()
    there = moved(vm, listen())
    assert 0 < there.proxy.queues[0].used_idx < 100
    there.resume()
    assert there.wait(WAIT_S) == 1
    assert "storm" in there.console
    there.reset()
    assert there.state == "running"


@pytest.mark.kvm
def test_the_other_back_end_cannot_go_on(boot: Boot, listen: Listen) -> None:
    """Their states have nothing in common."""
    vm = boot(cpu="kvm")
    with pytest.raises(UsageError, match="runs on the back end 'kvm', and cannot go on with cpu='emulated'"):
        vm.migrate(listen(cpu="emulated").address)
    assert vm.guest.read(0)


# -- other ways --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["tcp:0", "tcp:[::1]:0", "tcp:localhost:0"])
def test_by_tcp(boot: Boot, listen: Listen, address: str) -> None:
    """On the loopback, by a port that the kernel chose."""
    assert moved(boot(), listen(address)).guest.read(0).startswith(b"labkit")


def test_by_tls(boot: Boot, listen: Listen, tmp_path: Path) -> None:
    """Both sides show a certificate; without one, or with a stranger's, nothing goes and the source runs on."""
    ours, theirs = trustme.CA(), trustme.CA()
    safe, strange = folder(tmp_path / "safe", ours, ours), folder(tmp_path / "strange", theirs, theirs)
    vm = boot()
    for tls in (None, strange):
        arrival = listen("tcp:0", tls=safe)
        with pytest.raises(LabkitError):
            vm.migrate(arrival.address, tls=tls)
        with pytest.raises(LabkitError):
            arrival.machine(WAIT_S)
        assert vm.guest.read(0)
    there = moved(vm, listen("tcp:0", tls=safe), tls=safe)
    assert there.guest.read(0).startswith(b"labkit")


def test_receive_waits_for_one(boot: Boot, tmp_path: Path) -> None:
    """labkit.receive is listen and wait; the source comes when somebody listens."""
    from concurrent.futures import ThreadPoolExecutor

    vm, address = boot(), f"unix:{tmp_path}/in.sock"
    with ThreadPoolExecutor(1) as beside:
        coming = beside.submit(labkit.receive, address)
        while not os.path.exists(tmp_path / "in.sock"):
            os.sched_yield()
        while True:
            with contextlib.suppress(HostError):  # it is bound, and listens in a moment
                vm.migrate(address)
                break
        with coming.result(WAIT_S) as there:
            assert there.guest.read(0).startswith(b"labkit")
