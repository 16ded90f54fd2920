"""10: the eventfd is closed first, and KVM cannot be told any more which registration is meant."""

import os
from typing import Any, cast

from labkit.abi import QUEUE_NOTIFY_WIDTH
from labkit.errors import HostError
from labkit.museum.mixed import LeavesNotifiers, MixedIntoNotifier
from labkit.museum.specimen import Specimen
from labkit.races.invariants import EVERY_KICK_IS_SERVED, NO_CALL_IS_REFUSED, NO_REGISTRATION_IS_LEFT
from labkit.races.scenario import Scenario, added, driver_ok, kick, publish
from labkit.trace.events import Kind
from labkit.virtio.mutations import Mutation


class ClosesFirst(MixedIntoNotifier):
    """The deassign names an fd that is closed: EBADF, and there is nothing to drain then.

    Another fd of the same eventfd is kept, which the old code had not: it takes the registration down in the end.
    """

    _left: tuple[int, int] | None = None  # port, fd

    def deassign(self, port: int | None) -> HostError | None:
        """Closed before it is asked for; nobody is told."""
        if port is not None:
            self._left = port, os.dup(self.fd)
        self._feed.emit(Kind.CLOSE_FD, self.queue, self.fd)
        os.close(self.fd)
        super().deassign(port)
        self.strand()
        return None

    def take_down_the_left(self) -> None:
        """What KVM still signals."""
        if self._left is not None:
            port, fd = self._left
            self._left = None
            self._host.deassign(self.queue, port, QUEUE_NOTIFY_WIDTH, fd)
            os.close(fd)


class LeavesRegistrations(LeavesNotifiers):
    """Some of them without an fd."""

    def _take_down_the_left(self) -> None:
        super()._take_down_the_left()
        for notifier in self.each.values():
            cast("Any", notifier).take_down_the_left()


SPECIMEN = Specimen(
    number=10,
    name="close-before-deassign",
    happened=(
        "A host notifier was closed before KVM was told to let go of it. The deassign failed with EBADF. KVM kept its "
        "own reference, and went on to signal an eventfd that nobody could read: the next kick was swallowed."
    ),
    where="QEMU",
    commits=("4fe6d78b2e", "76143618a5"),
    rule="R5",
    mutation=Mutation("close-before-deassign", engine=LeavesRegistrations, notifier=ClosesFirst),
    scenario=Scenario(
        name="kick-after-stop",
        story="The driver clears DRIVER_OK and kicks once more: a kick that traps, and is served all the same (R17).",
        invariants=(EVERY_KICK_IS_SERVED, NO_REGISTRATION_IS_LEFT, NO_CALL_IS_REFUSED),
        guest=(driver_ok(False), publish(), kick()),
        prepare=added,
    ),
    invariant=EVERY_KICK_IS_SERVED,
    schedule="vx8",
)
