"""2: a backend has the queue, and the iothread still watches its eventfd."""

from labkit.museum.mixed import MixedIntoWorker
from labkit.museum.specimen import Specimen
from labkit.races.acts import hand_over
from labkit.races.invariants import EVERY_KICK_IS_SERVED, ONE_CONSUMER
from labkit.races.scenario import Scenario, added, kick, publish
from labkit.virtio.mutations import Mutation


class StaysWatched(MixedIntoWorker):
    """The iothread watches the eventfd, too."""

    def _take(self, queue: int) -> None:
        super()._take(queue)
        self._notifiers.each[queue].attach()

    def _give(self, queue: int) -> None:
        self._notifiers.each[queue].detach()
        super()._give(queue)


SPECIMEN = Specimen(
    number=2,
    name="two-consumers",
    happened=(
        "The handler of the host notifiers stayed set when vhost took them over. Both woke for the same eventfd, each "
        "with a last_avail of its own, and a head was used twice: the guest's driver said that id 0 is not a head, and "
        "gave up the queue."
    ),
    where="QEMU",
    commits=("b1f416aa8d", "26b9b5fe17"),
    rule="R9",
    mutation=Mutation("two-consumers", worker=StaysWatched),
    scenario=Scenario(
        name="two-kicks-at-a-backend",
        story="A backend has the queue. The guest kicks twice for one request; nobody but the backend may serve it.",
        invariants=(ONE_CONSUMER, EVERY_KICK_IS_SERVED),
        guest=(publish(), kick(), kick()),
        prepare=added,
        begin=hand_over,
        backend=True,
    ),
    invariant=ONE_CONSUMER,
    schedule="vx2 bx7 v",
)
