"""Are the barriers of a ring needed here? Two threads, a store and a load each: how often did both look too early?

The device writes used.idx and reads whether the driver wants to be woken; the driver writes that and reads used.idx. A
CPU may let such a load pass the store before it; then both see the old value, and the driver sleeps for ever. A full
barrier between the two, on both sides, forbids it.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from labkit import views
from labkit.errors import HostError, UsageError
from labkit.native import lib

ROUNDS, SLICE, ROUNDS_MAX = 200_000, 50_000, 1_000_000_000  # a slice goes without looking for an interrupt


class Litmus(NamedTuple):
    """In how many of `rounds` both sides saw the old value: with both barriers, with one of them, with none.

    That it was not seen proves nothing: `cpus`, those that this process may use, must be 2 at least.
    """

    rounds: int
    with_barrier: int
    without_device_barrier: int
    without_driver_barrier: int
    without_barrier: int
    cpus: int

    def _values(self) -> dict[str, object]:
        names = self._fields[1:-1]
        seen = {name.replace("_", " "): f"{getattr(self, name)} of {self.rounds}" for name in names}
        without = self.without_device_barrier + self.without_driver_barrier + self.without_barrier
        if without:
            said = "this CPU lets a load pass the store before it: both barriers are needed"
        elif self.cpus < 2:
            said = "on one CPU nothing can be seen of it"
        else:
            said = "not seen here, which proves nothing"
        return {**seen, "": said}

    def _repr_html_(self) -> str:
        return views.named("both saw the old value", self._values())

    def __repr__(self) -> str:
        return views.lines("both saw the old value", self._values())


def litmus(rounds: int = ROUNDS) -> Litmus:
    """Play that many rounds with both barriers, without each, and without any. HostError: no thread to be had."""
    if not 1 <= rounds <= ROUNDS_MAX:
        raise UsageError(f"rounds={rounds!r}: 1 to {ROUNDS_MAX}")
    device, driver = lib.LITMUS_DEVICE_BARRIER, lib.LITMUS_DRIVER_BARRIER
    return Litmus(
        rounds,
        with_barrier=_count(rounds, device | driver),
        without_device_barrier=_count(rounds, driver),
        without_driver_barrier=_count(rounds, device),
        without_barrier=_count(rounds, 0),
        cpus=len(os.sched_getaffinity(0)),
    )


def _count(rounds: int, barriers: int) -> int:
    total = 0
    for at in range(0, rounds, SLICE):
        found = int(lib.lk_litmus(min(SLICE, rounds - at), barriers))
        if found < 0:
            raise HostError("pthread_create", -found, "no thread for the litmus test")
        total += found
    return total
