"""Does a barrier keep what it promises, and does the litmus test say only what it has seen?"""

from collections.abc import Callable

import pytest

import labkit
from labkit import races
from labkit.abi import NUMBERS, Command
from labkit.races import Litmus

ROUNDS = 20_000


def test_with_both_barriers_nobody_looks_too_early() -> None:
    """Device and driver each store, and then look behind a full barrier: in no round do both see the old value."""
    seen = races.litmus(ROUNDS)
    assert (seen.rounds, seen.with_barrier) == (ROUNDS, 0)
    others = (seen.without_device_barrier, seen.without_driver_barrier, seen.without_barrier)
    assert all(0 <= count <= ROUNDS for count in others)  # how often is this machine's affair


@pytest.mark.parametrize(
    ("without", "cpus", "said"),
    [(3, 2, "both barriers are needed"), (0, 2, "proves nothing"), (0, 1, "on one CPU nothing can be seen")],
)
def test_a_result_says_what_it_is_worth(without: int, cpus: int, said: str) -> None:
    """What was seen is a fact; what was not seen proves nothing, least of all on one CPU."""
    result = Litmus(10, 0, without, 0, 0, cpus)
    assert said in repr(result) and said in result._repr_html_()


@pytest.mark.parametrize("rounds", [0, -1, 1 << 40])
def test_rounds_are_a_number_that_can_be_played(rounds: int) -> None:
    """None, or more than anybody waits for: the caller's mistake."""
    with pytest.raises(labkit.UsageError, match="rounds="):
        races.litmus(rounds)


@pytest.mark.parametrize("wrong", [(), ("driver-barrier",)], ids=["right", "without-barrier"])
def test_a_publish_in_two_steps_stores_first(boot: Callable[..., labkit.Machine], wrong: tuple[str, ...]) -> None:
    """With its barrier a driver has stored avail.idx before it looks; without, it looks, and stores behind that."""
    vm = boot("blk", mutations=wrong)
    vm.guest.add()
    stored = [vm.guest._step(Command.PUBLISH, 0, NUMBERS[half])[0] for half in ("PUBLISH_BEGIN", "PUBLISH_END")]
    assert stored == [0 if wrong else 1, 1]
    assert vm.guest.wait().reaped == 1, "the end of it kicks"


def test_another_way_to_publish_is_refused(boot: Callable[..., labkit.Machine]) -> None:
    """The guest knows four."""
    with pytest.raises(labkit.GuestError, match="BAD_ARGUMENT"):
        boot("blk").guest._step(Command.PUBLISH, 0, NUMBERS["PUBLISH_END"] + 1)
