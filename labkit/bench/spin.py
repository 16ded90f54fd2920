"""What does a driver that spins for its answer pay for an ioeventfd? The reason of rule R1, in time per character."""

from __future__ import annotations

from collections.abc import Callable

import labkit
from labkit.bench.bare import pinned
from labkit.bench.row import Effort, Samples, interleaved
from labkit.errors import GuestError

TIMEOUT_S = 60.0
WELL = 1  # the exit code of a guest that ended with 0


def per_character(effort: Effort) -> Samples:
    """ns from a character's kick until its answer is seen: against the rules by ioeventfd, beside it by trap."""
    options = {"cpu": effort.cpu, "kernel": labkit.guest_image("spin"), "cmdline": f"chars={effort.characters}"}
    with (  # the one with an iothread first: both guests get the same CPU, and that iothread the other
        pinned("console", ioeventfd=True, **options) as by_eventfd,
        pinned("console", ioeventfd=False, **options) as by_trap,
    ):
        return interleaved(_run(by_eventfd), _run(by_trap), effort.repetitions)


def _run(machine: labkit.Machine) -> Callable[[], float]:
    """The guest again from its beginning, each time."""

    def ns_per_character() -> float:
        machine.reset()
        if machine.wait(TIMEOUT_S) != WELL:
            raise GuestError(f"spin did not end well: {machine.console.strip() or 'not at all'}")
        words = dict(pair.split("=") for pair in machine.console.split() if "=" in pair)
        return int(words["ticks"]) / int(words["chars"]) * 1e6 / machine._board.cpu.tsc_khz

    return ns_per_character
