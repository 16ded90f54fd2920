"""Does a machine do what a user expects of it? Boot, drive, pause, reset, crash, close, on a real guest."""

from __future__ import annotations

import gc
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pausing import storm_while_paused
from pressing import interrupted

import labkit
from labkit import GuestCrash, GuestError, Machine, UsageError
from labkit.abi import SECTOR_BYTES, BlkStatus, Fault, Status
from labkit.guest import Guest

Boot = Callable[..., Machine]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk of 1 MiB; sector n begins with its number."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(struct.pack("<Q", n).ljust(SECTOR_BYTES, b"\xa5") for n in range(2048)))
    return path


# -- the main job -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("irq", ["msix", "poll"])
@pytest.mark.parametrize("ioeventfd", [True, False])
def test_the_guest_reads_what_is_in_the_image(boot: Boot, image: Path, irq: str, ioeventfd: bool) -> None:
    """Sectors read by the guest's driver equal the file's, by trap and by eventfd, by interrupt and by polling."""
    vm = boot("blk", disk=image, irq=irq, ioeventfd=ioeventfd)
    assert vm.guest.read(7) == image.read_bytes()[7 * 512 : 8 * 512]
    assert vm.guest.read(0, 300) == image.read_bytes()[: 300 * 512], "more than one request's worth"


def test_the_guest_reads_the_superblock_of_a_real_filesystem(boot: Boot, tmp_path: Path) -> None:
    """A file system made by mke2fs: the superblock the guest reads is the file's, with ext2's magic."""
    mke2fs = shutil.which("mke2fs", path=os.environ["PATH"] + ":/sbin:/usr/sbin")
    if mke2fs is None:
        pytest.skip("mke2fs is not installed (package e2fsprogs)")
    path = tmp_path / "fs.img"
    subprocess.run([mke2fs, "-q", "-t", "ext2", path, "1024"], check=True)
    superblock = boot("blk", disk=path).guest.read(2, 2)
    assert superblock == path.read_bytes()[1024:2048]
    assert superblock[56:58] == b"\x53\xef"


def test_what_the_guest_writes_is_in_the_file(boot: Boot, image: Path) -> None:
    """With writable=True a write reaches the file; what is around it stays."""
    before = image.read_bytes()
    vm = boot("blk", disk=image, writable=True)
    vm.guest.write(100, b"w" * 1024)
    vm.guest.flush()
    assert image.read_bytes() == before[: 100 * 512] + b"w" * 1024 + before[102 * 512 :]


def test_a_read_only_disk_says_so_and_stays_as_it_is(boot: Boot, image: Path) -> None:
    """Without writable=True the guest is offered RO, and a write fails with IOERR."""
    before = image.read_bytes()
    vm = boot("blk", disk=image)
    with pytest.raises(GuestError, match="IOERR"):
        vm.guest.write(0, b"x" * 512)
    assert image.read_bytes() == before


def test_a_read_past_the_end_fails(boot: Boot, image: Path) -> None:
    """The capacity is the file's size in sectors."""
    vm = boot("blk", disk=image)
    assert struct.unpack("<Q", vm.guest.read(2047)[:8]) == (2047,)
    with pytest.raises(GuestError, match="IOERR"):
        vm.guest.read(2048)


def test_the_disk_knows_its_name(boot: Boot, image: Path) -> None:
    """GET_ID answers the name of the image."""
    assert boot("blk", disk=image).guest.get_id() == "disk.img"


def test_a_request_step_by_step(boot: Boot) -> None:
    """Add, publish, kick, wait: each step shows in the queue before the next."""
    vm = boot("blk")
    queue = vm.proxy.queues[0]
    vm.guest.read(0)
    added = vm.guest.add(sector=0)
    assert (queue.avail_idx, queue.used_idx) == (1, 1)
    assert vm.guest.publish() is True
    assert (queue.avail_idx, queue.last_avail_idx, queue.used_idx) == (2, 1, 1)
    vm.guest.kick()
    done = vm.guest.wait()
    assert (done.reaped, done.head, done.used_len, done.status) == (1, added.head, 513, BlkStatus.OK)
    assert (queue.last_avail_idx, queue.used_idx, queue.in_flight) == (2, 2, 0)
    assert vm.memory.read(added.buffer_gpa, 6) == b"labkit"


@pytest.mark.parametrize("vcpus", [1, 2])
@pytest.mark.parametrize("ioeventfd", [True, False])
def test_a_storm_completes_every_request(boot: Boot, vcpus: int, ioeventfd: bool) -> None:
    """Every request completes without error, and every kick is counted on its path."""
    vm = boot("blk", vcpus=vcpus, ioeventfd=ioeventfd)
    storm = vm.guest.storm(500, depth=8)
    notifier = vm.proxy.queues[0].notifier
    assert (storm.requests, storm.errors, storm.vcpus) == (500, 0, vcpus)
    assert vm.proxy.device.vq[0].requests == 500
    vm.pause()  # nothing is pending afterwards
    made = sum(int(e["kicks"]) for e in vm.trace.events("kick_eventfd", "drain"))
    assert notifier.signalled == made
    assert (notifier.trapped == 0) is ioeventfd


def test_kicks_made_are_kicks_counted(boot: Boot) -> None:
    """trapped + signalled = kicks made, while the notifier starts and stops in between."""
    vm = boot("blk")
    notifier = vm.proxy.queues[0].notifier
    for turn in range(20):
        (vm.guest.set_driver_ok if turn % 2 else vm.guest.clear_driver_ok)()
        vm.guest.kick(times=25)
    vm.guest.clear_driver_ok()
    assert notifier.trapped + notifier.signalled == 20 * 25
    assert notifier.trapped == notifier.signalled == 250


# -- pause, reset, close ----------------------------------------------------------------------------------------------


def test_a_paused_machine_does_nothing(boot: Boot) -> None:
    """While paused guest memory stays as it is, and a step is refused; afterwards all goes on."""
    vm = boot("blk")
    vm.pause()
    before = vm.memory.read(0, vm.memory.size_bytes)
    with pytest.raises(UsageError, match="paused"):
        vm.guest.read(0)
    assert vm.memory.read(0, vm.memory.size_bytes) == before
    vm.resume()
    assert vm.guest.read(0).startswith(b"labkit")


def test_pause_gets_a_spinning_guest_out(boot: Boot) -> None:
    """A guest that never leaves by itself is stopped, looked at and reset."""
    vm = boot("blk")
    with pytest.raises(GuestError, match="rip=0x1"):
        vm.guest.fault(Fault.SPIN, timeout_s=0.1)
    vm.pause()
    assert vm.state == "paused"
    vm.resume()
    with pytest.raises(UsageError, match="still at its last step"):
        vm.guest.read(0)
    vm.reset()
    assert vm.guest.read(0).startswith(b"labkit")


def test_pause_during_a_storm_loses_nothing(boot: Boot) -> None:
    """Paused and resumed in the middle of a load, again and again: every request completes."""
    vm = boot("blk", vcpus=2)
    vm.guest.storm(10, 1)
    storm = storm_while_paused(vm, 300, depth=4)
    assert (storm.requests, storm.errors) == (300, 0)


def test_reset_and_run_again(boot: Boot, image: Path) -> None:
    """After a reset the guest starts anew, and the driver comes up again by itself."""
    vm = boot("blk", disk=image, vcpus=2)
    for _ in range(20):
        assert vm.guest.read(3)[:8] == struct.pack("<Q", 3)
        vm.reset()
        assert (vm.proxy.status, vm.state) == (0, "running")


def test_closing_twice_is_fine_and_views_survive(boot: Boot) -> None:
    """After close the machine says so, its trace and counters can still be read, and a step is refused."""
    vm = boot("blk")
    vm.guest.read(0)
    vm.close()
    vm.close()
    assert vm.state == "closed"
    assert vm.trace.events("owner")
    assert vm.proxy.queues[0].notifier.signalled == 1
    assert vm.proxy.queues[0].avail_idx is None
    assert "closed" in repr(vm)
    for use in (
        vm.pause,
        vm.resume,
        vm.reset,
        vm.registers,
        vm.statistics,
        lambda: vm.guest.read(0),
        lambda: vm.console,
    ):
        with pytest.raises(UsageError):
            use()


@pytest.mark.kvm
@pytest.mark.usefixtures("leaves_nothing")
def test_a_forgotten_machine_is_collected() -> None:
    """Nobody holds the machine any more: its threads, files and memory go."""
    labkit.boot("blk").guest.read(0)
    gc.collect()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.kvm
@pytest.mark.usefixtures("leaves_nothing")
def test_a_thousand_boots_leave_nothing() -> None:
    """A thousand boots and closes leave no fd, thread or mapping (the fixture looks)."""
    for _ in range(1000):
        labkit.boot("null", bring_up=False).close()


@pytest.mark.kvm
def test_the_interpreter_ends_with_machines_open() -> None:
    """A program that forgets to close exits cleanly."""
    code = "import labkit; a = labkit.boot('blk'); b = labkit.boot('null', vcpus=2); a.guest.read(0); print('end')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


# -- hostile guests, interrupted cells --------------------------------------------------------------------------------


def test_a_triple_fault_says_where(boot: Boot) -> None:
    """The machine is "crashed", the error names vCPU, rip and reason, the last event is there, and a reset mends it."""
    vm = boot("blk")
    with pytest.raises(GuestError, match=r"vCPU 0 crashed at rip=0x1\w+: triple fault"):
        vm.guest.fault(Fault.TRIPLE)
    assert vm.state == "crashed"
    assert vm.crash is not None
    assert vm.trace.events("crash")[-1]["rip"] in str(vm.crash)
    assert isinstance(vm.crash, GuestCrash)
    assert (vm.crash.reason, hex(vm.crash.rip)) == ("triple fault", vm.trace.events("crash")[-1]["rip"])
    assert any("step command=FAULT" in str(event) for event in vm.crash.events)
    assert vm.proxy.queues[0].notifier.owner == "none"
    with pytest.raises(GuestError, match="triple fault"):
        vm.guest.read(0)
    with pytest.raises(GuestError, match="triple fault"):
        vm.resume()
    vm.reset()
    assert vm.guest.read(0).startswith(b"labkit")
    assert vm.crash is None


def test_a_halted_guest_is_reported(boot: Boot) -> None:
    """hlt with interrupts off: no answer in time, and the error says where it stands."""
    vm = boot("blk")
    with pytest.raises(GuestError, match="rip="):
        vm.guest.fault(Fault.HALT, timeout_s=0.1)


def test_a_read_where_nothing_is_gives_all_ones(boot: Boot) -> None:
    """An address without RAM and without a device: as on a PC."""
    vm = boot("blk")
    vm.guest.fault(Fault.NO_MEMORY)
    assert vm.guest.load(0xFEB00000, 4) == 0xFFFFFFFF


def test_a_broken_ring_breaks_the_device_and_reset_mends_it(boot: Boot) -> None:
    """avail.idx jumps: the device is broken until reset, the process is not."""
    vm = boot("blk")
    queue = vm.proxy.queues[0]
    vm.guest.read(0)
    vm.memory.write(vm.proxy.device.vq[0].avail + 2, struct.pack("<H", queue.last_avail_idx + 1000))
    vm.guest.port_out(vm.proxy.notify_base + 16, 4, 0)
    assert vm.trace.events("broken")[0]["reason"] == "avail_jumped"
    assert "broken" in repr(vm.proxy)
    vm.guest.kick()
    vm.pause()
    assert vm.trace.events("kick_ignored")[-1]["why"] == "broken"
    vm.resume()
    vm.reset()
    assert vm.guest.read(0).startswith(b"labkit")


def test_a_wait_for_what_never_comes_ends(boot: Boot) -> None:
    """The guest gives up after the ticks it was given, and parks again."""
    vm = boot("blk")
    with pytest.raises(GuestError, match="did not answer in time"):
        vm.guest.wait(timeout_s=0.2)
    assert vm.guest.read(0).startswith(b"labkit")


def test_an_interrupt_of_a_cell_gets_through(boot: Boot) -> None:
    """KeyboardInterrupt comes out of a wait for a guest that spins; the machine can be reset."""
    vm = boot("blk")
    with interrupted(Guest._wait_parked):
        vm.guest.fault(Fault.SPIN, timeout_s=50)
    vm.reset()
    assert vm.guest.read(0).startswith(b"labkit")


def test_an_interrupt_gets_out_of_waiting_for_a_kernel(boot: Boot) -> None:
    """vm.wait() can be interrupted too."""
    vm = boot("blk")
    with interrupted(Machine.wait):
        vm.wait()


def test_steps_are_refused_with_what_to_do(boot: Boot) -> None:
    """A slip in a cell gets an answer: what was wrong, and what to do."""
    vm = boot("blk", bring_up=False)
    with pytest.raises(GuestError, match="negotiate"):
        vm.guest.kick()
    vm.guest.negotiate()
    with pytest.raises(GuestError, match="NO_QUEUE"):
        vm.guest.add(queue=3)
    with pytest.raises(GuestError, match="BAD_ARGUMENT"):
        vm.guest.port_in(0x80, 3)
    for _ in range(41):
        vm.guest.add()
    with pytest.raises(GuestError, match="RING_FULL"):
        vm.guest.add()
    with pytest.raises(UsageError, match="sectors"):
        vm.guest.write(0, b"odd")


@pytest.mark.parametrize(
    "arguments",
    [
        {"device": "gpu"},
        {"vcpus": 0},
        {"vcpus": 9},
        {"memory_mib": 1},
        {"memory_mib": True},
        {"irq": "nmi"},
        {"revision": "v7"},
        {"cpu": "vax"},
        {"mutations": ("lost-kick",)},
        {"device": "null", "disk": "x.img"},
        {"device": "null", "queues": 65},
        {"device": "blk", "queues": 2},
        {"disk": "/does/not/exist.img"},
        {"kernel": "/does/not/exist.elf"},
    ],
)
@pytest.mark.usefixtures("leaves_nothing")
def test_a_bad_argument_is_the_callers_fault(arguments: dict[str, object]) -> None:
    """Each wrong argument is a UsageError, and nothing is left behind."""
    with pytest.raises(UsageError):
        labkit.boot(**arguments)  # type: ignore[arg-type]


# -- what a machine shows ---------------------------------------------------------------------------------------------


def test_two_vcpus_park(boot: Boot) -> None:
    """Each vCPU has its registers, and is parked in the agent."""
    vm = boot("blk", vcpus=2)
    assert vm.registers(0)["rip"] != 0
    assert vm.registers(1)["rip"] != 0
    with pytest.raises(UsageError):
        vm.registers(2)


def test_looking_at_registers_is_no_event_of_the_rules(boot: Boot) -> None:
    """A running guest is taken out and put back; no notifier moves."""
    vm = boot("blk")
    while vm.proxy.queues[0].notifier.pending:  # the synthetic kick of START
        os.sched_yield()
    with vm._board.locked():  # and the run that it brings
        mark = vm.trace.mark()
    vm.registers()
    assert vm.trace.events(since=mark) == []


def test_the_kernels_counters_count(boot: Boot) -> None:
    """KVM_GET_STATS_FD: exits grow with the guest's work."""
    vm = boot("blk")
    before = vm.statistics()["exits"]
    vm.guest.port_in(0x80, 1)
    assert vm.statistics()["exits"] > before


def test_views_print_without_addresses(boot: Boot) -> None:
    """The last line of a cell: states in words, the same on every run."""
    vm = boot("blk")
    for view in (vm, vm.proxy, vm.proxy.queues[0], vm.proxy.queues[0].notifier, vm.trace):
        assert "0x7f" not in repr(view)
        assert view._repr_html_().startswith("<table>")
    assert "ACKNOWLEDGE|DRIVER|DRIVER_OK" in repr(vm.proxy)
    assert vm.proxy.status == Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK


def test_events_become_a_frame(boot: Boot) -> None:
    """frame(): a row an event, seconds from the first, a column a field."""
    vm = boot("blk")
    vm.guest.read(0)
    frame = vm.trace.frame("owner", "kick_eventfd")
    assert list(frame.columns[:5]) == ["seq", "time_s", "actor", "event", "queue"]
    assert frame.iloc[0]["time_s"] == 0
    assert frame[frame.event == "owner"].iloc[0]["rule"] == "R2"
    assert frame.seq.is_monotonic_increasing
