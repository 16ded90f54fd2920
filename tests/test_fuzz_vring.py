"""Do device and driver agree when they are two processes? This one is the device; tests/fuzz/vring_driver.c the driver.

They share memory, and two eventfds to call each other. Millions of reads, in bursts, through the wrap of the indices;
the content of each is verified, and a kick or a call that got lost shows as a driver that waits in vain.
"""

from __future__ import annotations

import array
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing import PROGRAMS, build, much, report
from rings import MEMORY_BYTES, RING_PFN, Rig

from labkit.abi import SECTOR_BYTES, Feature
from labkit.native import ffi, lib
from labkit.virtio.backends.image import Image

NUM = 128
DISK_SECTORS = 1 << 15
TRANSFERS = much(200_000, 10_000_000)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(much(600, 1800)),
    pytest.mark.usefixtures("leaves_nothing"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver's program."""
    return build(tmp_path_factory.mktemp("vring") / "vring_driver", PROGRAMS / "vring_driver.c")


def numbered_disk() -> Image:
    """A read-only disk whose 8-byte words count up, so that every sector differs from every other."""
    fd = os.memfd_create("labkit-disk", os.MFD_CLOEXEC)
    os.write(fd, array.array("Q", range(DISK_SECTORS * SECTOR_BYTES // 8)).tobytes())
    return Image(fd, DISK_SECTORS * SECTOR_BYTES, writable=False, name="numbers")


class Process:
    """The device in this process, with its iothread; and a driver in another."""

    def __init__(self, driver: Path) -> None:
        self.rig, self.driver = Rig(num=NUM, image=numbered_disk()), driver
        self.kick, self.call = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
        device = self.rig.device
        device.vq[0].notifier_fd, device.vq[0].vector = self.kick, 0
        device.msix_enabled, device.vectors[0].fd, device.vectors[0].masked = 1, self.call, 0
        self.loop = lib.lk_loop_new(self.rig.memory.native)
        assert lib.lk_loop_attach(self.loop, device, 0, self.kick) == 0
        assert lib.lk_loop_start(self.loop, b"iothread") == 0

    def drive(
        self, transfers: int, *, seed: int, indirect: bool, event_idx: bool, suppress: bool
    ) -> subprocess.CompletedProcess[str]:
        """Run the driver to its end; then stop the iothread, and what it was doing is done."""
        rig = self.rig
        rig.accept(*[Feature.INDIRECT_DESC] * indirect, *[Feature.EVENT_IDX] * event_idx)
        rig.device.suppress = suppress
        fds = {"ram": rig.memory.fd, "kick": self.kick, "call": self.call}
        numbers = {"ram-bytes": MEMORY_BYTES, "pfn": RING_PFN, "num": NUM, "sectors": DISK_SECTORS, "seed": seed}
        options = {"transfers": transfers, "indirect": int(indirect), "event-idx": int(event_idx)}
        arguments = [part for name, value in (fds | numbers | options).items() for part in (f"--{name}", str(value))]
        done = subprocess.run(
            [str(self.driver), *arguments], pass_fds=list(fds.values()), capture_output=True, text=True, check=False
        )
        lib.lk_loop_free(self.loop)
        self.loop = ffi.NULL
        return done

    def close(self) -> None:
        """Give everything back."""
        lib.lk_loop_free(self.loop)
        os.close(self.kick)
        os.close(self.call)
        self.rig.close()


@pytest.fixture
def process(driver: Path) -> Iterator[Process]:
    """A device that waits for its driver."""
    process = Process(driver)
    yield process
    process.close()


def count(fd: int) -> int:
    """What an eventfd holds."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


@pytest.mark.parametrize("suppress", [False, True])
@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("indirect", [False, True])
def test_every_transfer_between_two_processes_arrives(
    process: Process, indirect: bool, event_idx: bool, suppress: bool
) -> None:
    """vringh_test: transfers between two processes, also --indirect and --eventidx, indices wrapping through 65535.

    Each read brings its own sector; kicks and calls are counted alike on both sides; nothing is left over.
    """
    start = time.monotonic()
    done = process.drive(TRANSFERS, seed=1, indirect=indirect, event_idx=event_idx, suppress=suppress)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    said = {name: int(number) for number, name in re.findall(r"(\d+) ([a-z]+)", done.stdout)}
    vq = process.rig.vq
    assert said["transfers"] == vq.requests == TRANSFERS
    assert said["kicks"] == vq.signalled + count(process.kick)
    assert said["kicks"] < TRANSFERS, "a kick is for all that was published with it"
    assert said["spared"] == 0 or event_idx or suppress, "a device that cannot say so is kicked each time"
    assert said["calls"] + count(process.call) == vq.interrupts
    assert (vq.inuse, process.rig.device.broken) == (0, 0)
    assert vq.used_idx == vq.last_avail == process.rig.ring.used_idx == TRANSFERS % (1 << 16)
    assert TRANSFERS > 3 << 16, "the indices wrapped"
    report(
        f"rings: indirect {indirect}, EVENT_IDX {event_idx}, suppress {suppress}: {done.stdout.strip()}; "
        f"{TRANSFERS >> 16} wraps; {TRANSFERS / seconds:,.0f} transfers/s"
    )


def test_a_wrong_sector_is_noticed(process: Process) -> None:
    """vringh_test: the driver can fail: one word of the disk is not what it should be."""
    os.pwrite(process.rig.image.fd, b"\xff", 5 * SECTOR_BYTES + 100)
    done = process.drive(2 * DISK_SECTORS * 8, seed=1, indirect=False, event_idx=False, suppress=False)
    assert done.returncode == 1
    assert "the data are not the sector's" in done.stderr
