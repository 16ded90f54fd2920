"""How is QEMU told to stop, go on and reset? One command at a time over its monitor's socket, in JSON lines."""

from __future__ import annotations

import json
import socket
from typing import Any

ROUNDS_TO_SETTLE = 3  # a round ends in QEMU's main loop, which by then has looked at every fd that was ready before


class QmpError(Exception):
    """QEMU refused a command, did not answer, or has gone."""


class Qmp:
    """A connection to a monitor. Every call raises QmpError if QEMU says no, or nothing in time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._receive()  # its greeting
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: Any) -> Any:
        """Do one command and return what it answered; events that come in between are dropped."""
        request = {"execute": name} | ({"arguments": arguments} if arguments else {})
        try:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise QmpError(f"{name}: {error}") from error
        while True:
            reply = self._receive()
            if "error" in reply:
                raise QmpError(f"{name}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]

    def settle(self) -> None:
        """Let the main loop serve what is ready now: an eventfd that was signalled has been handled then."""
        for _ in range(ROUNDS_TO_SETTLE):
            self.command("query-status")

    def close(self) -> None:
        """Hang up; QEMU goes on."""
        self._lines.close()
        self._connection.close()

    def _receive(self) -> Any:
        try:
            line = self._lines.readline()
        except OSError as error:  # a time-out is one
            raise QmpError(f"the monitor does not answer: {error}") from error
        if not line:
            raise QmpError("the monitor is closed")
        return json.loads(line)
