"""Is every step of the rules missed when it is left out? A mutation that nobody catches is a defect of the lab.

Of v6 and today each step is tried; of merged and 0.14 those of the rows that the revision before has otherwise. All of
them are tried with LABKIT_FUZZ=1, as `make fuzz` does.
"""

import hashlib
from collections.abc import Callable

import pytest
from fuzzing import FULL

import labkit
from labkit import abi
from labkit.museum import steps
from labkit.museum.steps import NOBODY_MISSES, LeftOut
from labkit.races import explore
from labkit.races.player import Player
from labkit.races.scenario import Scenario
from labkit.races.search import Depth
from labkit.virtio.notifier import REVISIONS

pytestmark = pytest.mark.emulated
BEFORE = {"merged": "v6", "0.14": "merged"}  # whose walks are shortened


def is_new(one: LeftOut) -> bool:
    """Had the revision before no such row, or no such part of START and STOP?"""
    now, before = (REVISIONS[name] for name in (one.revision, BEFORE.get(one.revision, one.revision)))
    if now is before:
        return True
    if isinstance(one.of, str):
        return bool(getattr(now, one.of) != getattr(before, one.of))
    return now.rows[one.of] != before.rows.get(one.of)


EVERYTHING = [one for revision in REVISIONS for one in steps.everything(revision)]
ALL = [one for one in EVERYTHING if FULL or is_new(one)]
N = abi.NUMBERS
REQUEST_BYTES = N["REQUEST_SLOTS"] * N["REQUEST_STRIDE"]
LOOKED_AT = (
    (N["GPA_RINGS"], N["RING_STRIDE"]),
    (N["GPA_REQUESTS"], REQUEST_BYTES),
    (abi.GPA_BUFFERS, 2 * abi.SECTOR_BYTES),
)
SCENARIOS = {scenario.name: scenario for one in ALL for scenario in one.scenarios}


def found_in(one: LeftOut) -> str:
    """The first scenario in which a search finds that it is missing; empty: in none."""
    for scenario in one.scenarios:
        if explore(scenario, mutations=(one.name,), cpu="emulated", until_broken=True).failures:
            return scenario.name
    return ""


def end(player: Player) -> bytes:
    """All that a schedule has left which a guest or a user can see, as a digest."""
    board, notifiers = player._board, player._board.proxy.notifiers
    parts = (
        board.runstate.state,
        board.plugged,
        board.proxy.save_device(),
        notifiers.flags,
        (notifiers.started, notifiers.turned_off, notifiers.bus_master_bug, notifiers.kicked),
        [(owner.name, one.port) for owner, one in zip(notifiers.owners, notifiers.each.values(), strict=False)],
        board.proxy.backend.has,
        list(map(str, notifiers.errors)),
        [board.memory.read(gpa, size) for gpa, size in LOOKED_AT],
    )
    return hashlib.sha256(repr(parts).encode()).digest()


def ends(scenario: Scenario, *left_out: str) -> set[bytes]:
    """Of every order."""
    found = set()
    with Player(scenario, left_out, "emulated") as player:
        plan = Depth(scenario)
        while branch := plan.next():
            plan.played(branch, player.play(branch.choice))
            found.add(player._board.owner.call(lambda: end(player)))
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_with_every_step_each_order_holds(name: str) -> None:
    """A scenario of the walk is tried in every order, and nothing breaks while no step is left out."""
    report = explore(SCENARIOS[name], cpu="emulated")
    assert report.complete
    assert report.failures == ()


@pytest.mark.parametrize("one", [one for one in ALL if one.name not in NOBODY_MISSES], ids=lambda one: one.name)
def test_a_step_that_is_left_out_is_found(one: LeftOut) -> None:
    """Each step of each row, and each part of START and STOP, is missed in some order of some scenario."""
    assert found_in(one)


@pytest.mark.parametrize("left_out", [(), ("v6:PAUSE-without-STOP",)])
def test_a_machine_can_be_booted_without_a_step(boot: Callable[..., labkit.Machine], left_out: tuple[str, ...]) -> None:
    """Where no schedule is played it is missing all the time: a pause without STOP leaves the notifiers started."""
    vm = boot("blk", mutations=left_out)
    vm.pause()
    assert vm.proxy.ioeventfd_started is bool(left_out)


def test_what_nobody_misses_is_a_step() -> None:
    """The list of steps that can be left out names steps, and no step twice."""
    names = [one.name for one in EVERYTHING]
    assert len(set(names)) == len(names)
    assert set(NOBODY_MISSES) <= set(names)


def test_the_short_walk_leaves_out_nothing_that_is_new() -> None:
    """What it does not try, the revision before has too, in the same row or the same START and STOP."""
    left_out = [one for one in EVERYTHING if not is_new(one)]
    assert {one.revision for one in left_out} == set(BEFORE)
    tried = {one.name for one in EVERYTHING if one not in left_out}
    for one in left_out:
        of, revision = one.name.partition(":")[2], one.revision
        while f"{revision}:{of}" not in tried:
            revision = BEFORE[revision]


@pytest.mark.parametrize("one", [one for one in ALL if one.name in NOBODY_MISSES], ids=lambda one: one.name)
def test_a_step_that_nobody_misses_changes_nothing(one: LeftOut) -> None:
    """Without it every scenario of its cause comes to the same ends, over all orders, and none of them breaks."""
    assert one.scenarios
    assert found_in(one) == ""
    for scenario in one.scenarios:
        assert ends(scenario, one.name) == ends(scenario)
