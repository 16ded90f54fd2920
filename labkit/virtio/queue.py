"""What is in a ring right now, and who would serve a kick? Live views; reading them changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labkit.memory import GuestMemory
from labkit.virtio.looks import NotifierLook, QueueLook
from labkit.virtio.notifier import HostNotifiers

RING_IDX = 2  # offset of idx in avail and in used


class Notifier(NotifierLook):
    """The host notifier of one queue."""

    def __init__(self, device: Any, index: int, notifiers: HostNotifiers) -> None:
        self._device, self._index, self._notifiers = device, index, notifiers
        self._vq = device.vq[index]  # a part of the device, which is kept for it
        self.board: Any = None  # the machine's

    @property
    def owner(self) -> str:
        """Who serves an eventfd kick: "none" (it traps), "vmm" (the iothread) or "backend"."""
        return self._notifiers.owners[self._index].name.lower()

    @property
    def fd(self) -> int | None:
        """The eventfd, or None."""
        return int(self._vq.notifier_fd) if self._vq.notifier_fd >= 0 else None

    @property
    def port(self) -> int | None:
        """The I/O port KVM matches, or None."""
        return self._notifiers.port(self._index)

    @property
    def value(self) -> int:
        """The value KVM matches: the queue's index."""
        return self._index

    @property
    def pending(self) -> int:
        """Count of the eventfd, read from the kernel's fdinfo without consuming it; 0 without one."""
        fd = self.fd
        if fd is None:
            return 0
        try:
            lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        except OSError:
            return 0  # closed between the two looks
        return next((int(line.split(":")[1], 16) for line in lines if line.startswith("eventfd-count")), 0)

    @property
    def trapped(self) -> int:
        """Kicks that came as a trap, whoever served them."""
        return int(self._vq.trapped)

    @property
    def signalled(self) -> int:
        """Kicks that came through the eventfd. With nothing pending, trapped + signalled = kicks made."""
        return int(self._vq.signalled)

    @property
    def drained(self) -> int:
        """Of the signalled ones, those that STOP found and served itself (R5)."""
        return int(self._vq.drained)

    @property
    def synthetic(self) -> int:
        """Kicks nobody made: one for each START (R3)."""
        return int(self._vq.synthetic)

    def view(self) -> Any:
        """Owner, port and counts, live in a cell."""
        from labkit.widgets import part

        return part(self.board, "notifier", self._index)


class Queue(QueueLook):
    """One virtqueue: what the transport knows of it, and the indices in its ring."""

    def __init__(self, device: Any, index: int, notifiers: HostNotifiers, memory: GuestMemory) -> None:
        self._device, self.index, self._memory = device, index, memory
        self._vq = device.vq[index]
        self.notifier = Notifier(device, index, notifiers)
        self.board: Any = None  # the machine's

    def view(self) -> Any:
        """Its ring and its notifier, live in a cell."""
        from labkit.widgets import part

        return part(self.board, "queue", self.index)

    @property
    def num(self) -> int:
        """Number of descriptors; 0 means there is no such queue."""
        return int(self._vq.num)

    @property
    def pfn(self) -> int:
        """Page frame of the ring; 0 until the driver sets it."""
        return int(self._vq.pfn)

    @property
    def vector(self) -> int:
        """MSI-X vector; NO_VECTOR (0xffff) means none."""
        return int(self._vq.vector)

    @property
    def avail_idx(self) -> int | None:
        """avail.idx, written by the driver; None without a ring in RAM."""
        return self._index_at(self._vq.avail)

    @property
    def used_idx(self) -> int | None:
        """used.idx, written by the device; None without a ring in RAM."""
        return self._index_at(self._vq.used)

    @property
    def last_avail_idx(self) -> int:
        """How far the device has taken the avail ring."""
        return int(self._vq.last_avail)

    @property
    def in_flight(self) -> int:
        """Chains the device has taken and not given back."""
        return int(self._vq.inuse)

    def _index_at(self, ring_gpa: int) -> int | None:
        inside = self._vq.desc and self._memory.is_open and ring_gpa + RING_IDX + 2 <= self._memory.size_bytes
        return self._memory.u16(ring_gpa + RING_IDX) if inside else None
