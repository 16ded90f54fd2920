"""What is a class of a mutation mixed into? The type checker is told here; `mutated` does it when a machine is made.

And what if a bug leaves registrations behind? The next schedule begins in the same process, and must not meet them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.trace.events import Cause, Owner
from labkit.virtio.hostnotifier import NO_FD
from labkit.virtio.table import Part

if TYPE_CHECKING:
    from labkit.state import State
    from labkit.virtio.backends.worker import Worker as MixedIntoWorker
    from labkit.virtio.hostnotifier import HostNotifier as MixedIntoNotifier
    from labkit.virtio.notifier import HostNotifiers as MixedIntoEngine
else:
    MixedIntoWorker = MixedIntoNotifier = MixedIntoEngine = object

__all__ = ["LeavesNotifiers", "MixedIntoEngine", "MixedIntoNotifier", "MixedIntoWorker"]


class LeavesNotifiers(MixedIntoEngine):
    """Some stay assigned that are nobody's any more. They go with the machine, and when it is loaded anew."""

    def load(self, state: State) -> None:
        """And nothing is left of before."""
        self._take_down_the_left()
        super().load(state)

    def close(self) -> None:
        """Neither afterwards."""
        super().close()
        self._take_down_the_left()

    def _take_down_the_left(self) -> None:
        left = [notifier for notifier in self.each.values() if notifier.fd != NO_FD]
        self._all.go(((Part.DETACH, Part.DEASSIGN, Part.CLOSE),), left)
        for notifier in left:
            self._owned_by(notifier.queue, Owner.NONE, self.rules.rows[Cause.LOAD].rule, Cause.LOAD)
