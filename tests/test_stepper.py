"""Does a schedule that is decided step by step lead where it leads in one go, and is it said where everybody stands?"""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
from orders import HAND_OVER, KICK_AND_STOP, LOST_KICK, PAUSE, REPLUG, TWO_VCPUS

import labkit
from labkit import UsageError
from labkit import board as board_module
from labkit.abi import Fault
from labkit.board import Board
from labkit.errors import HostError
from labkit.native import lib
from labkit.races import Stepper, moment, replay, schedules, stepper
from labkit.races import player as player_module
from labkit.races.moment import Moment, where
from labkit.races.player import Choice, Player, Policy
from labkit.races.scenario import Act, Command, Scenario, Step, driver_ok
from labkit.trace import gates

pytestmark = pytest.mark.usefixtures("leaves_nothing")
VARY = {"fd"}  # fields of events that are not the schedule's to say
SCENARIOS = [KICK_AND_STOP, HAND_OVER, PAUSE, REPLUG, TWO_VCPUS]
WALK = 60  # moves
WAIT_S = 30.0


def told(now: Moment) -> tuple[object, ...]:
    """All of a moment that must be the same whenever it is played."""
    events = [
        (event.name, event.actor, event.queue, {k: v for k, v in event.values.items() if k not in VARY})
        for event in now.events
    ]
    return (*now._replace(events=()), events)


@pytest.fixture
def made(cpu: str) -> Iterator[Callable[..., Stepper]]:
    """Steppers of scenarios, with the kick that gets lost; closed at the end."""
    steppers: list[Stepper] = []

    def make(scenario: Scenario = KICK_AND_STOP, mutations: tuple[str, ...] = (LOST_KICK,)) -> Stepper:
        steppers.append(scenario.stepper(mutations, cpu))
        return steppers[-1]

    yield make
    for one in steppers:
        one.close()


Make = Callable[..., Stepper]


def broken(s: Stepper) -> list[str]:
    """Names of the invariants that are."""
    return [one.name for one in s.invariants if one.state == "broken"]


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_a_kick_is_lost_by_hand(made: Make) -> None:
    """The vCPU publishes, kicks and goes all the way, and the iothread never had its turn."""
    s = made()
    assert (s.can, s.decisions, s.over, s.outcome) == (("vcpu0",), (), False, "")
    assert {one.state for one in s.invariants} == {"open"}
    assert [one.next for one in s.actors] == ["publish(0)", ""]
    s.go("vcpu0").go("vcpu0")
    assert s.can == ("vcpu0", "iothread")
    assert s.decisions[-1][:3] == ("vcpu0", "idle", "kick(0, 1)")
    assert s.actors[1] == ("iothread", True, "idle", "look at its eventfds")
    while s.can:
        s.go("vcpu0")
    assert (s.over, s.outcome, broken(s)) == (True, "done", ["every-kick-is-served"])
    (lost,) = (one for one in s.invariants if one.state == "broken")
    assert lost.seen.startswith("queue 0: avail.idx 1, used.idx 0") and "waits for ever" in lost.sentence
    assert "detach" in [kind for one in s.decisions for kind in one.did]
    assert [one.stands for one in s.actors] == ["at its end", "idle"]
    assert replay(LOST_KICK, s.schedule, [LOST_KICK]).broken == ("every-kick-is-served",)


def test_the_kick_is_served_if_the_iothread_goes_first(made: Make) -> None:
    """The same scenario and the same bug, in another order: everything holds."""
    s = made().go("vcpu0").go("vcpu0")
    while "iothread" in s.can:
        s.go("iothread")
    assert "request" in [event.name for event in s.events]
    s.rest()
    assert (s.outcome, broken(s)) == ("done", [])
    assert {one.state for one in s.invariants} == {"holds"}


def test_the_front_door_knows_specimens_by_name(cpu: str) -> None:
    """`labkit.races.stepper`, and the same by the scenario's own method."""
    with stepper(LOST_KICK, [LOST_KICK], cpu=cpu) as one, KICK_AND_STOP.stepper(cpu=cpu) as other:
        assert (one.schedule, one.cpu) == (other.schedule, cpu)
        assert (one.mutations, other.mutations) == ((LOST_KICK,), ())
        assert broken(one.rest()) and not broken(other.rest())
    with pytest.raises(UsageError, match="no-such"):
        labkit.races.stepper("no-such")
    with pytest.raises(UsageError, match="no-such"):
        stepper(LOST_KICK, ["no-such"], cpu=cpu)


# -- back and forth ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_the_way_back_is_the_way_there(scenario: Scenario, made: Make) -> None:
    """Each moment is the same again, events and all, when it is reached from behind and once more from before."""
    s, chance = made(scenario), random.Random(1)
    there = [told(s.moment)]
    while s.can:
        there.append(told(s.go(chance.choice(s.can)).moment))
    went = [one.actor for one in s.decisions]
    back = [told(s.moment)]
    while s.decisions:
        back.append(told(s.back().moment))
    assert back == there[::-1]
    assert [there[0], *(told(s.go(actor).moment) for actor in went)] == there


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_each_moment_of_a_schedule_is_what_its_decisions_say(scenario: Scenario, cpu: str) -> None:
    """Who could have gone, where he who went stood, and the events until then."""
    with Player(scenario, [LOST_KICK], cpu) as player:
        for seed in range(3):
            run = player.play(Choice(policy=Policy.RANDOM, seed=seed))
            for count, decision in enumerate(run.decisions):
                now = moment.at(player, run.actors[:count])
                enabled = {gates.name_of(actor) for actor in range(lib.GATES_ACTORS) if decision.enabled >> actor & 1}
                assert (set(now.can), now.over, now.outcome) == (enabled, False, "")
                assert len(now.events) == decision.seq - run.first_event
                assert player.plan_end.places[decision.actor][0] == decision.before
                if decision.before != lib.PLACE_IDLE:
                    (stood,) = (one.stands for one in now.actors if one.name == gates.name_of(decision.actor))
                    assert stood.startswith(where(decision.before, decision.kind))
            end = moment.at(player, run.actors)
            assert (end.over, end.rest, end.can) == (True, b"", ())
            assert [
                {kind for kind in gates.NAMES.values() if decision.did >> kind & 1} for decision in run.decisions
            ] == [{gates.kind_of(name) for name in one.did} for one in end.decisions]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_a_walk_is_where_one_would_be_without_it(scenario: Scenario, made: Make, cpu: str) -> None:
    """Whatever was gone, undone and played before: the moment is that of its schedule on another machine."""
    s, chance = made(scenario), random.Random(7)
    seen = [s.schedule]
    with Player(scenario, [LOST_KICK], cpu) as fresh:
        for _ in range(WALK):
            can_go = s.can * 3  # three times as likely as another move, each
            moves = [*can_go, "play", *(["back"] if s.decisions else []), *(["rest", "again"] if s.over else [])]
            move = chance.choice(moves)
            if move == "play":
                s.play(chance.choice(seen))
            elif move in can_go:
                s.go(move)
            else:
                getattr(s, move)()
            seen.append(s.schedule)
            assert told(s.moment) == told(moment.at(fresh, s.moment.plan))
            assert s.moment.plan == schedules.decode(scenario, s.schedule)


def test_a_rest_is_what_goes_when_nobody_decides(made: Make) -> None:
    """From anywhere, and again at the end, where it changes nothing."""
    s = made()
    whole = s.rest().schedule
    assert (s.over, whole) == (True, s.rest().schedule)
    s.again().go("vcpu0")
    assert s.rest().schedule == whole
    assert s.again().decisions == ()


def test_of_a_schedule_that_goes_on_behind_its_end_the_end_is_left(made: Make) -> None:
    """As the museum writes them: the vCPU, as often as it can."""
    s = made().play(f"{KICK_AND_STOP.name}:{KICK_AND_STOP.fingerprint}:vx20")
    assert s.over and s.schedule.endswith(":vx10")


def test_an_actor_that_comes_later_is_idle(made: Make) -> None:
    """A backend has no thread before it takes the queues, or one of a schedule before: it has nothing to do in both."""
    s = made(HAND_OVER)
    stands = {one.name: one.stands for one in s.actors}
    assert stands == {"vcpu0": "idle", "iothread": "idle", "backend": "idle", "main": "idle"}
    assert (s.actors[-1].next, "backend" in s.can) == ("hand_over", False)
    before = told(s.moment)
    assert "backend" in {one.actor for one in s.rest().decisions}
    assert told(s.again().moment) == before


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def refused(s: Stepper, move: Callable[[], object], match: str) -> None:
    """A UsageError, and nothing has happened."""
    before = told(s.moment)
    with pytest.raises(UsageError, match=match):
        move()
    assert told(s.moment) == before


def test_who_is_no_actor_cannot_go(made: Make) -> None:
    """It says which there are."""
    s = made()
    for actor in ("", "vcpu1", "v", "iothread ", "x" * 5000, None, 16, b"vcpu0", ["vcpu0"]):
        refused(s, partial(s.go, actor), "there are vcpu0, iothread")  # type: ignore[arg-type]


def test_who_cannot_go_is_told_who_can(made: Make) -> None:
    """Before it has something to do, and after the end; and before the first decision there is no way back."""
    s = made()
    refused(s, lambda: s.go("iothread"), r"iothread cannot go: it is idle\. vcpu0 can")
    refused(s, s.back, "nothing was decided yet")
    s.rest()
    refused(s, lambda: s.go("vcpu0"), r"the schedule has ended \(done\)")


OF_THIS = f"kick-and-stop:{KICK_AND_STOP.fingerprint}:"
OF_SOMETHING_ELSE = {
    schedules.encode(PAUSE, b"\x10"): "not of kick-and-stop",
    "kick-and-stop:0000:v": "another one then",
    "": "of nothing",
    "nonsense": "of nonsense",
    None: "None",
    17: "17",
    OF_THIS + "i": "lets iothread go, which cannot",
    OF_THIS + "v b": "lets backend go, which cannot",
    OF_THIS + "v z": "is no actor",
    OF_THIS + "vx99999": "is no actor",
}


def test_a_schedule_of_something_else_is_refused(made: Make) -> None:
    """And what was decided stays."""
    s = made().go("vcpu0").go("vcpu0")
    for text, match in OF_SOMETHING_ELSE.items():
        refused(s, partial(s.play, text), match)  # type: ignore[arg-type]
    s.go("iothread")


def stop_under_the_lock(board: Board) -> None:
    """What must not be done: a vCPU may want the lock before it can stop."""
    with board.locked():
        board._stop_vcpus()
        board.release_vcpus()


def test_a_deadlock_is_an_end_with_a_way_back(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for what, and for whom; then it goes on, on a machine that is not stuck."""
    monkeypatch.setattr(board_module, "STOP_TIMEOUT_MS", 300)
    acts = (Act("stop", stop_under_the_lock),)
    s = made(replace(KICK_AND_STOP, guest=(driver_ok(False),), main=acts, invariants=KICK_AND_STOP.invariants))
    s.go("vcpu0")
    assert s.actors[0] == ("vcpu0", True, "before the big lock, in driver_ok(0)", "")
    while "main" in s.can:
        s.go("main")
    assert (s.over, s.outcome, s.can, broken(s)) == (True, "deadlock", (), ["no-deadlock"])
    stands = {one.name: one.stands for one in s.actors}
    assert stands["vcpu0"].startswith("before the big lock") and stands["main"] == "waiting for a vCPU to stop, in stop"
    assert {one.state for one in s.invariants if one.name == "every-kick-is-served"} == {"open"}
    dead = told(s.moment)
    assert s.back().can
    while "main" in s.can:
        s.go("main")
    assert told(s.moment) == dead
    assert s.again().can == ("vcpu0", "main")


def test_a_step_that_fails_leaves_all_as_it_was(made: Make) -> None:
    """It is said which, and the next move has a machine again."""
    fails: list[bool] = []

    def act(_board: Board) -> None:
        if fails:
            raise HostError("a call", 5)

    s = made(replace(KICK_AND_STOP, main=(Act("act", act),))).go("vcpu0")
    fails.append(True)
    refused(s, lambda: s.go("main"), "act of the main thread failed")
    fails.clear()
    assert s.go("main").decisions[-1].step == "act"


def test_who_comes_to_no_gate_ends_it(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that spins is said to run, and there is a way back."""
    monkeypatch.setattr(player_module, "GATE_TIMEOUT_MS", 200)
    s = made(replace(KICK_AND_STOP, guest=(Step(Command.FAULT, (Fault.SPIN,)),), invariants=()))
    s.go("vcpu0")
    assert (s.over, s.outcome, broken(s)) == (True, "stuck", ["ends"])
    assert s.actors[0].stands.startswith("running, in fault(")
    assert s.back().can == ("vcpu0",)


def test_what_does_not_end_is_ended(made: Make) -> None:
    """At the scenario's limit of decisions."""
    s = made(replace(KICK_AND_STOP, limit=5)).rest()
    assert (s.outcome, broken(s), len(s.decisions)) == ("limit", ["no-busy-loop"], 5)


# -- a search ----------------------------------------------------------------------------------------------------------


def test_a_search_goes_to_what_it_has_found(made: Make) -> None:
    """The end of a schedule that breaks something, from where one can go back."""
    s = made()
    report = s.search()
    assert report.failures and (s.over, broken(s)) == (True, ["every-kick-is-served"])
    assert s.schedule == report.failures[0].schedule
    assert s.back().can == ("vcpu0",)


def test_a_search_that_finds_nothing_changes_nothing(made: Make) -> None:
    """Every order was tried, and one stands where one stood."""
    s = made(KICK_AND_STOP, ()).go("vcpu0")
    before = told(s.moment)
    report = s.search()
    assert (report.complete, report.failures) == (True, ())
    assert told(s.moment) == before
    refused(s, lambda: s.search("no-such"), "no-such")


def test_a_close_ends_a_search(made: Make) -> None:
    """It is not waited for: who searches hears that the stepper is closed."""
    s, under_way, said = made(HAND_OVER, ()), threading.Event(), []

    def search() -> None:
        with pytest.raises(UsageError) as error:
            s.search("random", limit=10**9, progress=lambda _schedules, _failures: under_way.set())
        said.append(str(error.value))

    searcher = threading.Thread(target=search)
    searcher.start()
    assert under_way.wait(WAIT_S)
    s.close()
    searcher.join(WAIT_S)
    assert said == ["the stepper is closed"]


# -- its end, and how it looks -----------------------------------------------------------------------------------------


def test_a_closed_stepper_still_says_what_was(made: Make) -> None:
    """Every move is refused; a second close is none."""
    s = made().go("vcpu0")
    s.close()
    s.close()
    schedule = schedules.encode(KICK_AND_STOP, b"\x10")
    for move in (lambda: s.go("vcpu0"), s.back, s.again, s.rest, s.search, lambda: s.play(schedule)):
        refused(s, move, "the stepper is closed")
    assert s.closed and s.schedule == schedule
    assert "closed" in repr(s)


def test_a_forgotten_stepper_is_collected(cpu: str) -> None:
    """Its machine goes with it."""
    s = KICK_AND_STOP.stepper([LOST_KICK], cpu).go("vcpu0").rest()
    gone, machine = weakref.ref(s), weakref.ref(s._player.vm)  # type: ignore[union-attr]
    del s
    gc.collect()
    assert (gone(), machine()) == (None, None)


def test_what_it_says_is_the_same_each_time(made: Make) -> None:
    """As text and as HTML: the schedule, where all stand, what holds; and nothing that differs from run to run."""
    one, other = made(), made()
    for move in ("go", "go", "rest"):
        assert (repr(one), one._repr_html_()) == (repr(other), other._repr_html_())
        for s in (one, other):
            s.go("vcpu0") if move == "go" else s.rest()
    assert repr(one).splitlines()[:3] == [
        "stepper of kick-and-stop",
        f"  schedule                          {one.schedule}",
        f"  wrong on purpose                  {LOST_KICK}",
    ]
    lost = "every-kick-is-served              broken: queue 0: avail.idx 1, used.idx 0, and all are idle"
    assert lost in repr(one)
    html = one._repr_html_()
    assert html.count("<table>") == 3 and '<th scope="col"' in html
    assert all(part in html for part in (one.schedule, "at its end", "broken", "kick(0, 1)", "deassign"))
