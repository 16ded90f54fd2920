"""How long does one schedule take, and how much of that is what the guest and its device do anyway?"""

from __future__ import annotations

import time
from collections.abc import Callable

import labkit
from labkit import museum
from labkit.bench.row import Effort, Samples, interleaved
from labkit.guest import Guest
from labkit.races.player import Choice, Player, Policy

LOST_KICK = "lost-kick-at-deassign"
CHOICES = [Choice(policy=Policy.RANDOM, seed=seed) for seed in range(8)]  # for one figure
US_PER_S = 1e6


def one(effort: Effort) -> Samples:
    """One schedule after the other on one machine, us each."""
    scenario = museum.find(LOST_KICK).scenario
    with Player(scenario, [LOST_KICK], effort.cpu) as player, labkit.boot(irq="poll", cpu=effort.cpu) as vm:
        return interleaved(
            lambda: _us(lambda: player.play_all(CHOICES)),
            lambda: _us(lambda: _by_hand(vm.guest, len(CHOICES))),
            effort.repetitions,
        )


def _us(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / len(CHOICES) * US_PER_S


def _by_hand(guest: Guest, times: int) -> None:
    for _ in range(times):
        guest.add()
        guest.publish()
        guest.kick()
        guest.clear_driver_ok()
        guest.wait()
        guest.set_driver_ok()
