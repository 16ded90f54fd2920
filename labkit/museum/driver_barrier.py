"""27: a driver that reads whether it shall kick before the device can see what there is to hear of."""

from labkit.museum.specimen import Specimen
from labkit.races.invariants import EVERY_KICK_IS_SERVED
from labkit.races.scenario import POINTS, Scenario, add, added, publish_and_kick, publish_in_two
from labkit.trace.events import Kind
from labkit.virtio.mutations import Mutation

SPECIMEN = Specimen(
    number=27,
    name="driver-barrier",
    happened=(
        "The mirror image of 26: the driver stores avail.idx and reads whether the device wants kicks, the device "
        "writes that it does and reads avail.idx. Each needs its barrier between the two, or both see the old value, "
        "and a kick is not made. QEMU had none; here it is the driver that has none, so that what it stores is seen a "
        "step after it has looked. `labkit.races.litmus()` shows two threads of this machine do it."
    ),
    where="QEMU",
    commits=("92045d80ba",),
    rule="ring",
    mutation=Mutation("driver-barrier", driver="barrier=none"),
    scenario=Scenario(
        name="publishes-and-looks",
        story=(
            "The driver makes two requests, and kicks for each if the device wants that. With the second one others "
            "may go on between its store of avail.idx and its look at used.flags, where its barrier stands."
        ),
        invariants=(EVERY_KICK_IS_SERVED,),
        guest=(publish_and_kick(), add(), *publish_in_two()),
        boot={"revision": "today"},
        prepare=added,
        points=POINTS | {Kind.EMPTY},
    ),
    invariant=EVERY_KICK_IS_SERVED,
    schedule="vx3 ix6 v",
)
