"""How long does a machine need to another process, and how long does nobody run it? And how fast do its pages go?

The clock of both is the host's, so that a moment here and one there can be compared. The other process stays, and takes
one machine after the other: the first is never counted.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import labkit
from labkit import abi
from labkit.bench.qemu_migration import IS_UP, TIMEOUT_S, Figures
from labkit.bench.receiver import Receiver, moment_ns
from labkit.bench.row import Effort, Samples, interleaved
from labkit.errors import GuestError
from labkit.machine import Machine
from labkit.native import ffi, lib

GUEST = "journal"
MEMORY_MIB = 64
DISK_BYTES = 1 << 20
STATE_BYTES = 1 << 14  # about what a machine's state has
LOOK_AGAIN_S = 0.001
WRITES_S = 0.05  # a storm has begun by then
FILLED_MIB = 128  # more than a CPU's cache
NS_PER_MS, NS_PER_S = 1e6, 1e9


class Load(NamedTuple):
    """What the guest does meanwhile: its command line, and whether it writes."""

    line: str
    writable: bool


IDLE, STORM = Load("idle", False), Load("depth=4", True)


def total(load: Load) -> Callable[[Effort], Samples]:
    """From the call until the guest runs there, ms."""
    return lambda effort: _moves(effort, load, lambda figures: figures.total_ms, _bare_total_ms)


def downtime(load: Load) -> Callable[[Effort], Samples]:
    """From the moment when it is paused here until it runs there, ms."""
    return lambda effort: _moves(effort, load, lambda figures: figures.downtime_ms, _bare_downtime_ms)


def _moves(
    effort: Effort, load: Load, which: Callable[[Figures], float], bare_ms: Callable[[Receiver, int], float]
) -> Samples:
    pages = 0
    with Receiver(effort.cpu) as receiver, image() as disk:

        def value() -> float:
            nonlocal pages
            with booted(effort.cpu, load, disk) as vm:
                figures, pages = move(vm, receiver)
            return which(figures)

        return interleaved(value, lambda: bare_ms(receiver, pages), effort.repetitions)


def move(vm: Machine, receiver: Receiver) -> tuple[Figures, int]:
    """A machine there, its times, and how many pages went."""
    receiver.expect()
    asked_ns = time.monotonic_ns()
    pages = vm.migrate(receiver.address).pages
    ran_ns = receiver.ran_at_ns()
    stopped_ns = moment_ns(vm, "runstate", after="paused")
    return Figures((ran_ns - asked_ns) / NS_PER_MS, (ran_ns - stopped_ns) / NS_PER_MS), pages


def _bare_total_ms(receiver: Receiver, pages: int) -> float:
    return sum(receiver.questions_ns(pages * abi.PAGE_BYTES, STATE_BYTES, 1, boots=True)) / NS_PER_MS


def _bare_downtime_ms(receiver: Receiver, _pages: int) -> float:
    return sum(receiver.questions_ns(STATE_BYTES, 1)) / NS_PER_MS


@contextlib.contextmanager
def image() -> Iterator[Path]:
    """A disk of zeros."""
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as folder:
        disk = Path(folder) / "disk.img"
        disk.write_bytes(bytes(DISK_BYTES))
        yield disk


@contextlib.contextmanager
def booted(cpu: str, load: Load, disk: Path) -> Iterator[Machine]:
    """A machine whose guest is up, and at its load."""
    kernel = labkit.guest_image(GUEST)
    with labkit.boot(
        disk=disk, writable=load.writable, cpu=cpu, memory_mib=MEMORY_MIB, kernel=kernel, cmdline=load.line
    ) as vm:
        until = time.monotonic() + TIMEOUT_S
        while IS_UP not in vm.console:
            if vm.state != "running" or time.monotonic() > until:
                raise GuestError(f"{GUEST}: {vm.console.strip() or 'no answer'}")
            time.sleep(LOOK_AGAIN_S)
        time.sleep(WRITES_S)
        yield vm


def pages(effort: Effort) -> Samples:
    """Of the first round, while the guest is parked, pages/s; beside it one copy of as many."""
    size = FILLED_MIB << 20
    before, after = ffi.from_buffer(b"\1" * size), ffi.new("char[]", size)

    def floor() -> float:
        copied_ns: int = lib.lk_bare_copy_ns(after, before, size)
        return size / abi.PAGE_BYTES / (copied_ns / NS_PER_S)

    with Receiver(effort.cpu) as receiver:
        return interleaved(lambda: _pages_per_s(effort.cpu, receiver), floor, effort.repetitions)


def _pages_per_s(cpu: str, receiver: Receiver) -> float:
    with labkit.boot(cpu=cpu, memory_mib=FILLED_MIB) as vm:
        begin = abi.MEMORY_MIN_MIB << 20
        vm.memory.write(begin, b"\1" * (vm.memory.size_bytes - begin))
        receiver.expect()
        migration = vm.migrate(receiver.address)
        receiver.ran_at_ns()
        return migration.rounds[0].pages_per_s
