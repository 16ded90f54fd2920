"""How do a machine, its device, a queue and a notifier look? The same live and in a replay.

Each look names what it needs; the live view reads it from the machine, a replay's from the recording. None is a value
that is not there, or that a recording does not know: it shows as `-`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from labkit import views
from labkit.trace.events import command_text, status_text
from labkit.trace.recorded import Facts


def _shown(value: object) -> object:
    return "-" if value is None else value


def _words(value: int | None, text: Any) -> object:
    return "-" if value is None else text(value)


class Look:
    """A caption and named values: a table in a cell, aligned lines elsewhere."""

    @abstractmethod
    def _caption(self) -> str:
        """What it is."""

    @abstractmethod
    def _values(self) -> dict[str, object]:
        """What it shows."""

    def _repr_html_(self) -> str:
        return views.named(self._caption(), self._values())

    def __repr__(self) -> str:
        return views.lines(self._caption(), self._values())


class NotifierLook(Look):
    """The host notifier of one queue."""

    value: Any
    owner: Any
    port: Any
    pending: Any
    trapped: Any
    signalled: Any
    drained: Any
    synthetic: Any

    def _caption(self) -> str:
        return f"notifier of queue {self.value}"

    def _values(self) -> dict[str, object]:
        counts = ("pending", "trapped", "signalled", "drained", "synthetic")
        return {
            "owner": _shown(self.owner),
            "port": _words(self.port, hex),
            "value": self.value,
            **{name: _shown(getattr(self, name)) for name in counts},
        }


class QueueLook(Look):
    """One virtqueue."""

    index: int
    notifier: Any
    num: Any
    pfn: Any
    avail_idx: Any
    last_avail_idx: Any
    used_idx: Any

    def _caption(self) -> str:
        return f"queue {self.index}"

    def _values(self) -> dict[str, object]:
        return {
            "num": self.num,
            "pfn": _words(self.pfn, hex),
            "avail.idx": _shown(self.avail_idx),
            "last_avail": _shown(self.last_avail_idx),
            "used.idx": _shown(self.used_idx),
            "owner": _shown(self.notifier.owner),
        }


class ProxyLook(Look):
    """The virtio device as the guest sees it."""

    name: Any
    broken: Any  # True with `why_broken`
    why_broken: Any
    status: Any
    command: Any
    flags: Any
    ioeventfd_started: Any
    revision: Any
    features: Any  # in words
    queue_sel: Any
    isr: Any
    msix_enabled: Any

    def values(self) -> dict[str, object]:
        """What a cell shows of it."""
        return self._values()

    def _caption(self) -> str:
        return f"virtio-{self.name}"

    def _values(self) -> dict[str, object]:
        return {
            "device": self.name + (f" (broken: {self.why_broken})" if self.broken else ""),
            "STATUS": _words(self.status, status_text),
            "COMMAND": _words(self.command, command_text),
            "flags": _words(self.flags, lambda flags: flags.name or "0"),
            "ioeventfd_started": _shown(self.ioeventfd_started),
            "revision": self.revision,
            "GUEST_FEATURES": _shown(self.features),
            "QUEUE_SEL": _shown(self.queue_sel),
            "ISR": _shown(self.isr),
            "MSI-X": _words(self.msix_enabled, lambda on: "on" if on else "off"),
        }


class MachineLook(Look):
    """A machine, or a recording of one."""

    state: Any
    cpu: Any
    crash: Any
    exit_code: Any
    proxy: Any
    _facts: Any

    @property
    def cpu_note(self) -> str:
        """`cpu` for a caption above times of this guest: it says so if they are an emulator's."""
        return views.cpu_note(self.cpu)

    def _caption(self) -> str:
        return "machine"

    def _values(self) -> dict[str, object]:
        facts: Facts = self._facts
        values: dict[str, object] = {
            "state": _shown(self.state),
            "cpu": f"{self.cpu}, {facts.vcpus} vCPU" + ("s" if facts.vcpus > 1 else ""),
            "memory": f"{facts.memory_mib} MiB",
            "guest": facts.guest,
            "device": ", ".join(filter(None, (f"virtio-{facts.device}", facts.remark))),
            "rules": facts.revision,
        }
        if self.crash is not None:
            values["crash"] = self.crash
        if self.exit_code is not None:
            values["exit code"] = self.exit_code
        queues: Sequence[QueueLook] = self.proxy.queues
        return values | {
            f"queue {queue.index}": f"notifier owned by {_shown(queue.notifier.owner)}" for queue in queues
        }
