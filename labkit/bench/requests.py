"""How many block requests a second? Reads of one sector from a RAM disk, at some depth, with ioeventfd on and off."""

from __future__ import annotations

from collections.abc import Callable

from labkit.abi import SECTOR_BYTES, BlkType, Command
from labkit.bench.bare import boot
from labkit.bench.row import Effort, Samples, interleaved
from labkit.errors import GuestError

DEPTHS = (1, 8, 32)
TIMEOUT_S = 20


def at(depth: int, *, ioeventfd: bool) -> Callable[[Effort], Samples]:
    """The measurement of one row, in requests/s."""
    return lambda effort: _requests(effort, depth, ioeventfd=ioeventfd)


def _requests(effort: Effort, depth: int, *, ioeventfd: bool) -> Samples:
    with boot("blk", ioeventfd=ioeventfd, cpu=effort.cpu) as bare:
        ticks_per_s = bare.board.cpu.tsc_khz * 1000
        storm = (0, effort.requests, depth, BlkType.IN, SECTOR_BYTES, 1, TIMEOUT_S * ticks_per_s)
        sectors = bare.board.device.blk.sectors

        def value() -> float:
            done = bare.machine.guest.storm(effort.requests, depth, vcpus=1, timeout_s=TIMEOUT_S)
            _check(done.requests, done.errors, effort)
            return done.requests_per_s

        def floor() -> float:
            ticks, done, errors, *_ = bare.serve(Command.STORM, *storm, sectors, ioeventfd=ioeventfd)
            _check(done, errors, effort)
            return done * ticks_per_s / ticks

        return interleaved(value, floor, effort.repetitions)


def _check(done: int, errors: int, effort: Effort) -> None:
    if done != effort.requests or errors:
        raise GuestError(f"a storm of {effort.requests} requests: {done} completed, {errors} with errors")
