"""How does a recording show the device, its queues and their notifiers? Under the names that the live ones have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labkit.abi import PciCommand
from labkit.trace.events import NO_INDEX, Flag, Owner
from labkit.trace.fields import DEVICE, NONE
from labkit.trace.recorded import Facts, Values
from labkit.virtio.looks import NotifierLook, ProxyLook, QueueLook

Now = Callable[[], Values]  # the values at the cursor, or at one moment


class Told:
    """A field, as an attribute of the part it belongs to. None: there is no such thing, or nobody has told."""

    def __init__(self, name: str, absent: int | None = None, read: Callable[[int], object] = int) -> None:
        self._name, self._absent, self._read = name, absent, read

    def __get__(self, part: Any, _: type) -> Any:
        value = part._now()[self._name, part._queue]
        return None if value is None or value == self._absent else self._read(value)


class RecordedNotifier(NotifierLook):
    """The host notifier of one queue, as it was."""

    owner = Told("owner", read=lambda number: Owner(number).name.lower())
    fd = Told("fd", NONE)  # the number it had
    port = Told("port", NONE)
    pending = Told("pending")  # at least: a kick of the guest is known when it is taken
    trapped = Told("trapped")
    signalled = Told("signalled")
    drained = Told("drained")
    synthetic = Told("synthetic")

    def __init__(self, now: Now, index: int) -> None:
        self._now, self._queue, self.value = now, index, index


class RecordedQueue(QueueLook):
    """One virtqueue, as it was."""

    pfn = Told("pfn")
    vector = Told("vector")
    avail_idx = Told("avail_idx", NO_INDEX)  # as the device saw it last, or the lab's driver published it
    used_idx = Told("used_idx", NO_INDEX)
    last_avail_idx = Told("last_avail")
    in_flight = Told("in_flight")

    def __init__(self, now: Now, facts: Facts, index: int) -> None:
        self._now, self._queue, self.index = now, index, index
        self.num = facts.queue_sizes[index]
        self.notifier = RecordedNotifier(now, index)


class RecordedProxy(ProxyLook):
    """The virtio device as the guest saw it."""

    status = Told("status")
    command = Told("command", read=PciCommand)
    bus_master = Told("command", read=lambda number: bool(number & PciCommand.MASTER))
    flags = Told("flags", read=Flag)
    guest_features = Told("guest_features")
    queue_sel = Told("queue_sel")
    config_vector = Told("config_vector")
    isr = Told("isr")
    msix_enabled = Told("msix", read=bool)
    broken = Told("broken", read=bool)
    plugged = Told("plugged", read=bool)
    why_broken = "until it was reset"

    def __init__(self, now: Now, facts: Facts) -> None:
        self._now, self._queue, self._facts = now, DEVICE, facts
        self.name, self.revision = facts.device, facts.revision
        self.queues = [RecordedQueue(now, facts, index) for index in range(len(facts.queue_sizes))]

    @property
    def features(self) -> str | None:
        """GUEST_FEATURES in words."""
        bits = self.guest_features
        return None if bits is None else _feature_text(bits, self._facts.feature_names)

    @property
    def ioeventfd_started(self) -> bool | None:
        """Were the host notifiers started? Then the iothread had them all."""
        owners = [queue.notifier.owner for queue in self.queues]
        return True if "vmm" in owners else None if None in owners else False


def _feature_text(bits: int, names: tuple[str, ...]) -> str:
    words = [name for bit, name in enumerate(names) if name and bits >> bit & 1]
    rest = sum(1 << bit for bit, name in enumerate(names) if not name and bits >> bit & 1)
    return "|".join(words + ([hex(rest)] if rest else [])) or "0"
