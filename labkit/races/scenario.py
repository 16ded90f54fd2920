"""What is a scenario? A machine at one moment, what each actor is to do from there, and what must hold in every order.

The guest's steps and the main thread's are taken when a schedule says so; the iothread and a backend do what they find.
A guest's step is one of the agent's commands that does not wait for the device: the others would wait for a schedule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from labkit.abi import NUMBERS, SECTOR_BYTES, BlkType, Command
from labkit.board import Board
from labkit.errors import UsageError
from labkit.guest import Guest
from labkit.machine import Machine
from labkit.races.invariants import Invariant
from labkit.trace.events import Kind
from labkit.virtio.devices.base import Device

if TYPE_CHECKING:
    from labkit.races.stepper import Stepper

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


def nothing(_: object) -> None:
    """Not a lambda: a scenario goes to other processes."""


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
    device: str | type[Device] = "blk"
    boot: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Machine], object] = nothing
    begin: Callable[[Board], object] = nothing  # what no snapshot holds: faults, a backend
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
        device = self.device if isinstance(self.device, str) else self.device.__name__
        said = [self.name, device, str(sorted(self.boot.items())), str(sorted(self.points)), str(self.backend)]
        said += [f"{index}: {step}" for index, steps in sorted(self.steps.items()) for step in steps]
        said += [act.name for act in self.main]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:4]

    def stepper(self, mutations: Sequence[str] = (), cpu: str = "auto") -> Stepper:
        """Decide a schedule of it step by step. UsageError: no such mutation, or it cannot be prepared."""
        from labkit.races.stepper import Stepper

        return Stepper(self, mutations, cpu)


def kick(queue: int = 0, times: int = 1) -> Step:
    """Write QUEUE_NOTIFY."""
    return Step(Command.KICK, (queue, times))


def driver_ok(on: bool) -> Step:
    """Set DRIVER_OK in STATUS, or clear it."""
    return Step(Command.DRIVER_OK, (int(on),))


def set_status(value: int) -> Step:
    """Write STATUS as it is."""
    return Step(Command.SET_STATUS, (value,))


def port_out(port: int, width: int, value: int) -> Step:
    """`out`, 1, 2 or 4 bytes."""
    return Step(Command.PORT_OUT, (port, width, value))


def publish(queue: int = 0) -> Step:
    """Move avail.idx past what was added."""
    return Step(Command.PUBLISH, (queue,))


def publish_and_kick(queue: int = 0) -> Step:
    """And then kick, if the device wants it: what a driver does."""
    return Step(Command.PUBLISH, (queue, NUMBERS["PUBLISH_AND_KICK"]))


def publish_in_two(queue: int = 0) -> tuple[Step, Step]:
    """The same as two steps: it stores avail.idx, and looks whether the device wants a kick. Its barrier is between."""
    return Step(Command.PUBLISH, (queue, NUMBERS["PUBLISH_BEGIN"])), Step(
        Command.PUBLISH, (queue, NUMBERS["PUBLISH_END"])
    )


def add(queue: int = 0) -> Step:
    """Fill descriptors for a read of a sector."""
    return Step(Command.ADD, (queue, BlkType.IN, 0, SECTOR_BYTES, 0))


def added(vm: Machine, requests: int = 1, queue: int = 0) -> None:
    """Descriptors filled, and not published: what is in the ring already, a start would serve (R3)."""
    guest: Guest = vm.guest
    for _ in range(requests):
        guest.add(queue=queue)


def not_up(vm: Machine) -> None:
    """The driver has set up its rings, and takes its DRIVER_OK back; a request is filled as `added` does it."""
    vm.guest.clear_driver_ok()
    added(vm)
