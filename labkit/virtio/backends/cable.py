"""What does a net device plug in? A cable: an fd that takes a frame with each write and gives one with each read."""

from __future__ import annotations

import os
import weakref


class Cable:
    """One end of a cable. `fd` never makes its user wait; `name` says what is on the other side."""

    def __init__(self, fd: int, name: str, *, is_socket: bool) -> None:
        self.fd, self.name, self.is_socket = fd, name, is_socket
        self._close = weakref.finalize(self, os.close, fd)  # an end nobody plugged in is closed when it is forgotten

    def close(self) -> None:
        """Unplug; the other side finds nobody there. Idempotent."""
        self._close()

    @property
    def is_open(self) -> bool:
        """Can frames go through it still?"""
        return self._close.alive
