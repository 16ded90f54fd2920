"""17: a kick whose index is negative."""

from __future__ import annotations

from errno import EFAULT

from labkit.abi import NUMBERS, Register
from labkit.errors import HostError
from labkit.museum.mixed import MixedIntoEngine
from labkit.museum.specimen import Specimen
from labkit.native import lib
from labkit.races.invariants import EVERY_KICK_IS_SERVED, GOES_ON
from labkit.races.scenario import Scenario, added, kick, port_out, publish
from labkit.virtio.mutations import Mutation

NEGATIVE = 0xFFFFFFFF
NOTIFY_PORT = NUMBERS["BAR0_FIRST"] + Register.QUEUE_NOTIFY


class LeadsOutside(MixedIntoEngine):
    """What lies before the first queue is not read here: whoever would read it is stopped, as by a sanitizer."""

    def kick(self, value: int, width: int, port: int) -> None:
        """A kick that the core has not served."""
        if value > NEGATIVE >> 1:
            raise HostError("virtio_queue_notify", EFAULT, f"queue {value - NEGATIVE - 1} of a device")
        super().kick(value, width, port)


SPECIMEN = Specimen(
    number=17,
    name="negative-index",
    happened=(
        "The index of a trapped kick was compared as a signed number, so that 0xffffffff was below the limit. The VMM "
        "called whatever it took for a function before the first queue: a guest could crash its host's process, or "
        "more."
    ),
    where="QEMU",
    commits=("7157e2e23e",),
    rule="R12",
    mutation=Mutation("negative-index", engine=LeadsOutside, core=lib.MUTATE_SIGNED_INDEX),
    scenario=Scenario(
        name="kick-of-no-queue",
        story="The guest kicks its queue, and then one of index 0xffffffff.",
        invariants=(GOES_ON, EVERY_KICK_IS_SERVED),
        guest=(publish(), kick(), port_out(NOTIFY_PORT, 4, NEGATIVE)),
        prepare=added,
    ),
    invariant=GOES_ON,
    schedule="vx3",
)
