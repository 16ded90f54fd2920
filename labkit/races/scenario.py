"""What is a scenario? A machine at one moment, what each actor is to do from there, and what must hold in every order.

The guest's steps and the main thread's are taken when a schedule says so; the iothread and a backend do what they find.
A guest's step is one of the agent's commands that does not wait for the device: the others would wait for a schedule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from labkit.abi import Command
from labkit.board import Board
from labkit.errors import UsageError
from labkit.guest import Guest
from labkit.machine import Machine
from labkit.races.invariants import Invariant
from labkit.trace.events import Kind

WAITS = frozenset({Command.WAIT, Command.REQUEST, Command.STORM, Command.KICK_LOOP})
LIMIT = 400  # decisions; a schedule that takes more does not end

# The events behind which a schedule may let another actor go; besides, every lock, and every end of a step.
POINTS = frozenset(
    {
        *(Kind.WOKEN, Kind.KICK_EVENTFD, Kind.QUEUE_NOTIFY, Kind.KICK_TRAP, Kind.FORWARD, Kind.BACKEND, Kind.STATUS),
        *(Kind.ASSIGN, Kind.DEASSIGN, Kind.ATTACH, Kind.DETACH, Kind.DRAIN, Kind.SIGNAL, Kind.CLOSE_FD),
        *(Kind.RUNSTATE, Kind.PCI_WRITE),
    }
)


class Step(NamedTuple):
    """What a vCPU does at once: a command of the agent, with its arguments."""

    command: Command
    arguments: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.command.name.lower()}({', '.join(map(str, self.arguments))})"


class Act(NamedTuple):
    """What the main thread does at once."""

    name: str
    do: Callable[[Board], object]

    def __str__(self) -> str:
        return self.name


def _nothing(_of: object) -> None:
    """By name, so that a scenario can go to another process."""


@dataclass(frozen=True)
class Scenario:
    """`boot` and `prepare` make the machine once, `begin` is done before each schedule.

    `guest` and `main` are the steps of vcpu0 (others: `others`) and of the main thread.
    """

    name: str
    story: str
    invariants: tuple[Invariant, ...]
    guest: tuple[Step, ...] = ()
    main: tuple[Act, ...] = ()
    others: Mapping[int, tuple[Step, ...]] = field(default_factory=dict)  # steps of vcpu1 ...
    device: str = "blk"
    boot: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Machine], object] = _nothing
    begin: Callable[[Board], object] = _nothing  # what no snapshot holds: faults, a backend
    backend: bool = False  # does a backend take part?
    points: frozenset[Kind] = POINTS
    limit: int = LIMIT

    def __post_init__(self) -> None:
        for step in (*self.guest, *(step for steps in self.others.values() for step in steps)):
            if step.command in WAITS:
                raise UsageError(f"scenario {self.name}: {step} waits in the guest, and would wait for the schedule")

    @property
    def steps(self) -> dict[int, tuple[Step, ...]]:
        """By vCPU."""
        return {0: self.guest, **self.others}

    @property
    def fingerprint(self) -> str:
        """Changes when the schedules of before do not mean the same any more."""
        said = [self.name, self.device, str(sorted(self.boot.items())), str(sorted(self.points)), str(self.backend)]
        said += [f"{index}: {step}" for index, steps in sorted(self.steps.items()) for step in steps]
        said += [act.name for act in self.main]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:4]


def kick(queue: int = 0, times: int = 1) -> Step:
    """Write QUEUE_NOTIFY."""
    return Step(Command.KICK, (queue, times))


def driver_ok(on: bool) -> Step:
    """Set DRIVER_OK in STATUS, or clear it."""
    return Step(Command.DRIVER_OK, (int(on),))


def publish(queue: int = 0) -> Step:
    """Move avail.idx past what was added."""
    return Step(Command.PUBLISH, (queue,))


def added(vm: Machine, requests: int = 1, queue: int = 0) -> None:
    """Descriptors filled, and not published: what is in the ring already, a start would serve (R3)."""
    guest: Guest = vm.guest
    for _ in range(requests):
        guest.add(queue=queue)
