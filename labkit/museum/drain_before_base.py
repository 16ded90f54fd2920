"""3: the drain at a deassign runs the queue before the backend has said where it stands."""

from labkit.museum.mixed import MixedIntoWorker
from labkit.museum.specimen import Specimen
from labkit.races.acts import TAKE_BACK, hand_over
from labkit.races.invariants import EVERY_KICK_IS_SERVED, NO_REGISTRATION_IS_LEFT, ONE_CONSUMER
from labkit.races.scenario import Scenario, added, kick, publish
from labkit.virtio.mutations import Mutation


class DrainsFirst(MixedIntoWorker):
    """The notifier is drained with the device's indices, and the backend's come afterwards."""

    def _give(self, queue: int) -> None:
        self._notifiers.each[queue].drain()
        super()._give(queue)


SPECIMEN = Specimen(
    number=3,
    name="drain-before-base",
    happened=(
        "When vhost stopped, the host notifiers were taken from it before its ring base was fetched. A kick that was "
        "pending ran the queue with a last_avail from before vhost: all that it had done was done once more, and vhost "
        'said that the "Guest moved used index".'
    ),
    where="QEMU",
    commits=("b0b3db7955",),
    rule="R9",
    mutation=Mutation("drain-before-base", worker=DrainsFirst),
    scenario=Scenario(
        name="kick-and-take-back",
        story="A backend serves the guest's one request. It is kicked once more, and the queue is taken back.",
        invariants=(ONE_CONSUMER, EVERY_KICK_IS_SERVED, NO_REGISTRATION_IS_LEFT),
        guest=(publish(), kick(), kick()),
        main=(TAKE_BACK,),
        prepare=added,
        begin=hand_over,
        backend=True,
    ),
    invariant=ONE_CONSUMER,
    schedule="vx2 bx7 v mx20",
)
