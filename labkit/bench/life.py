"""How long until a guest is up? A boot to DRIVER_OK, and a reset until the guest is parked again."""

from __future__ import annotations

import time
from typing import Any

import labkit
from labkit.bench.bare import paused
from labkit.bench.row import Effort, Samples, interleaved
from labkit.errors import HostError
from labkit.native import lib

NS_PER_MS, NS_PER_US = 1e6, 1e3
RESETS = 20  # in a row; one is too short to time alone


def boot(effort: Effort) -> Samples:
    """labkit.boot("blk") in a warm process, ms; closing is not counted."""
    return interleaved(_boot_ms, _bare_boot_ms, effort.repetitions)


def _boot_ms() -> float:
    start_ns = time.perf_counter_ns()
    with labkit.boot("blk"):
        return (time.perf_counter_ns() - start_ns) / NS_PER_MS


def _bare_boot_ms() -> float:
    return _ran(lib.lk_bare_boot_ns(), "a bare boot") / NS_PER_MS


def reset(effort: Effort) -> Samples:
    """vm.reset(), us: from power-on registers to a parked guest."""
    with labkit.boot("blk", bring_up=False) as vm:
        vcpu: Any = vm._board.cpu.vcpus[0]
        regs, sregs = vcpu.entry_structs

        def value() -> float:
            start_ns = time.perf_counter_ns()
            for _ in range(RESETS):
                vm.reset()
            return (time.perf_counter_ns() - start_ns) / RESETS / NS_PER_US

        def floor() -> float:
            with paused(vm):
                return _ran(lib.lk_bare_reset_ns(vcpu.native, regs, sregs, RESETS), "a bare reset") / NS_PER_US

        return interleaved(value, floor, effort.repetitions)


def _ran(spent_ns: int, what: str) -> int:
    """The core answers 0 ns for a guest that did not get where it should."""
    if not spent_ns:
        raise HostError("KVM_RUN", 5, f"{what} did not end as it should")
    return spent_ns
