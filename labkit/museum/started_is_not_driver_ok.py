"""21: a device that works before DRIVER_OK, and a saved state that knows DRIVER_OK only."""

from __future__ import annotations

from labkit.museum.mixed import MixedIntoEngine
from labkit.museum.specimen import Specimen
from labkit.races.acts_state import SAVE_AND_LOAD
from labkit.races.invariants import EVERY_KICK_IS_SERVED
from labkit.races.scenario import Scenario, kick, not_up, publish
from labkit.state import State
from labkit.trace.events import Kind
from labkit.virtio.mutations import Mutation


class SavesNoStart(MixedIntoEngine):
    """That a kick has started the device is in no saved state."""

    def save(self) -> State:
        """What a start would depend on, but for that."""
        return {**super().save(), "kicked": 0}


SPECIMEN = Specimen(
    number=21,
    name="started-is-not-driver-ok",
    happened=(
        "Drivers of old kick before they set DRIVER_OK, and the device starts on that. Whether it had was not saved: "
        "on the other side of a migration it waited for a DRIVER_OK or a kick that was past, with a request in its "
        "ring."
    ),
    where="QEMU",
    commits=("7dc7f12297", "4c5cf37b50"),
    rule="R17",
    mutation=Mutation("started-is-not-driver-ok", engine=SavesNoStart),
    scenario=Scenario(
        name="kick-before-driver-ok",
        story="A driver kicks before DRIVER_OK, which it never sets; somewhere the device is saved and loaded.",
        invariants=(EVERY_KICK_IS_SERVED,),
        guest=(publish(), kick()),
        main=(SAVE_AND_LOAD,),
        boot={"revision": "today"},
        points=frozenset({Kind.WOKEN, Kind.KICK_EVENTFD}),
        prepare=not_up,
    ),
    invariant=EVERY_KICK_IS_SERVED,
    schedule="vx4 m",
)
