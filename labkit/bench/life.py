"""How long until a guest is up? A boot to DRIVER_OK, and a reset until the guest is parked again."""

from __future__ import annotations

import errno
import time

import labkit
from labkit.bench.bare import bare_eventfd, paused
from labkit.bench.floors import Floor, boot_ns, floor_of
from labkit.bench.row import Effort, Samples, interleaved
from labkit.errors import HostError

NS_PER_MS, NS_PER_US = 1e6, 1e3
RESETS = 20  # in a row; one is too short to time alone
SETTLE_S = 0.02  # the kernel is still busy with an assign for some milliseconds, and a deassign would wait for that too


def boot(effort: Effort) -> Samples:
    """labkit.boot("blk") in a warm process, ms; closing is not counted."""
    return interleaved(
        lambda: _boot_ms(effort.cpu),
        lambda: ran(boot_ns(effort.cpu), "a bare boot") / NS_PER_MS,
        effort.repetitions,
    )


def _boot_ms(cpu: str) -> float:
    start_ns = time.perf_counter_ns()
    with labkit.boot("blk", cpu=cpu):
        return (time.perf_counter_ns() - start_ns) / NS_PER_MS


def reset(effort: Effort) -> Samples:
    """vm.reset(), us, of a machine whose driver is not up: no notifier is started."""
    with labkit.boot("blk", bring_up=False, cpu=effort.cpu) as vm, floor_of(vm) as bare:

        def value() -> float:
            start_ns = time.perf_counter_ns()
            for _ in range(RESETS):
                vm.reset()
            return (time.perf_counter_ns() - start_ns) / RESETS / NS_PER_US

        def floor() -> float:
            with paused(vm):
                return _bare_reset_us(bare, RESETS)

        return interleaved(value, floor, effort.repetitions)


def reset_in_use(effort: Effort) -> Samples:
    """vm.reset(), us, at DRIVER_OK: the notifier is stopped first (R7). Bringing the driver up is not counted."""
    with labkit.boot("blk", bring_up=False, cpu=effort.cpu) as vm, floor_of(vm) as bare:

        def value() -> float:
            vm.guest.negotiate()
            vm.guest.set_driver_ok()
            time.sleep(SETTLE_S)
            start_ns = time.perf_counter_ns()
            vm.reset()
            return (time.perf_counter_ns() - start_ns) / NS_PER_US

        def floor() -> float:
            if not bare.deassigns:
                with paused(vm):
                    return _bare_reset_us(bare, 1)
            with paused(vm), bare_eventfd(vm._board) as (_, deassign):
                time.sleep(SETTLE_S)
                start_ns = time.perf_counter_ns()
                deassign()
                return (time.perf_counter_ns() - start_ns) / NS_PER_US + _bare_reset_us(bare, 1)

        return interleaved(value, floor, effort.repetitions)


def _bare_reset_us(bare: Floor, times: int) -> float:
    return ran(bare.reset_ns(times), "a bare reset") / NS_PER_US


def ran(spent_ns: int, what: str) -> int:
    """The core answers 0 ns for what did not get where it should."""
    if not spent_ns:
        raise HostError(what, errno.EIO, "it did not end as it should")
    return spent_ns
