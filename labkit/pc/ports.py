"""What answers at the two debug ports a bare-metal guest knows from other machines: console and exit?

Text written to the console port is kept by the C core (native/vcpu.c), without a trip to Python.
"""

from __future__ import annotations

from collections.abc import Callable

from labkit.abi import PORT_CONSOLE


class ConsolePort:
    """Reads PORT_CONSOLE, by which a guest knows that a console is there."""

    def read(self, offset: int, width: int) -> int:
        """The port's own number."""
        return PORT_CONSOLE

    def write(self, offset: int, width: int, value: int) -> None:
        """Only wide writes get here, and they are no text."""


class ExitPort:
    """A write of v ends the machine with exit code (v << 1) | 1: never 0, which stands for a clean shutdown."""

    def __init__(self, exits: Callable[[int], None]) -> None:
        self._exits = exits

    def read(self, offset: int, width: int) -> int:
        """Nothing to read."""
        return 0

    def write(self, offset: int, width: int, value: int) -> None:
        """The guest is done."""
        self._exits(value << 1 | 1)
