"""11: an eventfd that cannot be had, and a VMM that ends for it."""

from __future__ import annotations

from labkit.errors import HostError
from labkit.museum.mixed import MixedIntoEngine
from labkit.museum.specimen import Specimen
from labkit.races.acts_state import NEXT_ASSIGN_FAILS
from labkit.races.invariants import EVERY_KICK_IS_SERVED, GOES_ON
from labkit.races.scenario import Scenario, driver_ok, kick, not_up, publish
from labkit.trace.events import Cause
from labkit.virtio.mutations import Mutation


class GivesUp(MixedIntoEngine):
    """Without its notifiers the machine does not go on."""

    def _roll_back(self, error: HostError, cause: Cause) -> None:
        raise error


SPECIMEN = Specimen(
    number=11,
    name="exit-instead-of-fallback",
    happened=(
        "A data plane whose notifiers could not be set up called exit(1): the guest that started one disk too many "
        "was gone. When it fell back to traps instead, it tried again at each kick, until that was stopped, too."
    ),
    where="QEMU",
    commits=("f9907ebc4c", "2f5f70fa5f", "4adea8042f"),
    rule="R4",
    mutation=Mutation("exit-instead-of-fallback", engine=GivesUp),
    scenario=Scenario(
        name="no-eventfd-to-be-had",
        story="The driver comes up and kicks, and KVM may refuse the notifier or not.",
        invariants=(GOES_ON, EVERY_KICK_IS_SERVED),
        guest=(driver_ok(True), publish(), kick()),
        main=(NEXT_ASSIGN_FAILS,),
        prepare=not_up,
    ),
    invariant=GOES_ON,
    schedule="m",
)
