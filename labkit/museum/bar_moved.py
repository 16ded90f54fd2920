"""37: a BAR that moves, and a registration that does not."""

from __future__ import annotations

from labkit.abi import NUMBERS, QUEUE_NOTIFY_WIDTH, Command, Register, Status
from labkit.museum.mixed import MixedIntoEngine
from labkit.museum.specimen import Specimen
from labkit.races.invariants import EVERY_KICK_IS_SERVED, NO_REGISTRATION_IS_LEFT
from labkit.races.scenario import Scenario, Step, added, port_out, publish
from labkit.state import State
from labkit.trace.events import Cause
from labkit.virtio.mutations import Mutation, with_rows_of
from labkit.virtio.notifier import V0_14

HOME = NUMBERS["BAR0_FIRST"]
THERE = HOME + 0x1000


class LeavesTheOldPort(MixedIntoEngine):
    """What stays behind there goes with the machine, and when it is loaded anew."""

    def load(self, state: State) -> None:
        """And nothing is left of before."""
        for fd in self._all._stranded:
            self.each[0]._host.deassign(0, HOME + Register.QUEUE_NOTIFY, QUEUE_NOTIFY_WIDTH, fd)
        self._all.close()
        super().load(state)


SPECIMEN = Specimen(
    number=37,
    name="bar-moved",
    happened=(
        "A driver or a firmware moved BAR0 of a device that was up. The eventfd stayed at the old port, where every "
        "kick of whoever got that port was taken for one; the new port trapped, and the stop failed with ENOENT, for "
        "it looked at the new one. The mutation is 0.14's row in today's table."
    ),
    where="QEMU",
    commits=("25db9ebe15",),
    rule="R16",
    mutation=Mutation("bar-moved", rules=with_rows_of(V0_14, Cause.BAR0_MOVED), engine=LeavesTheOldPort),
    scenario=Scenario(
        name="bar-moves-while-up",
        story="The guest moves BAR0, kicks there, and clears DRIVER_OK there.",
        invariants=(NO_REGISTRATION_IS_LEFT, EVERY_KICK_IS_SERVED),
        guest=(
            Step(Command.PCI_WRITE, (NUMBERS["PCI_BAR0"], 4, THERE)),
            publish(),
            port_out(THERE + Register.QUEUE_NOTIFY, QUEUE_NOTIFY_WIDTH, 0),
            port_out(THERE + Register.STATUS, 1, Status.ACKNOWLEDGE | Status.DRIVER),
        ),
        boot={"revision": "today"},
        prepare=added,
    ),
    invariant=EVERY_KICK_IS_SERVED,
    schedule="v",
)
