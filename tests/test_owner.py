"""Does everybody who asks something of a machine get an answer, even when the machine is being closed?"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from labkit import UsageError
from labkit.owner import Owner

WAIT_S = 60.0


def test_what_is_asked_after_the_end_is_refused() -> None:
    """Nobody waits for a thread that is gone."""
    owner = Owner("late")
    owner.stop()
    owner.join(WAIT_S)
    with pytest.raises(UsageError, match="the machine is closed"):
        owner.call(lambda: 1)


def test_whose_turn_does_not_come_is_told() -> None:
    """Asked before the end, but behind the close that ends it: refused, not forgotten."""
    owner, closing = Owner("last"), threading.Event()

    def close() -> None:
        owner.stop()
        closing.set()
        while owner._requests.qsize() < len(("the end", "the call")):
            os.sched_yield()

    with ThreadPoolExecutor(1) as beside:
        owner.submit(close)
        assert closing.wait(WAIT_S)
        late = beside.submit(owner.call, lambda: "done")
        with pytest.raises(UsageError, match="the machine is closed"):
            late.result(WAIT_S)


def test_many_ask_while_it_ends() -> None:
    """Whoever comes, each has an answer or a refusal."""
    for _ in range(50):
        owner = Owner("busy")
        with ThreadPoolExecutor(4) as beside:
            asked = [beside.submit(owner.call, lambda: "done") for _ in range(20)]
            owner.stop()
        assert {_outcome(one) for one in asked} <= {"done", "the machine is closed"}


def _outcome(asked: object) -> object:
    try:
        return asked.result(WAIT_S)  # type: ignore[attr-defined]
    except UsageError as error:
        return str(error)
