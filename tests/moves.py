"""What do the tests of migration share? A move in a line, what happens at a gate, what must be equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labkit import Machine
from labkit.abi import PAGE_BYTES
from labkit.migration.progress import Progress
from labkit.saving import saved
from labkit.trace.events import Gate

WAIT_S = 60.0
SOURCES = tuple(gate for gate in Gate if gate <= Gate.RUNS_HEARD)
DESTINATIONS = tuple(gate for gate in Gate if gate >= Gate.ACCEPTED)


def moved(vm: Machine, arrival: Any, **options: Any) -> Machine:
    """`vm`, there."""
    vm.migrate(arrival.address, **options)
    there: Machine = arrival.machine(WAIT_S)
    return there


def at(gate: Gate, do: Callable[[], object]) -> Callable[[Progress], None]:
    """For `progress=`: `do` at that gate, once for each time it is passed."""

    def tell(progress: Progress) -> None:
        if progress.gate is gate:
            do()

    return tell


def different_pages(one: Machine, other: Machine) -> list[int]:
    """The pages of RAM in which two machines differ."""
    first, second = (vm.memory.read(0, vm.memory.size_bytes) for vm in (one, other))
    places = range(0, len(first), PAGE_BYTES)
    return [
        place // PAGE_BYTES
        for place in places
        if first[place : place + PAGE_BYTES] != second[place : place + PAGE_BYTES]
    ]


def parts(vm: Machine) -> dict[str, Any]:
    """Every part's state of a paused machine."""
    found: dict[str, Any] = vm._board.owner.call(lambda: saved(vm._board))
    return found


def gates(vm: Machine) -> list[Gate]:
    """Those in its feed, in order."""
    return [Gate[str(event["gate"]).upper()] for event in vm.trace.events("gate")]
