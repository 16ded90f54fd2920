"""What was the state at any position, quickly? The fold of the events, with a copy kept every so often."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from labkit import views
from labkit.recording.fold import Ledger, initial
from labkit.trace.fields import Key, label, text
from labkit.trace.recorded import Recorded, Values

EVERY = 512  # events from one copy to the next


class Moments:
    """The states of a recording, by position: `first` is before its first event, `last` after its last."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self.first, self.last = recorded.lost, recorded.position()
        self._copies: list[Values] = []
        self._at: tuple[int, Values] | None = None  # the one asked for last
        times = [record[1] for record in recorded.records]
        self.start_ns = times[0] if times else 0
        self._times = list(accumulate(times, max))  # two threads may cross between taking a number and the time

    def at(self, position: int) -> Values:
        """The state after the event with that number. Not to be changed."""
        if self._at is None or not self._at[0] <= position < self._at[0] + EVERY:
            self._at = self._copy_before(position)
        known, values = self._at
        if position != known:
            values = self._on(values, known, position)
        self._at = position, values
        return values

    def _copy_before(self, position: int) -> tuple[int, Values]:
        number = (position - self.first) // EVERY
        if not self._copies:
            self._copies.append(initial(self._recorded))
        while len(self._copies) <= number:
            at = self.first + EVERY * (len(self._copies) - 1)
            self._copies.append(self._on(self._copies[-1], at, at + EVERY))
        return self.first + EVERY * number, self._copies[number]

    def _on(self, values: Values, position: int, until: int) -> Values:
        ledger = Ledger(self._recorded.facts, dict(values))
        for record in self._recorded.records[position - self.first : until - self.first]:
            ledger.pass_over(record)
        return ledger.values

    def position_at(self, t_s: float) -> int:
        """The last position that was reached `t_s` seconds after the first event."""
        return self.first + bisect_right(self._times, self.start_ns + t_s * 1e9)


class Change(NamedTuple):
    """A field that differs, and its values in words; `?`: not known."""

    name: str
    before: object
    after: object


class Difference:
    """What is different between two moments. Iterates over changes: name, before, after."""

    def __init__(self, before: Values, after: Values, caption: str) -> None:
        self._caption = caption
        self._changes = [_change(key, before[key], after[key]) for key in after if before[key] != after[key]]

    def __iter__(self) -> Iterator[Change]:
        return iter(self._changes)

    def __len__(self) -> int:
        return len(self._changes)

    def _repr_html_(self) -> str:
        return views.table(self._caption, Change._fields, self._changes)

    def __repr__(self) -> str:
        said = {change.name: f"{change.before} -> {change.after}" for change in self}
        return views.lines(self._caption, said or {"nothing": "differs"})


def _change(key: Key, before: int | None, after: int | None) -> Change:
    return Change(label(key), text(key, before), text(key, after))
