"""Do the specimens around backends and hand-over break what they say, in the order that they name?"""

import pickle

import pytest

from labkit import museum
from labkit.races.player import Choice, Player

HERE = (
    "two-consumers",
    "drain-before-base",
    "eexist-abort",
    "hand-over-window",
    "trap-bypasses-owner",
    "rollback-index",
    "close-before-deassign",
    "writes-a-ring-it-lent",
)
TIMES = 50


@pytest.mark.guest
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("mutations", [(), ("rollback-index",)], ids=["right", "wrong"])
def test_the_same_moment_goes_the_same_way_each_time(mutations: tuple[str, ...], cpu: str) -> None:
    """A schedule leaves nothing behind, and none begins before a vCPU that was stopped is known to go on."""
    with Player(museum.find("rollback-index").scenario, mutations, cpu) as player:
        runs = [player.play(Choice()) for _ in range(TIMES)]
    assert {(run.actors, run.outcome, run.broken) for run in runs} == {
        (runs[0].actors, runs[0].outcome, runs[0].broken)
    }
    assert bool(runs[0].broken) == bool(mutations)


@pytest.mark.parametrize("name", HERE)
def test_a_specimens_scenario_goes_to_other_processes(name: str) -> None:
    """It is pickled as a whole, with what its main thread does, and is the same scenario there."""
    scenario = museum.find(name).scenario
    there = pickle.loads(pickle.dumps(scenario))
    assert there == scenario
    assert there.fingerprint == scenario.fingerprint
