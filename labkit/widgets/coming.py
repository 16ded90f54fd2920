"""What is shown of a machine before it is here? Who waits for it, where, and how far it is; then the machine."""

from __future__ import annotations

from typing import Any, Protocol

from labkit.widgets.scene import Looker, Scene


class Look(Protocol):
    """What a screen shows of one machine, or of one that is to come."""

    @property
    def scene(self) -> Scene:
        """What was seen last."""

    @property
    def announced(self) -> tuple[int, str]:
        """The newest change of owner or run state: when (ns), and in words; "" for none."""

    @property
    def over(self) -> bool:
        """Nothing will change any more."""

    @property
    def machine(self) -> Any:
        """What the user holds, or None."""

    def mark(self) -> object:
        """Differs when there is something new."""

    def look(self) -> Scene:
        """A new scene."""


class Coming:
    """A machine that somebody waits for (`labkit.listen`), and then that machine. It keeps the arrival."""

    def __init__(self, arrival: Any) -> None:
        self._arrival, self._looker = arrival, None
        self.scene: Scene = {}

    _looker: Looker | None

    @property
    def machine(self) -> Any:
        """It, once it is here."""
        return self._arrival.machine(0) if self._arrival.state == "here" else None

    @property
    def announced(self) -> tuple[int, str]:
        """Of the machine."""
        return self._looker.announced if self._looker else (0, "")

    @property
    def over(self) -> bool:
        """It is closed, or it will not come."""
        return self._looker.over if self._looker else self._arrival.state == "failed"

    def mark(self) -> object:
        """State and gate, then the machine's own."""
        return self._looker.mark() if self._looker else (self._arrival.state, self._arrival.progress)

    def look(self) -> Scene:
        """Who listens where; then the machine."""
        arrival = self._arrival
        if self._looker is None and arrival.state == "here":
            self._looker = Looker(arrival.machine(0)._board)
        if self._looker is not None:
            self.scene = self._looker.look()
        else:
            waits = f"at {arrival.address}"
            note = f"it did not come: {arrival.error}" if arrival.state == "failed" else str(arrival.progress or waits)
            self.scene = {"name": "a machine to come", "title": waits, "state": arrival.state, "note": note}
        return self.scene
