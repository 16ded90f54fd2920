"""14: a bus with room for six, and a start that keeps what it got."""

from __future__ import annotations

from labkit.board import Board
from labkit.machine import Machine
from labkit.museum.mixed import LeavesNotifiers
from labkit.museum.specimen import Specimen
from labkit.races.invariants import NO_REGISTRATION_IS_LEFT
from labkit.races.scenario import Scenario, driver_ok
from labkit.trace.events import Kind
from labkit.virtio.hostnotifier import HostNotifier
from labkit.virtio.mutations import Mutation

ROOM = 6  # NR_IOBUS_DEVS of the kernels that had it


class KeepsWhatItGot(LeavesNotifiers):
    """A start that fails releases nothing."""

    def _done(self) -> list[HostNotifier]:
        return []


def _not_up(vm: Machine) -> None:
    vm.guest.clear_driver_ok()


def _bus_is_full(board: Board) -> None:
    board.proxy.faults.fail_assign(queue=ROOM)


SPECIMEN = Specimen(
    number=14,
    name="io-bus-full",
    happened=(
        "Old kernels had room for six devices on their I/O bus, and a few ioeventfds used it up. A start that runs "
        "into ENOSPC must give back what it has; what it keeps is in everybody's way, its own at the next start too."
    ),
    where="QEMU, KVM",
    commits=("d2f2b8a740", "Linux 786a9f888bfb"),
    rule="R4",
    mutation=Mutation("io-bus-full", engine=KeepsWhatItGot),
    scenario=Scenario(
        name="room-for-six",
        story="The driver of a device with seven queues comes up; the seventh assign finds no room.",
        invariants=(NO_REGISTRATION_IS_LEFT,),
        guest=(driver_ok(True),),
        device="null",
        boot={"queues": ROOM + 1, "ioeventfd": True},
        prepare=_not_up,
        begin=_bus_is_full,
        points=frozenset({Kind.WOKEN, Kind.KICK_EVENTFD, Kind.KICK_TRAP, Kind.STATUS}),
    ),
    invariant=NO_REGISTRATION_IS_LEFT,
    schedule="v",
)
