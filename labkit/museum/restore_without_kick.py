"""36: a restored machine whose devices nobody has told to look."""

from __future__ import annotations

import os

from labkit.museum.mixed import MixedIntoNotifier
from labkit.museum.specimen import Specimen
from labkit.races.acts_state import SAVE_AND_LOAD
from labkit.races.invariants import EVERY_KICK_IS_SERVED
from labkit.races.scenario import Scenario, added, kick, publish
from labkit.virtio.mutations import Mutation


class StartsInSilence(MixedIntoNotifier):
    """A notifier is born without the kick that nobody made."""

    def assign(self, port: int | None) -> None:
        """Create the eventfd, with count 0, and tell KVM."""
        super().assign(port)
        os.eventfd_read(self.fd)
        self._vq.synthetic_due = 0


SPECIMEN = Specimen(
    number=36,
    name="restore-without-kick",
    happened=(
        "A kick that is in an eventfd is in no snapshot. Two VMMs restored rings with requests in them and waited for "
        "kicks that had been made before: the guest's disk hung."
    ),
    where="cloud-hypervisor, Firecracker",
    commits=("cloud-hypervisor 8004", "firecracker 5969", "firecracker 5958", "firecracker 6171"),
    rule="R3",
    mutation=Mutation("restore-without-kick", notifier=StartsInSilence),
    scenario=Scenario(
        name="kick-and-load",
        story="The guest kicks, and somewhere the device is saved and loaded.",
        invariants=(EVERY_KICK_IS_SERVED,),
        guest=(publish(), kick()),
        main=(SAVE_AND_LOAD,),
        prepare=added,
    ),
    invariant=EVERY_KICK_IS_SERVED,
    schedule="vx2 m",
)
