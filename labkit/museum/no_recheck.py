"""28: a device that asks for kicks, and does not look once more."""

from labkit.museum.specimen import Specimen
from labkit.native import lib
from labkit.races.invariants import EVERY_KICK_IS_SERVED
from labkit.races.scenario import POINTS, Scenario, add, added, publish_and_kick
from labkit.trace.events import Kind
from labkit.virtio.mutations import Mutation

SPECIMEN = Specimen(
    number=28,
    name="no-recheck",
    happened=(
        "A device asks for no kicks while it works. What the driver publishes between the device's last look at the "
        "ring and its asking for kicks again comes without one; a device that goes to sleep then never sees it. "
        "Devices got this wrong one by one: net, the others, and the rings that are polled."
    ),
    where="QEMU",
    commits=("600f5ce356", "f937309fbd", "06b1297017"),
    rule="R14",
    mutation=Mutation("no-recheck", core=lib.MUTATE_NO_RECHECK),
    scenario=Scenario(
        name="two-requests",
        story="The driver makes two requests, and kicks for each if the device wants that.",
        invariants=(EVERY_KICK_IS_SERVED,),
        guest=(publish_and_kick(), add(), publish_and_kick()),
        boot={"revision": "today"},
        prepare=added,
        points=POINTS | {Kind.EMPTY},
    ),
    invariant=EVERY_KICK_IS_SERVED,
    schedule="vx2 ix5 v",
)
