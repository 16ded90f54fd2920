"""15: a property that is on, and does nothing."""

from __future__ import annotations

from typing import Any

from labkit.museum.mixed import MixedIntoEngine
from labkit.museum.specimen import Specimen
from labkit.races.invariants import EFFECTIVE, EVERY_KICK_IS_SERVED
from labkit.races.scenario import Scenario, driver_ok, kick, not_up, publish
from labkit.virtio.mutations import Mutation


class AsksTooEarly(MixedIntoEngine):
    """Whether the host has ioeventfds is asked when the device is made: there is no running machine to ask then."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.turned_off = not self.running


SPECIMEN = Specimen(
    number=15,
    name="silently-off",
    happened=(
        "The probe for ioeventfds ran before there was anything to probe, and said no. The property stayed on, every "
        "kick trapped, and all that was seen of it was a significant regression in performance."
    ),
    where="QEMU",
    commits=("a16c53b101",),
    rule="R1",
    mutation=Mutation("silently-off", engine=AsksTooEarly),
    scenario=Scenario(
        name="up-with-the-property",
        story="The driver of a device with ioeventfd on comes up and kicks.",
        invariants=(EFFECTIVE, EVERY_KICK_IS_SERVED),
        guest=(driver_ok(True), publish(), kick()),
        prepare=not_up,
    ),
    invariant=EFFECTIVE,
    schedule="v",
)
