"""19: who stops a notifier waits for its handler, and has the lock that the handler wants."""

from labkit.abi import Command
from labkit.museum.specimen import Specimen
from labkit.native import lib
from labkit.races.invariants import EVERY_KICK_IS_SERVED, NO_DEADLOCK
from labkit.races.scenario import Scenario, Step, added, kick, publish
from labkit.virtio.mutations import Mutation

SPECIMEN = Specimen(
    number=19,
    name="lock-and-wait",
    happened=(
        "The guest cleared bus-master. Its vCPU held the big lock and waited until the thread that polls had let go of "
        "the queue; that thread was about to handle a kick, and waited for the lock. The machine stood still."
    ),
    where="QEMU",
    commits=("c0c6a6ac7b",),
    rule="R8",
    mutation=Mutation("lock-and-wait", core=lib.MUTATE_STOP_WAITS),
    scenario=Scenario(
        name="kick-and-bus-master",
        story="The guest kicks and clears bus-master, and the iothread may be woken before, between and after.",
        invariants=(EVERY_KICK_IS_SERVED,),
        guest=(publish(), kick(), Step(Command.BUS_MASTER, (0,))),
        prepare=added,
    ),
    invariant=NO_DEADLOCK,
    schedule="vx9 ix2",
)
