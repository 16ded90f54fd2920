"""20: a machine is stopped, and what its iothread had to do is done all the same."""

from labkit.museum.specimen import Specimen
from labkit.races.acts_rest import PAUSE
from labkit.races.invariants import EVERY_KICK_IS_SERVED, MEMORY_STANDS_STILL, REST_IS_REST
from labkit.races.scenario import Scenario, added, kick, publish
from labkit.trace.events import Cause
from labkit.virtio.mutations import Mutation, without_step_of
from labkit.virtio.table import Step

KICK_AND_PAUSE = Scenario(
    name="kick-and-pause",
    story="The guest kicks and the machine pauses, and the iothread may be woken before, between and after.",
    invariants=(MEMORY_STANDS_STILL, REST_IS_REST, EVERY_KICK_IS_SERVED),
    guest=(publish(), kick()),
    main=(PAUSE,),
    prepare=added,
)
SPECIMEN = Specimen(
    number=20,
    name="work-after-vm-stop",
    happened=(
        "A machine was stopped for a snapshot or a migration, and its I/O handlers went on: a request that was done "
        "after the stop wrote into memory that had been saved already."
    ),
    where="QEMU",
    commits=("e8bcf84200", "131c5221fe", "269bd822e7", "7abba7c638"),
    rule="R10",
    mutation=Mutation("work-after-vm-stop", rules=without_step_of(Cause.PAUSE, Step.STOP), late=True),
    scenario=KICK_AND_PAUSE,
    invariant=MEMORY_STANDS_STILL,
    schedule="vx2 mx3 i",
)
