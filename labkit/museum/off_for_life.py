"""12: one assign that failed, and notifiers that stay off as long as the machine lives."""

from labkit.abi import Status
from labkit.museum.specimen import Specimen
from labkit.races.acts_state import NEXT_ASSIGN_FAILS
from labkit.races.invariants import EFFECTIVE
from labkit.races.scenario import Scenario, not_up, set_status
from labkit.trace.events import Cause, Kind
from labkit.virtio.mutations import Mutation, with_rows_of
from labkit.virtio.notifier import V6

UP = Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK

SPECIMEN = Specimen(
    number=12,
    name="off-for-life",
    happened=(
        "v6 cleared the property when an assign failed. A guest that booted while the host was short of something "
        "kept to traps after each reset; since 0.14 the next start tries again. The mutation is v6's row in 0.14's "
        "table."
    ),
    where="QEMU",
    commits=("b36e391441",),
    rule="R4",
    mutation=Mutation("off-for-life", rules=with_rows_of(V6, Cause.ASSIGN_FAILED)),
    scenario=Scenario(
        name="refused-once",
        story="The driver comes up, resets the device and comes up again; KVM refuses one assign.",
        invariants=(EFFECTIVE,),
        guest=(set_status(UP), set_status(0), set_status(UP)),
        main=(NEXT_ASSIGN_FAILS,),
        boot={"revision": "0.14"},
        points=frozenset({Kind.WOKEN}),
        prepare=not_up,
    ),
    invariant=EFFECTIVE,
    schedule="m",
)
