"""24: kicks that were not wanted while somebody polled, and are not wanted for ever."""

import struct

from labkit.abi import NUMBERS, Feature
from labkit.machine import Machine
from labkit.museum.mixed import MixedIntoNotifier
from labkit.museum.specimen import Specimen
from labkit.native import lib
from labkit.races.acts_state import WORK_ALONE, WORK_TOGETHER
from labkit.races.invariants import EVERY_KICK_IS_SERVED
from labkit.races.scenario import Scenario, added, publish_and_kick
from labkit.virtio.mutations import Mutation

NO_NOTIFY = struct.pack("<H", NUMBERS["USED_NO_NOTIFY"])


class IsTakenAwayPolling(MixedIntoNotifier):
    """Who polls wants no kicks, and says so in the ring; who comes after it waits for one."""

    def detach(self) -> None:
        """The iothread lets go, in the middle of its polling."""
        super().detach()
        if self._vq.desc:
            lib.lk_memory_write(self._device.machine, self._vq.used, NO_NOTIFY, len(NO_NOTIFY))


def _up_without_event_idx(vm: Machine) -> None:
    vm.guest.negotiate(0xFFFFFFFF & ~Feature.EVENT_IDX, driver_ok=True)
    added(vm)


SPECIMEN = Specimen(
    number=24,
    name="notifications-left-off",
    happened=(
        "A handler that polled a ring had asked its driver for no kicks, and was detached for a while so that "
        "somebody could work with the disk alone. What was attached again waited for kicks that the driver had been "
        "told not to make: attaching must ask for them, and look at the ring once."
    ),
    where="QEMU",
    commits=("5bdbaebcce",),
    rule="R5",
    mutation=Mutation("notifications-left-off", notifier=IsTakenAwayPolling),
    scenario=Scenario(
        name="alone-with-the-disk",
        story="The driver makes a request, and kicks if the device wants it; the iothread lets go and watches again.",
        invariants=(EVERY_KICK_IS_SERVED,),
        guest=(publish_and_kick(),),
        main=(WORK_ALONE, WORK_TOGETHER),
        boot={"revision": "today", "bring_up": False},
        prepare=_up_without_event_idx,
    ),
    invariant=EVERY_KICK_IS_SERVED,
    schedule="mx3 v",
)
