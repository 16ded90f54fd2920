"""virtio-console: a terminal on the host behind two queues, one for each direction. Served in native/terminal.c."""

from __future__ import annotations

import struct
from typing import Any

from labkit.abi import NUMBERS, ConsoleFeature
from labkit.errors import HostError
from labkit.native import ffi, lib
from labkit.virtio.devices.base import Device

COLUMNS, ROWS = 80, 24


class Console(Device):
    """A console. Rule R1 gives it no ioeventfd: its drivers put a character into the ring, kick, and spin."""

    name = "console"
    kind = lib.DEVICE_CONSOLE
    pci_device = NUMBERS["VIRTIO_DEVICE_CONSOLE"]
    virtio_type = NUMBERS["VIRTIO_TYPE_CONSOLE"]
    pci_class = 0x0780  # simple communications, other
    queue_sizes = (NUMBERS["CONSOLE_QUEUE_SIZE"],) * 2
    vectors = NUMBERS["CONSOLE_VECTORS"]
    features = int(ConsoleFeature.SIZE)
    own_features = tuple(ConsoleFeature)

    def __init__(self) -> None:
        terminal = lib.lk_terminal_new()
        if terminal == ffi.NULL:
            raise HostError("malloc", ffi.errno)
        self.terminal: Any = ffi.gc(terminal, lib.lk_terminal_free)
        self._native: Any = None

    def config(self) -> bytes:
        """Columns and rows."""
        return struct.pack("<HH", COLUMNS, ROWS)

    def attach(self, native: Any) -> None:
        """The terminal to the C core."""
        self._native = native
        native.terminal = self.terminal

    def close(self) -> None:
        """The core has it no more; what was written can be read as long as this object lives."""
        if self._native is not None:
            self._native.terminal = ffi.NULL
            self._native = None
