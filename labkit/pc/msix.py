"""Where does an interrupt of the device go? The MSI-X capability, its table in BAR1, and irqfds behind it."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any, Protocol

from labkit.abi import NUMBERS
from labkit.errors import HostError, UsageError
from labkit.native import lib
from labkit.pc.bus import ALL_ONES
from labkit.pc.pci import PciFunction
from labkit.state import Bytes, Number, Shape, State

CAP = NUMBERS["MSIX_CAP_OFFSET"]
CONTROL = CAP + NUMBERS["MSIX_CONTROL"]
ENABLE, MASK_ALL = NUMBERS["MSIX_CONTROL_ENABLE"], NUMBERS["MSIX_CONTROL_MASK_ALL"]
ENTRY_BYTES = NUMBERS["MSIX_ENTRY_BYTES"]
ENTRY_CONTROL = NUMBERS["MSIX_ENTRY_CONTROL"]
ENTRY = struct.Struct("<QII")  # address, data, control
MASKED = NUMBERS["MSIX_ENTRY_MASKED"]
PBA = NUMBERS["MSIX_PBA_OFFSET"]
BAR_BYTES = NUMBERS["MSIX_BAR_BYTES"]


class Router(Protocol):
    """What MSI-X needs of the CPU back end."""

    def bind_vector(self, vector: int, fd: int) -> None:
        """A write to `fd` delivers message `vector`."""

    def route(self, messages: Sequence[tuple[int, int]]) -> None:
        """Message n (address, data) for vector n."""


class Msix:
    """The vectors of one function. The C core raises them; this part says where they lead, and which are masked."""

    def __init__(self, function: PciFunction, vectors: int, device: Any, router: Router) -> None:
        self.count = vectors
        self._function, self._device, self._router = function, device, router
        self._table = bytearray(ENTRY_BYTES * vectors)
        self._routed: list[tuple[int, int]] = []
        self._fds: list[int] = []
        self._capability()
        self.reset()
        try:
            for vector in range(vectors):
                fd = _eventfd()
                self._fds.append(fd)
                router.bind_vector(vector, fd)
                device.vectors[vector].fd = fd
        except BaseException:
            self.close()
            raise

    def _capability(self) -> None:
        put = self._function.put
        put(NUMBERS["PCI_STATUS"], 2, NUMBERS["PCI_STATUS_CAPABILITIES"])
        put(NUMBERS["PCI_CAPABILITIES"], 1, CAP)
        put(CAP, 2, NUMBERS["PCI_CAP_MSIX"])
        put(CONTROL, 2, self.count - 1)
        put(CAP + NUMBERS["MSIX_TABLE"], 4, NUMBERS["MSIX_BAR"])
        put(CAP + NUMBERS["MSIX_PBA"], 4, PBA | NUMBERS["MSIX_BAR"])
        self._function.allow(CONTROL, 2, ENABLE | MASK_ALL)

    @property
    def enabled(self) -> bool:
        """Is MSI-X on? Then device config moves (register table), and INTx is off."""
        return bool(self._device.msix_enabled)

    def reset(self) -> None:
        """All vectors masked, MSI-X off."""
        self._table[:] = ENTRY.pack(0, 0, MASKED) * self.count
        self._function.put(CONTROL, 2, self.count - 1)
        self.control_written()
        for vector in range(self.count):
            self._device.vectors[vector].pending = 0

    @property
    def shape(self) -> Shape:
        """Of its state."""
        return {"table": Bytes(len(self._table)), "pending": Number((1 << self.count) - 1)}

    def save(self) -> State:
        """The table, and a bit for each vector that waits behind its mask. The control word is config space."""
        return {"table": bytes(self._table), "pending": self._pending()}

    def load(self, state: State) -> None:
        """The same, of that shape, after config space: masks and routes take effect, and what may be delivered is."""
        self._table[:] = state["table"]
        for vector in range(self.count):
            self._device.vectors[vector].pending = state["pending"] >> vector & 1
        self.control_written()

    def foresee(self, table: bytes) -> None:
        """Lead the messages where that table will if it is loaded: for a new route the kernel waits a grace period.

        UsageError: no table of as many vectors. HostError: the back end refuses the messages.
        """
        if len(table) != len(self._table):
            raise UsageError(f"an MSI-X table of {len(table)} bytes: {self.count} vectors have {len(self._table)}")
        messages = [(address, data) for address, data, _ in ENTRY.iter_unpack(table)]
        if messages != self._routed_or_none():
            self._route(messages)

    def _route(self, messages: list[tuple[int, int]]) -> None:
        self._router.route(messages)
        self._routed = messages

    def _pending(self) -> int:
        return int(sum(self._device.vectors[vector].pending << vector for vector in range(self.count)))

    def control_written(self) -> None:
        """The guest wrote the control word: enable and mask-all take effect, and INTx gives way to MSI-X."""
        control = self._function.get(CONTROL, 2)
        self._device.msix_enabled = bool(control & ENABLE)
        self._device.msix_masked = bool(control & MASK_ALL)
        lib.lk_intx_update(self._device)
        self._apply()

    def read(self, offset: int, width: int) -> int:
        """BAR1: the table, then the pending bits."""
        if offset + width <= len(self._table):
            return int.from_bytes(self._table[offset : offset + width], "little")
        if PBA <= offset < PBA + 8:
            return self._pending() >> 8 * (offset - PBA)
        return 0

    def write(self, offset: int, width: int, value: int) -> None:
        """A table entry; the pending bits are read-only."""
        if offset + width <= len(self._table):
            self._table[offset : offset + width] = (value & ALL_ONES[width]).to_bytes(width, "little")
            self._apply()

    def _apply(self) -> None:
        """Masks to the C core; routes to the back end, only when a message that can be delivered has changed."""
        entries = list(ENTRY.iter_unpack(self._table))
        for vector, (_, _, control) in enumerate(entries):
            self._device.vectors[vector].masked = control & MASKED
        if not self.enabled or self._device.msix_masked:
            return
        messages = [(address, data) for address, data, _ in entries]
        if any(m != r and not e[2] & MASKED for m, r, e in zip(messages, self._routed_or_none(), entries, strict=True)):
            self._route(messages)
        self._deliver_pending()

    def _routed_or_none(self) -> list[tuple[int, int]]:
        return self._routed or [(0, 0)] * self.count

    def _deliver_pending(self) -> None:
        for vector in range(self.count):
            if self._device.vectors[vector].pending:
                lib.lk_vector_raise(self._device, vector)

    def close(self) -> None:
        """Close the eventfds; the back end has dropped its bindings with the VM."""
        for vector, fd in enumerate(self._fds):
            self._device.vectors[vector].fd = -1
            os.close(fd)
        self._fds = []


def _eventfd() -> int:
    try:
        return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    except OSError as error:
        raise HostError("eventfd", error.errno or 0, "too many open files?") from error
