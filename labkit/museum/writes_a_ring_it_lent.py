"""33: a handler that was put off writes into a ring that a backend has by now."""

from collections.abc import Sequence
from typing import cast

from labkit.abi import NUMBERS, Feature
from labkit.machine import Machine
from labkit.museum.mixed import MixedIntoNotifier, MixedIntoWorker
from labkit.museum.specimen import Specimen
from labkit.native import lib
from labkit.races.acts import HAND_OVER
from labkit.races.invariants import EVERY_KICK_IS_SERVED, KICKS_ARE_WANTED
from labkit.races.scenario import Scenario, added, kick, publish
from labkit.trace.events import Kind, Run
from labkit.virtio.mutations import Mutation

# A hand-over is one step, but for its drain: what can come between the others, hand-over-window shows.
AT_WORK = frozenset({Kind.WOKEN, Kind.KICK_EVENTFD, Kind.KICK_TRAP, Kind.DRAIN, Kind.BACKEND})
ASK_FOR_NONE = NUMBERS["USED_NO_NOTIFY"].to_bytes(2, "little")


class PutsOff(MixedIntoNotifier):
    """A drain takes the kick, and leaves the run for later."""

    put_off = False

    def drain(self) -> None:
        """The queue does not run now."""
        self.put_off = lib.lk_notifier_take(self._device, self.queue, Run.DRAIN) > 0


class RunsWhenItIsLent(MixedIntoWorker):
    """What was put off comes as soon as the big lock is free: it asks for no kicks while it works, sees that the queue
    is a backend's, and goes.
    """

    def take(self, queues: Sequence[int] | None) -> None:
        """And then what was put off."""
        super().take(queues)
        late = [notifier for notifier in self._notifiers.each.values() if cast("PutsOff", notifier).put_off]
        if late:
            lib.lk_lock_release(self._device.machine)
            lib.lk_lock_take(self._device.machine)
        for notifier in late:
            cast("PutsOff", notifier).put_off = False
            self._run_late(notifier.queue)

    def _run_late(self, queue: int) -> None:
        vq = self._device.vq[queue]
        self._notifiers._feed.emit(Kind.QUEUE_NOTIFY, queue, Run.RESUME, vq.last_avail, vq.last_avail, vq.used_idx)
        lib.lk_memory_write(self._device.machine, vq.used, ASK_FOR_NONE, len(ASK_FOR_NONE))


def added_without_event_idx(vm: Machine) -> None:
    """With EVENT_IDX no driver looks at used.flags."""
    vm.guest.negotiate(features=0xFFFFFFFF & ~Feature.EVENT_IDX, driver_ok=True)
    added(vm)


SPECIMEN = Specimen(
    number=33,
    name="writes-a-ring-it-lent",
    happened=(
        "A kick was pending when vhost took the queue, and QEMU's own handler for it wrote used.flags of a ring that "
        "was vhost's by then. What stands there holds until vhost serves the queue again: no kicks, please. Here the "
        "handler's run is put off until the big lock is free."
    ),
    where="QEMU",
    commits=("4c54f5bc8e",),
    rule="R9",
    mutation=Mutation("writes-a-ring-it-lent", notifier=PutsOff, worker=RunsWhenItIsLent),
    scenario=Scenario(
        name="hand-over-with-a-kick-pending",
        story="The guest kicks for its one request, and the queue goes to a backend. used.flags must be 0 in the end.",
        invariants=(KICKS_ARE_WANTED, EVERY_KICK_IS_SERVED),
        guest=(publish(), kick()),
        main=(HAND_OVER,),
        boot={"revision": "today", "bring_up": False},
        prepare=added_without_event_idx,
        backend=True,
        points=AT_WORK,
    ),
    invariant=KICKS_ARE_WANTED,
    schedule="vx2 mx4 bx6",
)
