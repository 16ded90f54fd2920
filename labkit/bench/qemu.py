"""How does QEMU do the same? The same guest binary, booted there and under labkit in turns, with the same disk.

The guest is storm.elf, entered by multiboot on both. It prints what it measured as `storm key=value ...` on port 0xe9.
What migrates is journal.elf. KVM is held against KVM, and the emulated CPU against QEMU's own emulator.
"""

from __future__ import annotations

import errno
import shutil
import statistics
import subprocess
import time
from functools import cache
from typing import NamedTuple

import labkit
from labkit import abi
from labkit.bench import moves
from labkit.bench.qemu_migration import DOWNTIME_LIMIT_MS, PROGRAM, TIMEOUT_S, migrate_under_qemu
from labkit.bench.receiver import Receiver
from labkit.bench.row import Effort, Peer, Spec, settled
from labkit.errors import GuestError, HostError
from labkit.native import lib
from labkit.trace.events import Kind
from labkit.virtio.backends.image import ram_disk

STORM = abi.GUEST_IMAGES / "storm.elf"
ALL_WELL = 1  # what port 0xf4 makes of a guest's 0
ROUNDS_MAX = 5  # QEMU's firmware takes seconds where guest code is emulated
MOVES_MAX = 3
BATCHES = 10  # of kicks: few and long ones, for the guest prints each, and that lets the reader fall asleep
HOW = (
    "peer: storm.elf, by multiboot, on virtio-blk with MSI-X and a RAM disk under both; its kicks are those of an idle "
    "disk. boot: until that guest has reached DRIVER_OK and ended, for QEMU with its process and firmware. "
    "migrate: journal.elf, in both to a process that has received no machine before; QEMU's may stop it for "
    f"{DOWNTIME_LIMIT_MS} ms, as is its default."
)

ACCELERATORS = {"kvm": "kvm", "emulated": "tcg"}  # who executes the guest there; tcg is QEMU's own emulator

Figures = dict[str, float]  # one run: kick_ns, requests_per_s, boot_ms; or total_ms, downtime_ms


class _Storm(NamedTuple):
    """A run of storm.elf. Depth 0: no load."""

    ioeventfd: bool
    depth: int

    def under_both(self, path: str, accelerator: str, effort: Effort) -> tuple[Figures, Figures]:
        """Under labkit and under QEMU."""
        load = f"requests={effort.requests} depth={self.depth} batches={BATCHES} kicks={effort.kicks * BATCHES}"
        line = f"irq=msix {load if self.depth else ''}"
        own = _under_labkit(line, effort.cpu, self.ioeventfd)
        return own, _under_qemu(path, accelerator, line, self.ioeventfd)


class _Move(NamedTuple):
    """A run of journal.elf, and a migration of it."""

    load: moves.Load

    def under_both(self, path: str, accelerator: str, effort: Effort) -> tuple[Figures, Figures]:
        """Under labkit and under QEMU, the same disk after one another."""
        line, writable = self.load
        with moves.image() as disk:
            with moves.booted(effort.cpu, self.load, disk) as vm, Receiver(effort.cpu) as receiver:
                own, _ = moves.move(vm, receiver)
            other = migrate_under_qemu(
                path, accelerator, disk=disk, line=line, writable=writable, memory_mib=moves.MEMORY_MIB
            )
        return own._asdict(), other._asdict()


class _Trial(NamedTuple):
    """What a row is compared by: a run, and the figure of it."""

    run: _Storm | _Move
    key: str


class Qemu:
    """QEMU as a peer. HostError if it is not installed."""

    def __init__(self, effort: Effort) -> None:
        path = shutil.which(PROGRAM)
        if path is None:
            raise HostError(PROGRAM, errno.ENOENT, "nothing is compared; Debian and Ubuntu: qemu-system-x86")
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        self._accelerator = ACCELERATORS.get(effort.cpu, "kvm")
        own = ", its own emulator" if self._accelerator == "tcg" else ""
        self.version = "QEMU " + said.partition("version ")[2].partition(" ")[0].strip() + own
        self.notes = [HOW]
        self._path, self._effort, self._failed = path, effort, False
        self._pair = cache(self._measure)  # one run gives the figures of several rows

    def compare(self, spec: Spec) -> Peer | None:
        """The row under both, or None where there is nothing to compare; a QEMU that fails leaves a note."""
        trial = _trial(spec)
        if trial is None or self._failed:
            return None
        try:
            own, other = self._pair(trial.run)
        except HostError as error:
            self.notes.append(f"nothing is compared from {spec.name} on: {error}")
            self._failed = True
            return None
        return Peer(other[trial.key], own[trial.key])

    def _measure(self, run: _Storm | _Move) -> tuple[Figures, Figures]:
        """Medians under labkit and under QEMU, in turns."""
        most = MOVES_MAX if isinstance(run, _Move) else ROUNDS_MAX
        rounds = [
            run.under_both(self._path, self._accelerator, self._effort)
            for _ in range(min(self._effort.repetitions, most))
        ]
        return _medians([own for own, _ in rounds]), _medians([other for _, other in rounds])


_TRIALS = {
    "trap_kick": _Trial(_Storm(False, 1), "kick_ns"),
    "ioeventfd_kick": _Trial(_Storm(True, 1), "kick_ns"),
    "boot": _Trial(_Storm(True, 0), "boot_ms"),
    **{
        f"migrate_{figure}_{name}": _Trial(_Move(load), f"{figure}_ms")
        for name, load in (("idle", moves.IDLE), ("storm", moves.STORM))
        for figure in ("total", "downtime")
    },
}


def _trial(spec: Spec) -> _Trial | None:
    """None: the peer has nothing like that row."""
    if not spec.name.startswith("requests_"):
        return _TRIALS.get(spec.name)
    _, way, depth = spec.name.split("_")
    return _Trial(_Storm(way == "on", int(depth)), "requests_per_s")


def _medians(runs: list[Figures]) -> Figures:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def _under_labkit(line: str, cpu: str, ioeventfd: bool) -> Figures:
    start_ns = time.monotonic_ns()
    with labkit.boot("blk", cpu=cpu, ioeventfd=ioeventfd, kernel=STORM, cmdline=line) as vm:
        if vm.wait(TIMEOUT_S) != ALL_WELL:
            raise GuestError(f"{STORM.name}: {vm.console.strip() or 'no answer'}")
        ended = vm.trace.events(Kind.EXIT.name.lower())[-1]
        tsc_khz = vm._board.cpu.tsc_khz
        return _figures(vm.console, tsc_khz, ended.time_ns - start_ns)


def _under_qemu(path: str, accelerator: str, line: str, ioeventfd: bool) -> Figures:
    disk = ram_disk()
    try:
        start_ns = time.monotonic_ns()
        command = _command(path, accelerator, line, ioeventfd, disk.fd)
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, pass_fds=[disk.fd], check=False
        )
        spent_ns = time.monotonic_ns() - start_ns
    except subprocess.TimeoutExpired as error:
        raise HostError(PROGRAM, errno.ETIMEDOUT, f"its guest did not end within {TIMEOUT_S:g} s") from error
    finally:
        disk.close()
    if done.returncode != ALL_WELL or b"storm" not in done.stdout:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().rpartition("\n")[2]
        raise HostError(PROGRAM, errno.EIO, f"exit code {done.returncode}: {said or 'no message'}")
    return _figures(done.stdout.decode(errors="replace"), _tsc_khz(accelerator), spent_ns)


def _command(path: str, accelerator: str, line: str, ioeventfd: bool, disk_fd: int) -> list[str]:
    device = f"virtio-blk-pci,drive=disk,disable-modern=on,disable-legacy=off,ioeventfd={'on' if ioeventfd else 'off'}"
    machine = ["-accel", accelerator, "-m", str(abi.MEMORY_MIN_MIB), "-nodefaults", "-no-user-config"]
    ends = ["-display", "none", "-no-reboot", "-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    drive = f"if=none,id=disk,format=raw,cache=writeback,file.locking=off,file=/proc/self/fd/{disk_fd}"
    return [path, *machine, *ends, "-drive", drive, "-device", device, "-kernel", str(STORM), "-append", line]


@cache
def _tsc_khz(accelerator: str) -> int:
    """Of the guest's TSC: KVM gives every guest the host's rate, and QEMU's emulator shows it the host's own TSC."""
    if accelerator == "kvm":
        with labkit.boot("null", bring_up=False, cpu="kvm") as vm:
            return vm._board.cpu.tsc_khz
    if not (khz := int(lib.lk_tsc_khz())):
        raise HostError(PROGRAM, errno.ENOTSUP, "this CPU has no TSC to read its guest's times by")
    return khz


def _figures(text: str, tsc_khz: int, spent_ns: int) -> Figures:
    """What the guest printed, in the units of the rows."""
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith("storm")]
    reports = [dict(pair.split("=") for pair in line) for line in lines]
    ns_per_tick = 1e6 / tsc_khz
    figures = {"boot_ms": spent_ns / 1e6}
    kicks = [int(r["ticks"]) * ns_per_tick / int(r["kicks"]) for r in reports if "ticks" in r and "requests" not in r]
    if kicks:
        figures["kick_ns"] = settled(kicks)
    for report in reports:
        if "requests" in report:
            figures["requests_per_s"] = int(report["requests"]) / (int(report["ticks"]) * ns_per_tick / 1e9)
    return figures
