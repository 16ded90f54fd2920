"""Which scenarios come by every row of the rules? A few for each cause, small enough to be tried in every order.

Together they miss no step of an engine: what is left out of a row breaks a contract in one of those named by its cause.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from labkit.abi import NUMBERS, QUEUE_NOTIFY_WIDTH, Command, Register, Status
from labkit.machine import Machine
from labkit.pc.pci import BAR0
from labkit.races import acts_rest as acts
from labkit.races.contracts import (
    AS_AT_POWER_ON,
    COMMAND_IS_WRITTEN,
    CONTRACTS,
    EVERY_REQUEST,
    SIGNALLED_WHILE_UP,
    STATUS_STAYS,
    WHERE_KICKS_ARE,
)
from labkit.races.invariants import EFFECTIVE, EVERY_KICK_IS_SERVED, NO_REGISTRATION_IS_LEFT, Invariant
from labkit.races.scenario import Scenario, Step, added, driver_ok, kick, publish
from labkit.trace.events import Cause

AT, MOVED_TO = NUMBERS["BAR0_FIRST"], NUMBERS["BAR0_FIRST"] + 0x1000
ON_THE_WAY = Status.ACKNOWLEDGE | Status.DRIVER
SERVED = (EVERY_KICK_IS_SERVED, NO_REGISTRATION_IS_LEFT)
_OF: dict[Cause | str, list[Callable[[str], Scenario]]] = {}


def of(cause: Cause | str, revision: str) -> tuple[Scenario, ...]:
    """Scenarios for a cause, or for "start" and "stop", under the rules of a revision."""
    return tuple(_made(make, revision) for make in _OF.get(cause, ()))


@cache
def _made(make: Callable[[str], Scenario], revision: str) -> Scenario:
    return make(revision)


def _for(*causes: Cause | str) -> Callable[[Callable[[str], Scenario]], Callable[[str], Scenario]]:
    def note(make: Callable[[str], Scenario]) -> Callable[[str], Scenario]:
        for cause in causes:
            _OF.setdefault(cause, []).append(make)
        return make

    return note


def _scenario(
    revision: str,
    name: str,
    story: str,
    *more: Invariant,
    boot: dict[str, Any] | None = None,
    but_for: tuple[Invariant, ...] = (),
    **rest: Any,
) -> Scenario:
    boot = {"revision": revision, **(boot or {})}
    invariants = tuple(one for one in (*CONTRACTS, *SERVED, *more) if one not in but_for)
    return Scenario(f"{name}-{revision}".replace(".", "-"), story, invariants, boot=boot, **rest)


# -- the guest's steps and where it stands -----------------------------------------------------------------------------


def on_the_way(vm: Machine) -> None:
    """ACKNOWLEDGE|DRIVER, a ring, and a request that is not published."""
    vm.guest.clear_driver_ok()
    added(vm)


def without_bus_master(vm: Machine) -> None:
    """The same, but nobody has turned bus-master on."""
    vm.guest.clear_driver_ok()
    vm.guest.bus_master(False)
    added(vm)


def bus_master(on: bool) -> Step:
    """Bus-master in COMMAND."""
    return Step(Command.BUS_MASTER, (int(on),))


def status(value: int) -> Step:
    """Write STATUS as it is."""
    return Step(Command.SET_STATUS, (value,))


def out(port: int, width: int, value: int) -> Step:
    """Write a port."""
    return Step(Command.PORT_OUT, (port, width, value))


REQUEST = (publish(), kick())
STARTS_LATER = ("merged", "0.14")  # what a backend gives back traps until something else starts the notifiers (R9)


# -- R2, R3, R5 --------------------------------------------------------------------------------------------------------


@_for(Cause.DRIVER_OK, "start", "stop")
def _up(revision: str) -> Scenario:
    return _scenario(
        revision,
        "up",
        "The driver comes up and has a request.",
        STATUS_STAYS,
        prepare=on_the_way,
        guest=(driver_ok(True), *REQUEST),
    )


@_for(Cause.DRIVER_OK, "start")
def _published_before(revision: str) -> Scenario:
    return _scenario(
        revision,
        "published-before",
        "A request is in the ring before the driver comes up, and nobody kicks.",
        EVERY_REQUEST,
        prepare=on_the_way,
        guest=(publish(), driver_ok(True)),
    )


@_for(Cause.DRIVER_NOT_OK, "start", "stop")
def _up_and_down(revision: str) -> Scenario:
    return _scenario(
        revision,
        "up-and-down",
        "The driver comes up, has a request, and gives up the device.",
        STATUS_STAYS,
        prepare=on_the_way,
        guest=(driver_ok(True), *REQUEST, driver_ok(False)),
    )


@_for("stop")
def _up_again(revision: str) -> Scenario:
    return _scenario(
        revision,
        "up-again",
        "The driver gives up the device and comes up once more.",
        STATUS_STAYS,
        prepare=on_the_way,
        guest=(driver_ok(True), driver_ok(False), driver_ok(True), *REQUEST),
    )


@_for(Cause.STATUS_ZERO)
def _status_zero(revision: str) -> Scenario:
    return _scenario(
        revision,
        "status-zero",
        "The driver has a request, and resets the device.",
        prepare=added,
        guest=(*REQUEST, status(0)),
    )


@_for(Cause.DRIVER_NOT_OK)
def _helped(revision: str) -> Scenario:
    """Only today's rules help; by the others a device without bus-master works all the same."""
    return _scenario(
        revision,
        "forgot-bus-master",
        "A driver comes up as the specification says, and forgets bus-master.",
        EVERY_REQUEST,
        prepare=without_bus_master,
        guest=(status(ON_THE_WAY), driver_ok(True), *REQUEST),
    )


# -- R4 ----------------------------------------------------------------------------------------------------------------


@_for(Cause.ASSIGN_FAILED)
def _assign_fails(revision: str) -> Scenario:
    return _scenario(
        revision,
        "assign-fails",
        "The host has no ioeventfd left when the driver comes up.",
        prepare=on_the_way,
        begin=acts.next_assign_fails,
        guest=(driver_ok(True), *REQUEST),
    )


# -- R6, R7 ------------------------------------------------------------------------------------------------------------


@_for(Cause.PFN_ZERO)
def _pfn_zero(revision: str) -> Scenario:
    return _scenario(
        revision,
        "pfn-zero",
        "The driver has a request, and takes the ring away.",
        AS_AT_POWER_ON,
        prepare=added,
        guest=(*REQUEST, out(AT + Register.QUEUE_PFN, 4, 0)),
    )


@_for(Cause.DEVICE_RESET)
def _device_reset(revision: str) -> Scenario:
    return _scenario(
        revision,
        "device-reset",
        "The driver has a request, and somebody resets the bus.",
        AS_AT_POWER_ON,
        boot={"irq": "msix"},
        prepare=added,
        begin=acts.bug_is_noted,
        guest=REQUEST,
        main=(acts.RESET_DEVICE,),
    )


# -- R8, R13 -----------------------------------------------------------------------------------------------------------


@_for(Cause.BUS_MASTER_OFF)
def _bus_master_off(revision: str) -> Scenario:
    return _scenario(
        revision,
        "bus-master-off",
        "The driver has a request, and clears bus-master.",
        COMMAND_IS_WRITTEN,
        prepare=added,
        guest=(*REQUEST, bus_master(False)),
    )


@_for(Cause.BUS_MASTER_ON)
def _bus_master_on(revision: str) -> Scenario:
    return _scenario(
        revision,
        "bus-master-on",
        "The driver clears bus-master and sets it again.",
        COMMAND_IS_WRITTEN,
        guest=(bus_master(False), bus_master(True)),
    )


@_for(Cause.DRIVER_OK, Cause.BUS_MASTER_OFF)
def _without_bus_master(revision: str) -> Scenario:
    """By today's rules such a driver is stopped; by those of before it is left alone."""
    alone = () if revision == "today" else (STATUS_STAYS,)
    return _scenario(
        revision,
        "up-without-bus-master",
        "A driver comes up without bus-master, sets it, and clears it again.",
        COMMAND_IS_WRITTEN,
        *alone,
        prepare=without_bus_master,
        guest=(driver_ok(True), bus_master(True), bus_master(False), *REQUEST),
    )


# -- R9 ----------------------------------------------------------------------------------------------------------------


@_for(Cause.BACKEND_TAKES)
def _status_again(revision: str) -> Scenario:
    return _scenario(
        revision,
        "status-again",
        "A backend takes the queue, and the driver writes its status once more.",
        guest=(driver_ok(True),),
        main=(acts.HAND_OVER,),
        backend=True,
    )


@_for(Cause.GRAB, Cause.BACKEND_TAKES)
def _hand_over(revision: str) -> Scenario:
    return _scenario(
        revision,
        "hand-over",
        "The driver has a request, and a backend takes the queue.",
        prepare=added,
        guest=REQUEST,
        main=(acts.HAND_OVER,),
        backend=True,
    )


@_for(Cause.RELEASE, Cause.BACKEND_GIVES, Cause.BACKEND_TAKES)
def _take_back(revision: str) -> Scenario:
    return _scenario(
        revision,
        "take-back",
        "The driver has a request, and a backend gives the queue back.",
        prepare=added,
        begin=acts.is_lent,
        guest=REQUEST,
        main=(acts.TAKE_BACK,),
        but_for=(SIGNALLED_WHILE_UP,) if revision in STARTS_LATER else (),
        backend=True,
    )


@_for(Cause.GRAB, Cause.BACKEND_TAKES, Cause.BACKEND_GIVES, Cause.RELEASE)
def _there_and_back(revision: str) -> Scenario:
    later = revision in STARTS_LATER
    return _scenario(
        revision,
        "there-and-back",
        "A backend takes the queue of an idle driver and gives it back, and the notifiers come to be started again.",
        *((EFFECTIVE,) if later else ()),
        main=(acts.HAND_OVER, acts.TAKE_BACK, *((acts.PAUSE_AND_RESUME,) if later else ())),
        backend=True,
    )


# -- R10, R11 ----------------------------------------------------------------------------------------------------------


@_for(Cause.PAUSE)
def _pause(revision: str) -> Scenario:
    return _scenario(
        revision,
        "pause",
        "The driver has a request, and the machine pauses.",
        prepare=added,
        guest=REQUEST,
        main=(acts.PAUSE,),
    )


@_for(Cause.RESUME, Cause.PAUSE)
def _pause_and_resume(revision: str) -> Scenario:
    return _scenario(
        revision,
        "pause-and-resume",
        "The driver has a request, and the machine pauses and goes on.",
        prepare=added,
        guest=REQUEST,
        main=(acts.PAUSE, acts.RESUME),
    )


@_for(Cause.RESUME)
def _pause_while_down(revision: str) -> Scenario:
    return _scenario(
        revision,
        "pause-while-down",
        "A machine whose driver is not up pauses and goes on.",
        prepare=on_the_way,
        main=(acts.PAUSE, acts.RESUME),
    )


@_for(Cause.EXIT)
def _unplug(revision: str) -> Scenario:
    return _scenario(
        revision,
        "unplug",
        "The driver has a kick on its way, and the device is pulled out.",
        prepare=added,
        guest=REQUEST,
        main=(acts.UNPLUG,),
    )


# -- R16, R17, R18 -----------------------------------------------------------------------------------------------------


@_for(Cause.BAR0_MOVED)
def _bar_moves(revision: str) -> Scenario:
    follows = (WHERE_KICKS_ARE,) if revision == "today" else ()
    return _scenario(
        revision,
        "bar-moves",
        "The guest moves BAR0 while the notifiers are started, and kicks at the new port.",
        *follows,
        prepare=added,
        guest=(
            Step(Command.PCI_WRITE, (BAR0, 4, MOVED_TO | 1)),
            publish(),
            out(MOVED_TO + Register.QUEUE_NOTIFY, QUEUE_NOTIFY_WIDTH, 0),
        ),
    )


@_for(Cause.KICK)
def _early_kick(revision: str) -> Scenario:
    return _scenario(
        revision, "early-kick", "A driver kicks before it sets DRIVER_OK.", prepare=on_the_way, guest=REQUEST
    )


@_for(Cause.LOAD)
def _load(revision: str) -> Scenario:
    return _scenario(
        revision,
        "load",
        "A driver that came up without bus-master has a request, and the device is loaded as it was.",
        prepare=added,
        begin=acts.bug_is_noted,
        main=(acts.LOAD_DEVICE,),
    )


@_for(Cause.LOAD)
def _load_power_on(revision: str) -> Scenario:
    return _scenario(
        revision,
        "load-power-on",
        "A device with a ring is loaded as it was at power-on.",
        boot={"bring_up": False},
        begin=acts.comes_up,
        main=(acts.LOAD_DEVICE,),
    )
