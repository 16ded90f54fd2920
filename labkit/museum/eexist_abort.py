"""6: what a backend had assigned is not deassigned when it stops, and so cannot be assigned again."""

from labkit.museum.mixed import LeavesNotifiers
from labkit.museum.specimen import Specimen
from labkit.races.acts import HAND_OVER, TAKE_BACK, hand_over
from labkit.races.invariants import EVERY_KICK_IS_SERVED, NO_CALL_IS_REFUSED
from labkit.races.scenario import Scenario, added, kick, publish
from labkit.virtio.mutations import Mutation


class StopsWhatItStarted(LeavesNotifiers):
    """A queue is deassigned only if the notifiers were started; a backend's never were: it assigns them itself."""

    def set_host_notifier(self, queue: int, assign: bool) -> None:
        """Of a backend."""
        if assign or self.started:
            super().set_host_notifier(queue, assign)


SPECIMEN = Specimen(
    number=6,
    name="eexist-abort",
    happened=(
        "vhost assigned its notifiers without anybody noting that they were started. When it stopped nothing was "
        'deassigned, and when it started again KVM refused: QEMU said "error adding ioeventfd: File exists" and ended, '
        "with the guest."
    ),
    where="QEMU",
    commits=("ed08a2a0b", "310837de6c"),
    rule="R9",
    mutation=Mutation("eexist-abort", engine=StopsWhatItStarted),
    scenario=Scenario(
        name="back-and-over-again",
        story="A backend gives the queue back and takes it again, while the guest kicks.",
        invariants=(NO_CALL_IS_REFUSED, EVERY_KICK_IS_SERVED),
        guest=(publish(), kick()),
        main=(TAKE_BACK, HAND_OVER),
        boot={"revision": "0.14"},
        prepare=added,
        begin=hand_over,
        backend=True,
    ),
    invariant=NO_CALL_IS_REFUSED,
    schedule="mx7",
)
