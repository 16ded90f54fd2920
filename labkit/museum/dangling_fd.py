"""23: an eventfd that is closed, while a loop still watches it and KVM still signals it."""

from __future__ import annotations

import os
from typing import Any

from labkit.museum.specimen import Specimen
from labkit.races.invariants import NO_BUSY_LOOP
from labkit.races.scenario import Scenario, added, driver_ok, kick
from labkit.trace.events import Kind
from labkit.virtio.mutations import Mutation, without_parts
from labkit.virtio.table import Part


class OpenElsewhere:
    """A notifier whose eventfd somebody else has open, too: a close leaves the file in every set that polls it."""

    elsewhere: tuple[int, ...] = ()

    def close(self: Any) -> None:
        """The VMM's own fd; the other is closed with the device."""
        self._feed.emit(Kind.CLOSE_FD, self.queue, self.fd)
        self.elsewhere += (self.strand(),)


class ClosesElsewhere:
    """The end of those."""

    def close(self: Any) -> None:
        """R11, and the files that were open elsewhere."""
        super().close()  # type: ignore[misc]
        for fd in (fd for notifier in self.each.values() for fd in notifier.elsewhere):
            os.close(fd)


SPECIMEN = Specimen(
    number=23,
    name="dangling-fd",
    happened=(
        "An fd was closed without being taken out of the set that a loop polls. Its file was open elsewhere, the next "
        "kick made it ready, nobody could read it any more, and the loop took a whole CPU."
    ),
    where="QEMU",
    commits=("535a3d9a32", "75dcb4d790"),
    rule="R5",
    mutation=Mutation(
        "dangling-fd",
        rules=without_parts(Part.DETACH, Part.DEASSIGN),
        engine=ClosesElsewhere,
        notifier=OpenElsewhere,
        late=True,
    ),
    scenario=Scenario(
        name="stop-and-kick",
        story="The guest clears DRIVER_OK and kicks once more.",
        invariants=(),
        guest=(driver_ok(False), kick()),
        prepare=added,
        limit=60,
    ),
    invariant=NO_BUSY_LOOP,
    schedule="v",
)
