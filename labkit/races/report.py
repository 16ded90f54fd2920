"""What has a search found? How many schedules, whether those were all, and the shortest that breaks each invariant."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from labkit import views
from labkit.trace.events import Event

if TYPE_CHECKING:
    import pandas


class Failure(NamedTuple):
    """An invariant that does not hold: the shortest schedule that shows it, to be given to `labkit.races.replay`."""

    invariant: str
    meaning: str  # what it means for the guest
    seen: str
    schedule: str
    decisions: int
    times: int  # how many of the schedules break it
    stacks: str = ""  # who stood where, in which functions, if that schedule came to no end


class Report(NamedTuple):
    """Of one search. `complete`: every order within the scenario's limit of decisions was tried, up to swapping two
    neighbours that touch nothing in common. `interrupted`: the search was ended before its own end.
    """

    scenario: str
    scheduler: str
    mutations: tuple[str, ...]
    cpu: str
    schedules: int
    seconds: float
    complete: bool
    interrupted: bool
    failures: tuple[Failure, ...]

    @property
    def per_second(self) -> float:
        """Schedules a second, all machines together."""
        return self.schedules / self.seconds if self.seconds else 0.0

    def frame(self) -> pandas.DataFrame:
        """A row for each failure."""
        import pandas

        return pandas.DataFrame(self.failures, columns=Failure._fields)

    def _values(self) -> dict[str, object]:
        what = "every order" if self.complete else "interrupted" if self.interrupted else "some orders"
        wrong = ", ".join(self.mutations) or "nothing"
        found: dict[str, object] = {}
        for one in self.failures:
            found[one.invariant] = f"broken by {one.times}, first {one.schedule}: {one.seen}"
            found |= {f"{one.invariant}: stacks": one.stacks} if one.stacks else {}
        return {
            "scheduler": self.scheduler,
            "wrong on purpose": wrong,
            "cpu": self.cpu,
            "schedules": f"{self.schedules} ({what})",
            **(found or {"invariants": "all hold"}),
        }

    def _repr_html_(self) -> str:
        return views.named(f"search of {self.scenario}", self._values())

    def __repr__(self) -> str:
        return views.lines(f"search of {self.scenario}", self._values())


class Replay(NamedTuple):
    """One schedule, played once more: what broke, and everything that happened."""

    scenario: str
    schedule: str
    broken: tuple[str, ...]
    events: tuple[Event, ...]
    cpu: str  # who ran the guest
    stacks: str = ""  # as a Failure has them

    def __repr__(self) -> str:
        said = ", ".join(self.broken) or "all hold"
        return "\n".join([f"{self.schedule}: {said}", *map(repr, self.events), *self.stacks.splitlines()])


def switches(actors: Sequence[int]) -> int:
    """How often somebody else goes on: what makes a schedule hard to read."""
    return sum(a != b for a, b in itertools.pairwise(actors))
