"""9: the roll-back of a start that failed undoes the wrong queues."""

from collections.abc import Iterable

from labkit.board import Board
from labkit.errors import HostError
from labkit.machine import Machine
from labkit.museum.mixed import LeavesNotifiers
from labkit.museum.specimen import Specimen
from labkit.races.invariants import FDS_AT_BASELINE, NO_CALL_IS_REFUSED, NO_REGISTRATION_IS_LEFT
from labkit.races.scenario import Scenario, driver_ok
from labkit.trace.events import Cause
from labkit.virtio.hostnotifier import HostNotifier
from labkit.virtio.mutations import Mutation


class UndoesTheNext(LeavesNotifiers):
    """The roll-back counts from the queue that failed: each time it undoes the one after that which is meant."""

    _off = 0

    def _roll_back(self, error: HostError, cause: Cause) -> None:
        self._off = 1
        super()._roll_back(error, cause)
        self._off = 0

    def _take_down(self, notifiers: Iterable[HostNotifier], rule: int, cause: Cause) -> None:
        super()._take_down([self.each[notifier.queue + self._off] for notifier in notifiers], rule, cause)


def negotiate(vm: Machine) -> None:
    """As far as DRIVER_OK, which is a step."""
    vm.guest.negotiate()


def refuse_the_second(board: Board) -> None:
    """The host has no room when queue 1 is assigned for the first time."""
    board.proxy.faults.fail_assign(1)


SPECIMEN = Specimen(
    number=9,
    name="rollback-index",
    happened=(
        "The assign for one queue of several failed, and the loop that undid the others named the wrong ones: with the "
        "failed queue's index, or without the first queue's offset. Four times, in four places, the eventfds and "
        "registrations of other queues stayed, and the next start found them."
    ),
    where="QEMU",
    commits=("5b807181c2", "92099aa4e9", "16f6804c46", "570fe439e5"),
    rule="R4",
    mutation=Mutation("rollback-index", engine=UndoesTheNext),
    scenario=Scenario(
        name="start-fails-at-the-second",
        story="KVM refuses the second queue of three. The driver sets DRIVER_OK once more, and the start succeeds.",
        invariants=(FDS_AT_BASELINE, NO_CALL_IS_REFUSED, NO_REGISTRATION_IS_LEFT),
        guest=(driver_ok(True), driver_ok(True)),
        device="net",
        boot={"revision": "0.14", "ioeventfd": True, "bring_up": False},
        prepare=negotiate,
        begin=refuse_the_second,
    ),
    invariant=FDS_AT_BASELINE,
    schedule="vx12",
)
