"""Is a schedule the same each time it is played, and does one that goes wrong say why and leave nothing?"""

from __future__ import annotations

import itertools
import threading
from contextlib import suppress
from dataclasses import replace

import pytest
from orders import HAND_OVER, KICK_AND_STOP, LOST_KICK, PAUSE, REPLUG, TWO_VCPUS, left

from labkit import UsageError, museum
from labkit import board as board_module
from labkit import machine as machine_module
from labkit.abi import Command, Fault
from labkit.board import Board
from labkit.errors import HostError
from labkit.races import explore, replay, schedules
from labkit.races import player as player_module
from labkit.races.player import Choice, Outcome, Player, Policy
from labkit.races.scenario import Act, Scenario, Step, driver_ok

pytestmark = pytest.mark.usefixtures("leaves_nothing")
VARY = {"fd"}  # fields of events that are not the schedule's to say
TIMES = 100
WAIT_S = 60.0


def told(player: Player, choice: Choice) -> tuple[object, ...]:
    """All that a schedule must do again: who went, what happened, what was left."""
    run = player.play(choice)
    events = player.vm.trace.events(since=run.first_event)
    said = [
        (event.name, event.actor, event.queue, {k: v for k, v in event.values.items() if k not in VARY})
        for event in events
    ]
    return run.actors, run.outcome, [d[:5] for d in run.decisions], said, left(player, run)


@pytest.mark.parametrize("scenario", [KICK_AND_STOP, HAND_OVER, PAUSE, REPLUG, TWO_VCPUS], ids=lambda one: one.name)
def test_a_schedule_does_the_same_each_time(scenario: Scenario, cpu: str) -> None:
    """The same events by the same actors with the same fields, whatever was played in between."""
    choices = [Choice(policy=Policy.RANDOM, seed=seed) for seed in range(4)]
    with Player(scenario, [LOST_KICK], cpu) as player:
        first = [told(player, choice) for choice in choices]
        again = [Choice(plan=one[0]) for one in first]  # type: ignore[arg-type]
        for _ in range(TIMES // len(choices)):
            assert [told(player, choice) for choice in again] == first
    assert len({one[0] for one in first}) > 1


def test_a_failure_is_played_again_by_its_text(cpu: str) -> None:
    """A hundred times, with the same outcome and the same words."""
    with Player(KICK_AND_STOP, [LOST_KICK], cpu) as player:
        plan = player.play(Choice(plan=bytes([16] * 4))).actors
        text = schedules.encode(KICK_AND_STOP, plan)
        for _ in range(TIMES):
            run = player.play(Choice(plan=schedules.decode(KICK_AND_STOP, text)))
            assert [one.invariant for one in run.broken] == ["every-kick-is-served"]
            assert run.actors == plan
    once = replay(LOST_KICK, text, [LOST_KICK], cpu=cpu)
    assert (once.schedule, once.broken) == (text, ("every-kick-is-served",))
    assert "every-kick-is-served" in repr(once)
    assert replay(LOST_KICK, schedules.encode(KICK_AND_STOP, plan[:4]), cpu=cpu).broken == ()


def test_a_plan_that_cannot_be_is_refused(cpu: str) -> None:
    """It says which decision, and the player can be closed."""
    with Player(KICK_AND_STOP, (), cpu) as player:
        for plan in (b"\x01", b"\x10\x03", bytes([25])):
            with pytest.raises(UsageError, match=r"decision .* cannot"):
                player.play(Choice(plan=plan))
        assert player.play(Choice()).outcome is Outcome.DONE


@pytest.mark.parametrize("command", [Command.WAIT, Command.REQUEST, Command.STORM, Command.KICK_LOOP])
def test_a_step_that_waits_is_refused(command: Command) -> None:
    """It would wait for the schedule, which waits for it."""
    with pytest.raises(UsageError, match="waits in the guest"):
        replace(KICK_AND_STOP, guest=(Step(command),))


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stands still is found out soon."""
    monkeypatch.setattr(player_module, "GATE_TIMEOUT_MS", 200)
    monkeypatch.setattr(player_module, "STANDSTILL_S", 0.3)
    monkeypatch.setattr(machine_module, "CLOSE_TIMEOUT_S", 0.1)


@pytest.mark.usefixtures("impatient")
def test_a_step_that_never_returns_is_told_of(cpu: str) -> None:
    """Which it is, and for how long; the machine goes as soon as the step does return."""
    never = threading.Event()
    stands = replace(KICK_AND_STOP, main=(Act("stand", lambda _board: never.wait()),))
    player = Player(stands, (), cpu)
    with pytest.raises(UsageError, match=r"stand of the main thread has not returned for 0.3 s"):
        player.play(Choice())
    never.set()
    player.vm._board.owner.join(WAIT_S)
    assert player.vm.state == "closed"


def test_a_step_that_fails_is_told_of(cpu: str) -> None:
    """Which it is, and why; and the machine is closed."""

    def fail(_board: Board) -> None:
        raise HostError("a call", 5)

    fails = replace(KICK_AND_STOP, main=(Act("fail", fail),))
    player = Player(fails, (), cpu)
    with pytest.raises(UsageError, match=r"fail of the main thread failed: .*a call"):
        player.play(Choice())
    assert player.vm.state == "closed"


def stop_under_the_lock(board: Board) -> None:
    """What must not be done: a vCPU may want the lock before it can stop."""
    with board.locked():
        board._stop_vcpus()
        board.release_vcpus()


def test_a_deadlock_is_seen_and_not_suffered(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for what; and the next schedule is played as if nothing had been."""
    monkeypatch.setattr(board_module, "STOP_TIMEOUT_MS", 300)
    deadlocks = replace(
        KICK_AND_STOP, guest=(driver_ok(False),), main=(Act("stop", stop_under_the_lock),), invariants=()
    )
    with Player(deadlocks, (), cpu) as player:
        found = [player.play(Choice(policy=Policy.RANDOM, seed=seed)) for seed in range(8)]
        dead = [run for run in found if run.outcome is Outcome.DEADLOCK]
        assert dead and len(dead) < len(found)
        assert {run.outcome for run in found} == {Outcome.DEADLOCK, Outcome.DONE}
        (broken,) = dead[0].broken
        assert broken.invariant == "no-deadlock"
        assert "main waiting for a vCPU to stop, with the big lock" in broken.seen
        assert "vcpu0 before the big lock" in broken.seen
        assert player.play(Choice(plan=dead[0].actors)).outcome is Outcome.DEADLOCK
        again = player.play_all([Choice(policy=Policy.RANDOM, seed=seed) for seed in range(8)])
        assert [(run.outcome, run.actors) for run in again] == [(run.outcome, run.actors) for run in found]


def test_a_batch_ends_where_one_cannot_be_played(cpu: str) -> None:
    """It says which decision, and the next batch is played as if nothing had been."""
    with Player(KICK_AND_STOP, (), cpu) as player:
        good = Choice(policy=Policy.RANDOM)
        with pytest.raises(UsageError, match="decision 0 of the schedule lets iothread go, which cannot"):
            player.play_all([good, good, Choice(plan=bytes([2])), good])
        first, second = player.play_all([good, good])
        assert first.actors == second.actors == player.play(good).actors


@pytest.mark.usefixtures("impatient")
def test_who_comes_to_no_gate_is_told_of(cpu: str) -> None:
    """A guest that spins ends the schedule, and the next one has a new machine."""
    spins = replace(KICK_AND_STOP, guest=(Step(Command.FAULT, (Fault.SPIN,)),), invariants=())
    with Player(spins, (), cpu) as player:
        first = player.vm
        run = player.play(Choice())
        assert run.outcome is Outcome.STUCK
        assert [(one.invariant, "vcpu0 running" in one.seen) for one in run.broken] == [("ends", True)]
        assert player.play(Choice()).outcome is Outcome.STUCK
        assert (first.state, player.vm.state) == ("closed", "running")


def functions(stacks: str, actor: str) -> list[str]:
    """In which ones it stood, the outermost first."""
    lines = iter(stacks.splitlines())
    assert any(line.startswith(f"{actor} ") for line in lines)
    stack = itertools.takewhile(lambda line: line.startswith("  "), lines)
    return [line.rpartition(" ")[2] for line in stack]


def test_a_deadlock_has_the_stacks_of_both_sides(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions that have and want the lock, as they were while both still stood there."""
    monkeypatch.setattr(board_module, "STOP_TIMEOUT_MS", 300)
    deadlocks = replace(KICK_AND_STOP, main=(Act("stop", stop_under_the_lock),), invariants=())
    (failure,) = explore(deadlocks, cpu=cpu).failures
    main, vcpu = functions(failure.stacks, "main"), functions(failure.stacks, "vcpu0")
    assert main == ["stop_under_the_lock", "_stop_vcpus"]
    assert vcpu[-2:] == ["_serve_exit", "__enter__"]
    assert functions(failure.stacks, "iothread") == []


def test_a_specimen_that_deadlocks_has_both_stacks(cpu: str) -> None:
    """Who holds the lock and waits is in Python, from the guest's access to the notifier that is stopped; who wants the
    lock is in the core. The events are those before it.
    """
    specimen = museum.find("lock-and-wait")
    played = replay(specimen.name, specimen.order, [specimen.name], cpu=cpu)
    said = (played.stacks, repr(played), repr(museum.run(specimen.name, cpu, search=False)))
    assert all("iothread before the big lock" in one for one in said)
    assert all("vcpu0 waiting for the iothread's handler to be done, with the big lock" in one for one in said)
    assert functions(played.stacks, "iothread") == ["core"]
    held = functions(played.stacks, "vcpu0")
    assert held.index("_serve_exit") < held.index("write_config") < held.index("_stop") < held.index("detach")
    assert [event.actor for event in played.events][-2:] == ["iothread", "iothread"]


def test_what_does_not_end_is_ended(cpu: str) -> None:
    """At the scenario's limit of decisions."""
    with Player(replace(KICK_AND_STOP, limit=5), (), cpu) as player:
        run = player.play(Choice())
        assert run.outcome is Outcome.LIMIT
        assert [one.invariant for one in run.broken] == ["no-busy-loop"]
        assert len(run.actors) == 5
        assert player.play(Choice()).actors == run.actors


def test_a_guest_that_crashes_is_told_of(cpu: str) -> None:
    """As an invariant that breaks, and the next schedule has a guest again."""
    crashes = replace(KICK_AND_STOP, guest=(Step(Command.FAULT, (Fault.TRIPLE,)),), invariants=())
    with Player(crashes, (), cpu) as player:
        for _ in range(3):
            run = player.play(Choice())
            assert [one.invariant for one in run.broken] == ["guest-lives"]
            assert "triple fault" in run.broken[0].seen


def test_a_scenario_that_cannot_be_prepared_leaves_nothing(cpu: str) -> None:
    """The error of the preparation comes out."""

    def prepare(_vm: object) -> None:
        raise UsageError("not like this")

    with pytest.raises(UsageError, match="not like this"):
        Player(replace(KICK_AND_STOP, prepare=prepare), (), cpu)
    with suppress(UsageError):
        Player(replace(KICK_AND_STOP, boot={"vcpus": 99}), (), cpu)
