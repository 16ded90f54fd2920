"""What is a class of a mutation mixed into? The type checker is told here; `mutated` does it when a machine is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.virtio.backends.worker import Worker as MixedIntoWorker
    from labkit.virtio.hostnotifier import HostNotifier as MixedIntoNotifier
    from labkit.virtio.notifier import HostNotifiers as MixedIntoEngine
else:
    MixedIntoWorker = MixedIntoNotifier = MixedIntoEngine = object

__all__ = ["MixedIntoEngine", "MixedIntoNotifier", "MixedIntoWorker"]
