"""Are long waits folded, and only they? Time stays in order, and nothing that happens is hidden."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.trace.folding import FOLD, FOLDS_MAX, LONG, Fold, Line, folds

SPAN = 10.0
TIMES = st.integers(0, 10**10).map(lambda time_ns: time_ns / 1e9)
MOMENTS = st.lists(TIMES, max_size=60)


@given(MOMENTS)
def test_a_fold_is_a_wait(moments: list[float]) -> None:
    """Nothing happens within one, two do not meet, and there are not many."""
    found = folds(moments, SPAN)
    assert all(not fold.start_s < moment < fold.end_s for fold in found for moment in moments)
    assert all(one.end_s <= other.start_s for one, other in pairwise(sorted(found)))
    assert len(found) <= FOLDS_MAX


@given(MOMENTS)
def test_what_is_not_folded_is_short(moments: list[float]) -> None:
    """No wait that is left takes much of the line, unless it is alone; and there is always one left."""
    found = folds(moments, SPAN)
    waits = [b - a for a, b in pairwise(sorted({0.0, *moments, SPAN})) if Fold(a, b) not in found]
    assert waits
    if len(found) < FOLDS_MAX and len(waits) > 1:
        assert all(wait <= LONG * (sum(waits) - wait) * (1 + 1e-9) for wait in waits)


@given(MOMENTS, st.lists(TIMES, min_size=2))
def test_time_stays_in_order(moments: list[float], times: list[float]) -> None:
    """From 0 to the line's length, evenly where nothing is folded."""
    line = Line(SPAN, folds(moments, SPAN))
    places = [line.place(time) for time in sorted(times)]
    assert all(one <= other + 1e-9 for one, other in pairwise(places))
    assert 0.0 <= places[0] <= places[-1] <= line.length + 1e-9
    assert line.place(SPAN) == pytest.approx(line.length)


def test_folds_have_one_width() -> None:
    """Long or longer; what is between them keeps its own."""
    line = Line(SPAN, [Fold(1.0, 4.0), Fold(5.0, 9.5)])
    assert line.even_s == pytest.approx(2.5)
    assert line.place(4.0) - line.place(1.0) == pytest.approx(FOLD * 2.5)
    assert line.place(9.5) - line.place(5.0) == pytest.approx(FOLD * 2.5)
    assert line.place(5.0) - line.place(4.0) == pytest.approx(1.0)
    assert Line(SPAN).place(3.0) == 3.0
