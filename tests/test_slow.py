"""Does a slow disk differ from a fast one in nothing but time, and does a stop get past it?"""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pausing import storm_while_paused
from rings import SECTOR, Rig

import labkit
from labkit import Machine, UsageError
from labkit.abi import BlkStatus, BlkType
from labkit.trace.events import Run
from labkit.virtio.backends.image import ram_disk
from labkit.virtio.backends.slow import DELAY_MAX_NS, Slow

Boot = Callable[..., Machine]
DELAY_NS = 2_000_000


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk of 64 sectors; sector n begins with its number."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(struct.pack("<Q", n).ljust(SECTOR, b"\x5a") for n in range(64)))
    return path


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A slow RAM disk behind a queue of 16, without a machine: this thread runs the queue."""
    rig = Rig(num=16, image=Slow(ram_disk(), DELAY_NS))
    yield rig
    rig.close()


def sleeps(work: Callable[[], object]) -> int:
    """How often this thread went to sleep of its own will."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    work()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before


# -- the back end ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("leaves_nothing")
def test_each_read_and_write_is_delayed_and_nothing_else(rig: Rig) -> None:
    """Whoever runs the queue sleeps once a data request; FLUSH, GET_ID and a request beyond the end do not sleep."""
    data = [rig.request(BlkType.IN, 1), rig.request(BlkType.OUT, 2, slot=1), rig.request(BlkType.IN, 3, slot=2)]
    assert sleeps(lambda: rig.serve(*data)) == len(data)
    other = [
        rig.request(BlkType.GET_ID, size=20),
        rig.request(BlkType.FLUSH, size=0, slot=2),
        rig.request(BlkType.IN, rig.image.sectors, slot=1),
    ]
    assert sleeps(lambda: rig.serve(*other)) == 0
    assert [rig.status(slot) for slot in range(3)] == [BlkStatus.OK, BlkStatus.IOERR, BlkStatus.OK]


@pytest.mark.usefixtures("leaves_nothing")
def test_each_request_is_told_of(rig: Rig) -> None:
    """A slow disk interrupts after each request: a driver that halts need not wait for the next one's delay."""
    rig.serve(*(rig.request(slot=slot) for slot in range(4)))
    assert (rig.ring.used_idx, rig.vq.interrupts) == (4, 4)


@pytest.mark.usefixtures("leaves_nothing")
def test_a_run_in_a_hurry_leaves_the_rest(rig: Rig) -> None:
    """Somebody waits for the big lock to stop the machine: one request is served, the next run does the rest."""
    rig.device.hurry = 1
    rig.serve(*(rig.request(slot=slot) for slot in range(4)))
    assert (rig.ring.used_idx, rig.vq.unfinished) == (1, 1)
    rig.device.hurry = 0
    assert rig.run(Run.RESUME) == 1
    assert (rig.ring.used_idx, rig.vq.unfinished) == (4, 0)


@pytest.mark.usefixtures("leaves_nothing")
def test_a_fast_disk_knows_no_hurry() -> None:
    """R5 drains a queue whole; only a device that takes its time is cut short by one who waits."""
    rig = Rig(num=16)
    rig.device.hurry = 1
    rig.serve(*(rig.request(slot=slot) for slot in range(4)))
    assert (rig.ring.used_idx, rig.vq.unfinished) == (4, 0)
    rig.close()


@pytest.mark.usefixtures("leaves_nothing")
def test_the_image_changes_hands() -> None:
    """Slow closes what it was given; the image it was made of holds nothing any more."""
    inner = ram_disk()
    slow = Slow(inner, 1)
    assert (slow.sectors, slow.writable, slow.name, slow.delay_ns) == (inner.sectors, True, "RAM disk", 1)
    inner.close()
    assert os.pread(slow.fd, 6, 0) == b"labkit"
    slow.close()
    assert slow.fd == -1


@pytest.mark.parametrize("delay_ns", [-1, DELAY_MAX_NS + 1, 1.5, "1", True])
@pytest.mark.usefixtures("leaves_nothing")
def test_a_delay_has_bounds(delay_ns: object, image: Path) -> None:
    """From nothing to one second, in whole nanoseconds; all else is the caller's mistake, and no file stays open."""
    with pytest.raises(UsageError, match="delay_ns"):
        labkit.boot("blk", disk=image, delay_ns=delay_ns)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="delay_ns"):
        labkit.boot("null", delay_ns=1)


# -- in a machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ioeventfd", [True, False])
def test_a_delay_changes_no_data(boot: Boot, image: Path, ioeventfd: bool) -> None:
    """What the guest reads and writes is as on a fast disk."""
    before = image.read_bytes()
    vm = boot("blk", disk=image, writable=True, ioeventfd=ioeventfd, delay_ns=1000)
    assert vm.guest.read(5, 3) == before[5 * SECTOR : 8 * SECTOR]
    vm.guest.write(9, b"w" * SECTOR)
    assert image.read_bytes() == before[: 9 * SECTOR] + b"w" * SECTOR + before[10 * SECTOR :]


def test_a_view_tells_of_the_delay(boot: Boot) -> None:
    """A slow disk is not mistaken for a slow lab; one without delay says nothing."""
    assert "virtio-blk, each request 100 us longer" in repr(boot("blk", delay_ns=100_000))
    assert "longer" not in repr(boot("blk", delay_ns=0))


def stop_in_the_middle(vm: Machine, stop: Callable[[], None]) -> None:
    """Publish ten requests and kick; the owner waits for the big lock before any of them is served."""
    for sector in range(10):
        vm.guest.add(sector=sector)
    vm.guest.publish()
    board = vm._board
    with board.locked():
        vm.guest.kick()
        board.owner.submit(stop)
        while not board.device.hurry:
            os.sched_yield()


def test_a_pause_waits_for_one_request(boot: Boot) -> None:
    """Whether iothread or owner gets the lock first, one request is served; a resume brings the other nine."""
    vm = boot("blk", delay_ns=DELAY_NS)
    stop_in_the_middle(vm, vm._board.pause)
    vm.pause()  # does nothing: that it is done shows that the first one is
    vq = vm.proxy.device.vq[0]
    assert (vm.state, vq.requests, vq.unfinished) == ("paused", 1, 1)
    vm.resume()
    assert vm.guest.wait(completions=10).reaped == 10
    assert (vq.requests, vq.unfinished) == (10, 0)


def test_closing_waits_for_one_request(boot: Boot) -> None:
    """Nobody will ask for the rest."""
    vm = boot("blk", delay_ns=DELAY_NS)
    vq = vm.proxy.device.vq[0]
    stop_in_the_middle(vm, vm._board.close)
    vm.close()
    assert (vm.state, vq.requests) == ("closed", 1)


@pytest.mark.parametrize("ioeventfd", [True, False])
def test_pauses_during_a_slow_storm_lose_nothing(boot: Boot, ioeventfd: bool) -> None:
    """Paused and resumed again and again between delays: every request completes, whoever was serving it."""
    vm = boot("blk", vcpus=2, ioeventfd=ioeventfd, delay_ns=100_000)
    vm.guest.storm(10, 1)
    storm = storm_while_paused(vm, 200, depth=8)
    assert (storm.requests, storm.errors) == (200, 0)
    assert vm.proxy.device.vq[0].requests == 210


# -- two vCPUs on one queue --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("think_ns", [0, 50_000])
@pytest.mark.parametrize("ioeventfd", [True, False])
def test_two_vcpus_complete_everything_and_account_for_their_time(boot: Boot, ioeventfd: bool, think_ns: int) -> None:
    """Each vCPU's shares are parts of 1, and the storm's are between theirs."""
    storm = boot("blk", vcpus=2, ioeventfd=ioeventfd, delay_ns=50_000).guest.storm(100, depth=8, think_ns=think_ns)
    assert (storm.requests, storm.errors, storm.vcpus, storm.think_ns) == (100, 0, 2, think_ns)
    assert storm.seconds > 0 and len(storm.shares) == 2
    for share in storm.shares:
        assert all(0 <= part <= 1 for part in share)
        assert sum(share) == pytest.approx(1)
    for whole, parts in (
        (storm.kick_share, [share.kick for share in storm.shares]),
        (storm.lock_share, [share.lock for share in storm.shares]),
    ):
        assert min(parts) <= whole <= max(parts)
    assert storm.kick_share > 0 and storm.lock_share > 0
    assert storm.blocked_share == storm.kick_share + storm.lock_share <= 1
    lost_ns = storm.blocked_share * 2 * storm.seconds * 1e9 / 100
    assert storm.blocked_ns_per_request == pytest.approx(lost_ns)


def test_the_end_of_a_storm_is_read_after_it_was_written(boot: Boot) -> None:
    """A vCPU that is at work when the last request completes takes the same end as all: no storm of no length."""
    vm = boot("blk", vcpus=2)
    for _ in range(30):
        storm = vm.guest.storm(8, depth=4, think_ns=200_000)
        assert 0 < storm.seconds < 60


def test_one_vcpu_waits_for_nobody(boot: Boot) -> None:
    """It takes no lock."""
    storm = boot("blk", delay_ns=1000).guest.storm(20, depth=4)
    (share,) = storm.shares
    assert storm.lock_share == share.lock == 0
    assert 0 < storm.kick_share == share.kick < 1


@pytest.mark.parametrize("think_ns", [-1, 1_000_000_001])
def test_work_between_requests_has_bounds(boot: Boot, think_ns: int) -> None:
    """As long as a second, never less than nothing."""
    with pytest.raises(UsageError, match="think_ns"):
        boot("blk").guest.storm(1, 1, think_ns=think_ns)
