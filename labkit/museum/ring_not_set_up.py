"""30: a device with three queues, of which its driver uses one."""

from labkit.machine import Machine
from labkit.museum.specimen import Specimen
from labkit.native import lib
from labkit.races.contracts import STAYS_WHOLE
from labkit.races.scenario import Scenario, driver_ok
from labkit.virtio.mutations import Mutation


def one_of_three(vm: Machine) -> None:
    """The driver sets up queue 0 only, and has data of its own at address 0, where the other rings would be."""
    vm.guest.negotiate(queues=1)
    vm.memory.write(0, b"\xff" * 16)


SPECIMEN = Specimen(
    number=30,
    name="ring-not-set-up",
    happened=(
        "START covers every queue that a device has, and a driver need not use all of them. A queue without a ring was "
        "run all the same: the device took what stands at address 0 for one."
    ),
    where="QEMU",
    commits=("34c6bf22a8", "dd3dd4ba7b", "f0d634ea19"),
    rule="R12",
    mutation=Mutation("ring-not-set-up", core=lib.MUTATE_RUNS_WITHOUT_RING),
    scenario=Scenario(
        name="one-of-three",
        story="The driver of a network card has set up one queue of three, and comes up: START makes a kick for each.",
        invariants=(STAYS_WHOLE,),
        device="net",
        boot={"ioeventfd": True},
        guest=(driver_ok(True),),
        prepare=one_of_three,
    ),
    invariant=STAYS_WHOLE,
    schedule="v",
)
