"""Does a specimen still show its bug? Its order breaks, a search finds that, and without the mutation all hold."""

from __future__ import annotations

from typing import NamedTuple

from labkit import views
from labkit.museum.specimen import Specimen
from labkit.races import Replay, Report, explore, replay

FOUND_WITHIN = 2000  # schedules with the mutation: what it breaks may have no end, and the first that breaks is early


class Result(NamedTuple):
    """Of one specimen on one CPU: its order, played; every order with the mutation; every order without it.

    `searched` and `without` are None if only the order was played.
    """

    specimen: Specimen
    forced: Replay
    searched: Report | None = None
    without: Report | None = None

    @property
    def name(self) -> str:
        """Of the specimen."""
        return self.specimen.name

    @property
    def cpu(self) -> str:
        """Who ran the guest."""
        return self.forced.cpu

    @property
    def broken(self) -> list[str]:
        """Invariants that the forced order breaks."""
        return list(self.forced.broken)

    @property
    def schedule(self) -> str:
        """The forced order, for `labkit.races.replay`."""
        return self.forced.schedule

    @property
    def breaks(self) -> bool:
        """Does the forced order break what the specimen is about?"""
        return self.specimen.invariant.name in self.forced.broken

    @property
    def found(self) -> bool:
        """Does the search find it, too?"""
        names = [failure.invariant for failure in self.searched.failures] if self.searched else []
        return self.specimen.invariant.name in names

    @property
    def holds_without(self) -> bool:
        """Without the mutation every order was tried, and nothing broke."""
        return self.without is not None and self.complete and not self.without.failures

    @property
    def complete(self) -> bool:
        """Was every order tried without the mutation?"""
        return self.without is not None and self.without.complete

    @property
    def schedules_with(self) -> int:
        """Orders tried with the mutation."""
        return self.searched.schedules if self.searched else 0

    @property
    def schedules_without(self) -> int:
        """Orders tried without it."""
        return self.without.schedules if self.without else 0

    @property
    def seconds(self) -> float:
        """Both searches together."""
        return sum(report.seconds for report in (self.searched, self.without) if report)

    def as_json(self) -> dict[str, object]:
        """Plain values. The events are as they print."""
        names = ("name", "cpu", "schedule", "broken", "found", "holds_without", "complete")
        counts = ("schedules_with", "schedules_without", "seconds")
        events = [repr(event) for event in self.forced.events]
        stacks = self.forced.stacks.splitlines()
        return {name: getattr(self, name) for name in (*names, *counts)} | {"events": events, "stacks": stacks}

    def _values(self) -> dict[str, object]:
        searched: dict[str, object] = {}
        if self.searched is not None:
            broke = sum(f.times for f in self.searched.failures if f.invariant == self.specimen.invariant.name)
            searched["with it"] = f"{self.schedules_with} orders tried, {broke} break it"
        if self.without is not None:
            held = "all hold" if self.holds_without else "not all hold"
            searched["without it"] = f"{self.schedules_without} orders{', all there are' * self.complete}: {held}"
        return {
            "wrong on purpose": self.name,
            "cpu": self.cpu,
            "order": self.schedule,
            "it breaks": ", ".join(self.broken) or "nothing",
            **({"stacks": self.forced.stacks} if self.forced.stacks else {}),
            **searched,
        }

    def _repr_html_(self) -> str:
        return views.named(f"specimen {self.specimen.number}", self._values())

    def __repr__(self) -> str:
        return views.lines(f"specimen {self.specimen.number}", self._values())


def played(specimen: Specimen, cpu: str, *, search: bool) -> Result:
    """Play its order with the mutation; and if `search`, every order with it and without."""
    wrong = (specimen.mutation.name,)
    forced = replay(specimen.scenario, specimen.order, wrong, cpu=cpu)
    if not search:
        return Result(specimen, forced)
    searched = explore(specimen.scenario, "dfs", wrong, FOUND_WITHIN, cpu=cpu)
    return Result(specimen, forced, searched, explore(specimen.scenario, cpu=cpu))
