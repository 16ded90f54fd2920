"""22: a handler that was on its way when its notifier stopped."""

from labkit.museum.specimen import Specimen
from labkit.museum.work_after_vm_stop import KICK_AND_PAUSE
from labkit.native import lib
from labkit.races.invariants import REST_IS_REST
from labkit.virtio.mutations import Mutation

SPECIMEN = Specimen(
    number=22,
    name="handler-wins-after-stop",
    happened=(
        "The thread that polls had the event in its hand when the notifier stopped: its handler ran after the stop, on "
        "a device that was being reset. Here it takes the event before it has the lock, and asks nobody afterwards."
    ),
    where="QEMU",
    commits=("1010cadf62", "184b962346"),
    rule="R5",
    mutation=Mutation("handler-wins-after-stop", core=lib.MUTATE_NO_GENERATION),
    scenario=KICK_AND_PAUSE,
    invariant=REST_IS_REST,
    schedule="vx2 ix3 mx6 i",
)
