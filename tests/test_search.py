"""Does a search try every order, leave out only what makes no difference, and keep what it found?"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import active_children, get_context
from typing import Any

import pytest
from backends import back_ends
from orders import HAND_OVER, HELD, KICK_AND_STOP, LOST_KICK, PAUSE, TWO_VCPUS, State, every_order

from labkit import UsageError, museum, races
from labkit.races import explore, pool
from labkit.races.footprint import Stretch
from labkit.races.player import Player
from labkit.races.scenario import Scenario, added, driver_ok, kick, publish
from labkit.trace.events import Kind

SMALL_HAND_OVER = replace(
    HAND_OVER, points=frozenset({Kind.WOKEN, Kind.KICK_EVENTFD, Kind.DETACH, Kind.ASSIGN, Kind.BACKEND})
)
TWO_REQUESTS = Scenario(
    name="two-kicks-and-stop",
    story="Two requests, each kicked, before DRIVER_OK goes.",
    invariants=HELD,
    guest=(publish(), kick(), kick(), driver_ok(False)),
    prepare=added,
)
SCENARIOS = [KICK_AND_STOP, TWO_REQUESTS, SMALL_HAND_OVER, PAUSE, TWO_VCPUS]
BROKEN = [LOST_KICK]


def all_of(scenario: Scenario, mutations: list[str], cpu: str) -> tuple[list[bytes], set[State]]:
    """Every schedule of the search, and what they leave behind."""
    with Player(scenario, mutations, cpu) as player:
        played = [(run.actors, state) for run, state in every_order(player)]
    return [actors for actors, _ in played], {state for _, state in played}


def hold_against_all(scenario: Scenario, mutations: list[str], cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With sleep sets and without, the same invariants break, and the same states are reached."""
    few, states = all_of(scenario, mutations, cpu)
    monkeypatch.setattr(Stretch, "is_independent", lambda _self, _other: False)
    many, all_states = all_of(scenario, mutations, cpu)
    assert states == all_states
    assert len(set(few)) == len(few) < len(many) == len(set(many))
    assert any(state[1] for state in states) == bool(mutations) or scenario in (SMALL_HAND_OVER, PAUSE)


@pytest.mark.emulated
@pytest.mark.parametrize("mutations", [[], BROKEN], ids=["as-it-is", "broken"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_what_is_left_out_makes_no_difference(
    scenario: Scenario, mutations: list[str], cpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving out is sound: for one vCPU and two, with a backend, with a main thread that stops the machine."""
    hold_against_all(scenario, mutations, cpu, monkeypatch)


@pytest.mark.kvm
def test_nor_does_it_with_vcpus_that_have_threads(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On KVM one vCPU goes while the other stands in a step."""
    hold_against_all(TWO_VCPUS, BROKEN, cpu, monkeypatch)


@pytest.mark.kvm
@pytest.mark.parametrize("scenario", [KICK_AND_STOP, TWO_REQUESTS, PAUSE], ids=lambda one: one.name)
def test_both_cpus_have_the_same_schedules(scenario: Scenario) -> None:
    """The same set, and the same states."""
    if "emulated" not in back_ends():
        pytest.skip("no emulated CPU here")
    kvm, emulated = (all_of(scenario, BROKEN, cpu) for cpu in ("kvm", "emulated"))
    assert sorted(kvm[0]) == sorted(emulated[0])
    assert kvm[1] == emulated[1]


@pytest.mark.kvm
def test_vcpus_that_share_a_thread_have_fewer() -> None:
    """Of the schedules that KVM has; the states are the same."""
    if "emulated" not in back_ends():
        pytest.skip("no emulated CPU here")
    kvm, emulated = (all_of(TWO_VCPUS, BROKEN, cpu) for cpu in ("kvm", "emulated"))
    assert set(emulated[0]) < set(kvm[0])
    assert emulated[1] == kvm[1]


def test_a_search_says_whether_it_was_complete(cpu: str) -> None:
    """All orders, or as many as were asked for; and on how many machines makes no difference."""
    whole = explore(LOST_KICK, mutations=BROKEN, cpu=cpu)
    assert whole.complete and not whole.interrupted
    (failure,) = whole.failures
    assert failure.invariant == "every-kick-is-served"
    assert 0 < failure.times < whole.schedules
    for machines in (1, 3):
        again = explore(LOST_KICK, mutations=BROKEN, cpu=cpu, machines=machines)
        assert (again.schedules, again.failures[0].times) == (whole.schedules, failure.times)
    assert explore(LOST_KICK, mutations=BROKEN, limit=whole.schedules, cpu=cpu).complete
    part = explore(LOST_KICK, mutations=BROKEN, limit=whole.schedules - 1, cpu=cpu)
    assert (part.complete, part.schedules) == (False, whole.schedules - 1)
    held = explore(LOST_KICK, cpu=cpu)
    assert held.complete and held.failures == ()
    assert "all hold" in repr(held) and "every order" in held._repr_html_()


@pytest.mark.parametrize("scheduler", ["random", "pct"])
def test_chance_repeats_itself(scheduler: str, cpu: str) -> None:
    """The same seed gives the same schedules, and another one others."""
    first, again, other = (
        explore(LOST_KICK, scheduler, BROKEN, limit=40, seed=seed, cpu=cpu)._replace(seconds=0.0) for seed in (3, 3, 90)
    )
    assert first == again
    assert (first.schedules, first.complete) == (40, False)
    assert first.failures and first.failures[0].times != 40
    assert first.failures[0].times != other.failures[0].times or first.failures != other.failures


def test_everybody_in_turn_is_one_schedule(cpu: str) -> None:
    """And it is no search."""
    report = explore(LOST_KICK, "round-robin", cpu=cpu)
    assert (report.schedules, report.complete, report.failures) == (1, False, ())


def test_what_cannot_be_searched_is_refused() -> None:
    """No such scheduler, scenario or mutation."""
    with pytest.raises(UsageError, match="dfs, pct, random, round-robin"):
        explore(LOST_KICK, "bfs")
    with pytest.raises(UsageError, match="specimen 'none'"):
        explore("none")
    with pytest.raises(UsageError, match="specimen 'none'"):
        explore(LOST_KICK, mutations=["none"])


def test_it_ends_at_the_first_failure_if_asked(cpu: str) -> None:
    """And says that it has not tried all."""
    report = explore(LOST_KICK, mutations=BROKEN, until_broken=True, machines=1, cpu=cpu)
    assert report.failures[0].times == 1
    assert not report.complete


def test_progress_is_told(cpu: str) -> None:
    """Schedules and failures so far."""
    told: list[tuple[int, int]] = []
    report = explore(LOST_KICK, mutations=BROKEN, cpu=cpu, machines=1, progress=lambda *now: told.append(now))
    assert told == sorted(told)
    assert told[-1] == (report.schedules, 1)


@pytest.mark.usefixtures("leaves_nothing")
def test_an_interrupt_keeps_what_was_found(cpu: str) -> None:
    """The report says so, and the machines are closed."""

    def interrupt(schedules: int, _failures: int) -> None:
        if schedules >= 5:
            threading.Thread(target=_thread.interrupt_main).start()

    report = explore(LOST_KICK, "random", BROKEN, limit=100_000, cpu=cpu, progress=interrupt)
    assert report.interrupted
    assert not report.complete
    assert 5 <= report.schedules < 100_000
    assert "interrupted" in repr(report)


def test_a_report_is_a_table(cpu: str) -> None:
    """A row for each invariant that breaks, and a schedule that breaks it again."""
    report = explore(LOST_KICK, mutations=BROKEN, cpu=cpu)
    frame = report.frame()
    assert list(frame.invariant) == ["every-kick-is-served"]
    (schedule,) = frame.schedule
    assert races.replay(LOST_KICK, schedule, BROKEN, cpu=cpu).broken == ("every-kick-is-served",)
    assert list(explore(LOST_KICK, cpu=cpu).frame().columns) == list(frame.columns)


def test_the_schedule_of_each_specimen_breaks_it(cpu: str) -> None:
    """At the first try, and it does no harm without the mutation."""
    for name in museum.names():
        specimen = museum.find(name)
        if not specimen.schedule:
            continue
        text = f"{specimen.scenario.name}:{specimen.scenario.fingerprint}:{specimen.schedule}"
        assert specimen.invariant.name in races.replay(name, text, [name], cpu=cpu).broken


# -- other processes ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["spawn", "fork"])
def processes(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Two of them."""
    with ProcessPoolExecutor(2, mp_context=get_context(request.param)) as executor:
        yield executor


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # what "fork" is warned of is what is tried
def test_other_processes_find_the_same(processes: Executor, cpu: str) -> None:
    """With each scheduler, and again with machines that are there already."""
    for scheduler, limit in (("dfs", None), ("random", 60), ("dfs", None)):
        here = explore(LOST_KICK, scheduler, BROKEN, limit=limit, cpu=cpu)
        there = explore(LOST_KICK, scheduler, BROKEN, limit=limit, cpu=cpu, executor=processes, machines=1)
        assert (there.schedules, there.complete) == (here.schedules, here.complete)
        assert [one.times for one in there.failures] == [one.times for one in here.failures]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_stacks_come_from_other_processes(processes: Executor, cpu: str) -> None:
    """A deadlock that was found there has the stacks of there."""
    wrong = ["lock-and-wait"]
    (here,), (there,) = (
        explore(wrong[0], mutations=wrong, cpu=cpu, executor=one).failures for one in (None, processes)
    )
    assert there == here
    assert "vcpu0 waiting for the iothread's handler" in there.stacks and there.stacks.endswith(" detach")


def test_processes_of_our_own_find_the_same(cpu: str) -> None:
    """They are there for one search, and gone after it."""
    here = explore(LOST_KICK, mutations=BROKEN, cpu=cpu)
    there = explore(LOST_KICK, mutations=BROKEN, cpu=cpu, executor="processes", machines=1)
    assert (there.schedules, there.complete) == (here.schedules, True)
    assert [one.times for one in there.failures] == [one.times for one in here.failures]
    assert not active_children()


def test_what_cannot_go_elsewhere_is_refused(cpu: str) -> None:
    """Threads are what there is anyway, and a function without a name in a module stays here."""
    with pytest.raises(UsageError, match="executor='threads': an executor, or 'processes'"):
        explore(LOST_KICK, executor="threads", cpu=cpu)
    with ThreadPoolExecutor(1) as threads, pytest.raises(UsageError, match="executor=None"):
        explore(LOST_KICK, executor=threads, cpu=cpu)
    local = replace(KICK_AND_STOP, prepare=lambda vm: added(vm, requests=2))
    with ProcessPoolExecutor(1) as executor, pytest.raises(UsageError, match="functions of a module"):
        explore(local, executor=executor, cpu=cpu)


def test_a_cluster_finds_the_same(cpu: str) -> None:
    """A client of dask.distributed, if it is installed."""
    distributed: Any = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        there = explore(LOST_KICK, mutations=BROKEN, cpu=cpu, executor=client, machines=1)
    here = explore(LOST_KICK, mutations=BROKEN, cpu=cpu)
    assert (there.schedules, there.complete) == (here.schedules, True)


def test_a_batch_is_played_in_the_order_of_its_choices(cpu: str) -> None:
    """However many machines play it."""
    with pool.Here(KICK_AND_STOP, BROKEN, cpu, 2) as here, Player(KICK_AND_STOP, BROKEN, cpu) as one:
        choices = [races.Choice(policy=races.Policy.RANDOM, seed=seed) for seed in range(12)]
        assert [run.taken[::24] for run in here.play(choices)] == [one.play(choice).actors for choice in choices]
