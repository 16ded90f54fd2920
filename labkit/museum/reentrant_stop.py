"""4: a stop whose last look at the queue starts what it stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from labkit.museum.mixed import LeavesNotifiers, MixedIntoNotifier
from labkit.museum.specimen import Specimen
from labkit.native import lib
from labkit.races.invariants import EVERY_KICK_IS_SERVED, NO_REGISTRATION_IS_LEFT
from labkit.races.scenario import Scenario, added, driver_ok, kick, publish
from labkit.trace.events import Cause, Run
from labkit.virtio.hostnotifier import NO_FD
from labkit.virtio.mutations import Mutation


class SaysStoppedFirst(LeavesNotifiers):
    """A stop is noted before it is done, and who handles a kick then starts the notifiers."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for notifier in self.each.values():
            cast("HandlesWhatItDrains", notifier).before_run = self._handles

    def _stop(self, rule: int, cause: Cause) -> None:
        if self.started:
            self.started = False
            self._take_down(self.each.values(), rule, cause)

    def _handles(self) -> None:
        if self.running and not self.started:
            self._start(self.rules.rows[Cause.KICK].rule, Cause.KICK)


class HandlesWhatItDrains(MixedIntoNotifier):
    """A kick that the stop finds is handled as any other."""

    before_run: Callable[[], None]
    started_anew = False

    def drain(self) -> None:
        """Test-and-clear; if a kick was pending, the device starts on it."""
        if not lib.lk_notifier_take(self._device, self.queue, Run.DRAIN):
            return
        super().close()
        self.before_run()
        self.started_anew = self.fd != NO_FD
        lib.lk_queue_run(self._device, self.queue, Run.DRAIN)

    def close(self) -> None:
        """The one that was started meanwhile is not known here."""
        if not self.started_anew:
            super().close()
        self.started_anew = False


SPECIMEN = Specimen(
    number=4,
    name="reentrant-stop",
    happened=(
        "The handler of a data plane started it if it was not started, and the stop ran that handler once more, for a "
        "kick that was pending. So a stop started what it was stopping, in the middle of it: here what it has started "
        "is left standing, and is nobody's."
    ),
    where="QEMU",
    commits=("cd7fdfe59f",),
    rule="R5",
    mutation=Mutation("reentrant-stop", engine=SaysStoppedFirst, notifier=HandlesWhatItDrains),
    scenario=Scenario(
        name="kick-and-stop-today",
        story="The guest kicks and clears DRIVER_OK, of a device that starts on a kick.",
        invariants=(EVERY_KICK_IS_SERVED, NO_REGISTRATION_IS_LEFT),
        guest=(publish(), kick(), driver_ok(False)),
        boot={"revision": "today"},
        prepare=added,
    ),
    invariant=NO_REGISTRATION_IS_LEFT,
    schedule="v",
)
