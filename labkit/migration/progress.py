"""How far has a migration come? A value for each gate that it passes, and the figures of its rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from labkit import abi
from labkit.trace.events import Gate


class Round(NamedTuple):
    """One pass over pages while the guest ran. `pages` were sent, in `seconds`; `dirtied` were written meanwhile."""

    number: int
    pages: int
    seconds: float
    dirtied: int

    @property
    def pages_per_s(self) -> float:
        """How fast they went."""
        return self.pages / self.seconds if self.seconds else 0.0

    @property
    def dirty_pages_per_s(self) -> float:
        """How fast the guest wrote others."""
        return self.dirtied / self.seconds if self.seconds else 0.0

    @property
    def estimated_downtime_s(self) -> float:
        """How long what is dirty now would take to send."""
        return self.dirtied / self.pages_per_s if self.pages_per_s else 0.0


class Progress(NamedTuple):
    """Where it is: the gate just passed, on the side that tells; the round, from 1; pages and bytes so far."""

    gate: Gate
    round: int = 0
    pages: int = 0
    last: Round | None = None  # of the source: the round that has ended last

    def __str__(self) -> str:
        gate = self.gate.name.lower().replace("_", " ")
        if not self.round:
            return gate
        said = f"{gate}: round {self.round}, {self.pages} pages"
        if self.last is None:
            return said
        mib_s = self.last.pages_per_s * abi.PAGE_BYTES / (1 << 20)
        return (
            f"{said}, {mib_s:.0f} MiB/s, {self.last.dirtied} dirty again ({self.last.dirty_pages_per_s:.0f}/s), "
            f"downtime about {self.last.estimated_downtime_s * 1000:.2f} ms"
        )


Tell = Callable[[Progress], object]
