"""1: a kick that was signalled, and that nobody has looked at when its notifier stops."""

from labkit.museum.specimen import Specimen
from labkit.races.invariants import EVERY_KICK_IS_SERVED, NO_REGISTRATION_IS_LEFT
from labkit.races.scenario import Scenario, added, driver_ok, kick, publish
from labkit.virtio.mutations import Mutation, without_part
from labkit.virtio.table import Part

SPECIMEN = Specimen(
    number=1,
    name="lost-kick-at-deassign",
    happened=(
        "Before the patch the notifier was closed without a look. A kick that the iothread had not seen yet was gone, "
        "and the guest waited for its request."
    ),
    where="QEMU",
    commits=("25db9ebe15",),
    rule="R5",
    mutation=Mutation("lost-kick-at-deassign", rules=without_part(Part.DRAIN)),
    scenario=Scenario(
        name="kick-and-stop",
        story="The guest kicks and clears DRIVER_OK, and the iothread may be woken before, between and after.",
        invariants=(EVERY_KICK_IS_SERVED, NO_REGISTRATION_IS_LEFT),
        guest=(publish(), kick(), driver_ok(False)),
        prepare=added,
    ),
    invariant=EVERY_KICK_IS_SERVED,
    schedule="vx20",
)
