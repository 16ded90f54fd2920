"""Do the invariants see what they name, and nothing else? And does a reader find them?"""

from __future__ import annotations

import pages
import pytest
from collection import RACES, invariant_table

from labkit.abi import GPA_BUFFERS, NUMBERS
from labkit.board import Board
from labkit.races import Act, Scenario, explore
from labkit.races.acts import PAUSE, RESUME
from labkit.races.acts_rest import is_lent
from labkit.races.invariants import EVERY_KICK_IS_SERVED, ONE_CONSUMER, REST_IS_REST
from labkit.races.scenario import added, kick, publish

UNTOUCHED = (NUMBERS["MEMORY_MIN_MIB"] << 20) - 1  # the last byte of RAM, where no guest of the lab has anything
NAMES = (  # what is asked for by these names
    "every-kick-is-served",
    "one-consumer",
    "rest-is-rest",
    "no-registration-is-left",
    "used-within-avail",
    "memory-stands-still-while-paused",
    "fds-at-baseline",
    "no-deadlock",
    "no-busy-loop",
)


def write_in_two_places(board: Board) -> None:
    """By somebody who has not heard that the machine is paused."""
    board.memory.write(GPA_BUFFERS + 5, b"\x17")
    board.memory.write(UNTOUCHED, b"\x17")


WRITES = Act("write", write_in_two_places)


def paused_scenario(*main: Act) -> Scenario:
    """An idle guest."""
    return Scenario("pause-and-write", "Somebody writes guest memory.", (), main=main)


@pytest.mark.parametrize("main", [(PAUSE, WRITES), (PAUSE, WRITES, RESUME)], ids=["stays-paused", "goes-on"])
def test_memory_that_is_written_while_paused_is_told_of(main: tuple[Act, ...], cpu: str) -> None:
    """Wherever it is, in a page that nobody has ever touched as well; whether the machine goes on or not."""
    report = explore(paused_scenario(*main), cpu=cpu)
    (failure,) = report.failures
    assert (failure.invariant, failure.times) == ("memory-stands-still-while-paused", report.schedules)
    assert f"at {GPA_BUFFERS + 5:#x} and in 1 pages more" in failure.seen


@pytest.mark.parametrize("main", [(WRITES, PAUSE, RESUME), (PAUSE, RESUME, WRITES)], ids=["before", "after"])
def test_memory_may_be_written_while_the_machine_runs(main: tuple[Act, ...], cpu: str) -> None:
    """Before the stop and after the start."""
    assert explore(paused_scenario(*main), cpu=cpu).failures == ()


def test_what_a_stop_waits_for_is_no_work_at_rest(cpu: str) -> None:
    """A backend ends the request that it is at: the stop waits for that, and memory stands still from then on."""
    scenario = Scenario(
        name="kick-a-backend-and-pause",
        story="The guest kicks a queue that a backend has, and the machine pauses.",
        invariants=(REST_IS_REST, EVERY_KICK_IS_SERVED, ONE_CONSUMER),
        guest=(publish(), kick()),
        main=(PAUSE,),
        prepare=added,
        begin=is_lent,
        backend=True,
    )
    report = explore(scenario, cpu=cpu)
    assert report.complete and report.failures == ()


def test_the_page_has_every_invariant() -> None:
    """By name and with what its breach means, as in the code."""
    assert pages.section(RACES.read_text(), "invariants", by="make museum") == invariant_table()
    assert all(f"`{name}`" in invariant_table() for name in NAMES)
