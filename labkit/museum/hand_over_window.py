"""7: a kick comes when nobody has an eventfd for it: one owner has let go, the next has not assigned yet."""

import os

from labkit.museum.mixed import MixedIntoWorker
from labkit.museum.specimen import Specimen
from labkit.native import lib
from labkit.races.acts import HAND_OVER
from labkit.races.invariants import EVERY_KICK_IS_SERVED, ONE_CONSUMER
from labkit.races.scenario import Scenario, added, kick, publish
from labkit.virtio.mutations import Mutation


class BeginsWithNothing(MixedIntoWorker):
    """The backend's eventfd has no synthetic kick in it."""

    def _take(self, queue: int) -> None:
        super()._take(queue)
        fd, vq = self._notifiers.each[queue].fd, self._device.vq[queue]
        kicks = os.eventfd_read(fd) - vq.synthetic_due
        vq.synthetic_due = 0
        if kicks:
            os.eventfd_write(fd, kicks)


SPECIMEN = Specimen(
    number=7,
    name="hand-over-window",
    happened=(
        "To hand a notifier over it was stopped and assigned afresh, and in between no eventfd was there. Such a kick "
        "traps, and must find its way to the new owner. The window was closed, opened by a revert, and closed again. "
        "Here two things are taken away, for each of them alone saves the kick: the trapped kick is thrown away as one "
        "that the backend's eventfd will have had, and that eventfd is born with 0."
    ),
    where="QEMU",
    commits=("6798e245a3", "0830c96d70", "e616c2f390"),
    rule="R9",
    mutation=Mutation("hand-over-window", worker=BeginsWithNothing, core=lib.MUTATE_TRAP_DROPS),
    scenario=Scenario(
        name="kick-and-hand-over",
        story="The guest kicks for its one request while the queue goes from the iothread to a backend.",
        invariants=(EVERY_KICK_IS_SERVED, ONE_CONSUMER),
        guest=(publish(), kick()),
        main=(HAND_OVER,),
        prepare=added,
        backend=True,
    ),
    invariant=EVERY_KICK_IS_SERVED,
    schedule="mx4 vx2 mx3 vx3",
)
