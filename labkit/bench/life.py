"""How long until a guest is up? A boot to DRIVER_OK, and a reset until the guest is parked again."""

from __future__ import annotations

import errno
import time
from typing import Any

import labkit
from labkit.bench.bare import bare_eventfd, paused
from labkit.bench.row import Effort, Samples, interleaved
from labkit.errors import HostError
from labkit.native import lib

NS_PER_MS, NS_PER_US = 1e6, 1e3
RESETS = 20  # in a row; one is too short to time alone
SETTLE_S = 0.02  # the kernel is still busy with an assign for some milliseconds, and a deassign would wait for that too


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
    """vm.reset(), us, of a machine whose driver is not up: no notifier is started."""
    with labkit.boot("blk", bring_up=False) as vm:

        def value() -> float:
            start_ns = time.perf_counter_ns()
            for _ in range(RESETS):
                vm.reset()
            return (time.perf_counter_ns() - start_ns) / RESETS / NS_PER_US

        def floor() -> float:
            with paused(vm):
                return _bare_reset_us(vm, RESETS)

        return interleaved(value, floor, effort.repetitions)


def reset_in_use(effort: Effort) -> Samples:
    """vm.reset(), us, at DRIVER_OK: the notifier is stopped first (R7). Bringing the driver up is not counted."""
    with labkit.boot("blk", bring_up=False) as vm:

        def value() -> float:
            vm.guest.negotiate()
            vm.guest.set_driver_ok()
            time.sleep(SETTLE_S)
            start_ns = time.perf_counter_ns()
            vm.reset()
            return (time.perf_counter_ns() - start_ns) / NS_PER_US

        def floor() -> float:
            with paused(vm), bare_eventfd(vm._board) as (_, deassign):
                time.sleep(SETTLE_S)
                start_ns = time.perf_counter_ns()
                deassign()
                return (time.perf_counter_ns() - start_ns) / NS_PER_US + _bare_reset_us(vm, 1)

        return interleaved(value, floor, effort.repetitions)


def _bare_reset_us(vm: labkit.Machine, times: int) -> float:
    vcpu: Any = vm._board.cpu.vcpus[0]
    return _ran(lib.lk_bare_reset_ns(vcpu.native, *vcpu.entry_structs, times), "a bare reset") / NS_PER_US


def _ran(spent_ns: int, what: str) -> int:
    """The core answers 0 ns for a guest that did not get where it should."""
    if not spent_ns:
        raise HostError("KVM_RUN", errno.EIO, f"{what} did not end as it should")
    return spent_ns
