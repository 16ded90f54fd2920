"""26: a device that reads whether it shall interrupt before the driver can see what there is to hear of."""

from labkit.abi import NUMBERS, Command, Feature
from labkit.machine import Machine
from labkit.museum.specimen import Specimen
from labkit.native import lib
from labkit.races.contracts import WAKES
from labkit.races.scenario import POINTS, Scenario, Step, added, kick, publish
from labkit.trace.events import Kind
from labkit.virtio.mutations import Mutation

DISK_QUEUE, IDX = 128, 2  # descriptors; where idx stands in avail and in used
AVAIL_FLAGS = NUMBERS["GPA_RINGS"] + DISK_QUEUE * NUMBERS["DESC_BYTES"]
USED_IDX = NUMBERS["GPA_RINGS"] + NUMBERS["RING_ALIGN"] + IDX


def polls(vm: Machine) -> None:
    """A driver that wants no interrupts, and none for an emptied ring either."""
    vm.guest.negotiate(features=0xFFFFFFFF & ~Feature.NOTIFY_ON_EMPTY, driver_ok=True)
    added(vm)


SPECIMEN = Specimen(
    number=26,
    name="device-barrier",
    happened=(
        "The read of the driver's wish passed the store of used.idx: the device saw that the driver did not want to be "
        "woken, the driver saw nothing done, and went to sleep. `labkit.races.litmus()` shows two threads of this "
        "machine do it; here the device reads first."
    ),
    where="QEMU, DPDK",
    commits=("a281ebc11a", "DPDK 159793ac867b"),
    rule="ring",
    mutation=Mutation("device-barrier", core=lib.MUTATE_LOOKS_EARLY),
    scenario=Scenario(
        name="asks-and-looks",
        story="A driver that polls gives it up: it asks to be woken, looks once more at used.idx, and sleeps.",
        invariants=(WAKES,),
        guest=(publish(), kick(), Step(Command.STORE, (AVAIL_FLAGS, 2, 0)), Step(Command.LOAD, (USED_IDX, 2))),
        prepare=polls,
        points=POINTS | {Kind.REQUEST},
    ),
    invariant=WAKES,
    schedule="vx2 ix5 vx2",
)
