"""Where on a line is a moment, if long waits are folded? Time runs evenly, but for the folds: all of one width."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

LONG = 0.15  # a wait is folded if it is longer than this part of all that is not folded
FOLD = 0.05  # how wide a fold is, as a part of the same
FOLDS_MAX = 12


class Fold(NamedTuple):
    """A wait: from, to, in seconds; nothing begins, ends or happens within it."""

    start_s: float
    end_s: float


class Line:
    """From time in seconds to a place, from 0 to `length`. Without folds a place is the time."""

    def __init__(self, span_s: float, folds: Sequence[Fold] = ()) -> None:
        self.folds = sorted(folds)
        self.even_s = span_s - math.fsum(map(_length, self.folds))
        self.wide = FOLD * self.even_s
        self._times, self._places = [0.0], [0.0]  # the ends of even pieces and folds
        for fold in self.folds:
            self._places.append(self._places[-1] + fold.start_s - self._times[-1])
            self._places.append(self._places[-1] + self.wide)
            self._times += [fold.start_s, fold.end_s]
        self.length = self._places[-1] + span_s - self._times[-1]

    def place(self, time_s: float) -> float:
        """Where it is; in a fold, as far in it as in the wait."""
        piece = max(bisect_right(self._times, time_s) - 1, 0)
        after, at = time_s - self._times[piece], self._places[piece]
        if piece % 2 == 0:
            return at + after
        return at + self.wide * after / (self._times[piece + 1] - self._times[piece])


def folds(moments: Iterable[float], span_s: float) -> list[Fold]:
    """The waits between moments that are too long to be shown, the longest first; never all of them."""
    waits = sorted((Fold(*pair) for pair in pairwise(sorted({0.0, *moments, span_s}))), key=_length, reverse=True)
    found: list[Fold] = []
    for number, wait in enumerate(waits[: min(FOLDS_MAX, len(waits) - 1)]):
        if _length(wait) <= LONG * math.fsum(map(_length, waits[number + 1 :])):
            break
        found.append(wait)
    return found


def _length(fold: Fold) -> float:
    return fold.end_s - fold.start_s
