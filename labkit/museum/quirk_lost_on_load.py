"""18: a driver that forgot bus-master, and a machine that forgot that it had."""

from __future__ import annotations

from labkit.abi import NUMBERS, Command, Status
from labkit.machine import Machine
from labkit.museum.specimen import Specimen
from labkit.races.acts_state import SAVE_AND_LOAD
from labkit.races.invariants import STATUS_IS_THE_DRIVERS
from labkit.races.scenario import Scenario, Step, set_status
from labkit.trace.events import Cause
from labkit.virtio.mutations import Mutation, with_rows_of
from labkit.virtio.notifier import V0_14
from labkit.virtio.table import Revision

UP = Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK
COMMAND_AGAIN = Step(Command.BUS_MASTER, (NUMBERS["BUS_MASTER_AS_IT_IS"],))
OF_THE_FLAG = (Cause.DRIVER_OK, Cause.DRIVER_NOT_OK, Cause.BUS_MASTER_OFF, Cause.LOAD)


def _as_in_0_14(rules: Revision) -> Revision:
    return with_rows_of(V0_14, *OF_THE_FLAG)(rules)._replace(heeds_bus_master=False)


def _forgets_bus_master(vm: Machine) -> None:
    vm.guest.bus_master(False)
    vm.guest.set_status(Status.ACKNOWLEDGE | Status.DRIVER)


SPECIMEN = Specimen(
    number=18,
    name="quirk-lost-on-load",
    happened=(
        "Drivers that never set bus-master were let work by a flag, noted when DRIVER_OK was written. The flag was in "
        "no saved state: after a migration the next write of COMMAND took DRIVER_OK from them. It was mended three "
        "times, and is gone: today bus-master is set for such a driver. The mutation is 0.14's flag in today's table."
    ),
    where="QEMU",
    commits=("89c473fd82", "4d43d3f3c8", "45363e46ae", "68a27b208a"),
    rule="R18",
    mutation=Mutation("quirk-lost-on-load", rules=_as_in_0_14),
    scenario=Scenario(
        name="no-bus-master-and-a-load",
        story="A driver that forgets bus-master comes up and writes COMMAND as it reads it; somewhere the "
        "device is saved and loaded.",
        invariants=(STATUS_IS_THE_DRIVERS,),
        guest=(set_status(UP), COMMAND_AGAIN),
        main=(SAVE_AND_LOAD,),
        boot={"revision": "today", "ioeventfd": False},  # STATUS alone is looked at
        prepare=_forgets_bus_master,
    ),
    invariant=STATUS_IS_THE_DRIVERS,
    schedule="vx4 m",
)
