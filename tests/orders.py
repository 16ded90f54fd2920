"""Scenarios for the tests of labkit.races, and a search by hand: every schedule on one machine, with what it leaves."""

from __future__ import annotations

from collections.abc import Iterator

from labkit.board import Board
from labkit.museum import find
from labkit.races.invariants import EVERY_KICK_IS_SERVED, NO_REGISTRATION_IS_LEFT, REST_IS_REST
from labkit.races.player import Player, Run
from labkit.races.scenario import Act, Scenario, added, driver_ok, kick, publish
from labkit.races.search import Depth

HELD = (EVERY_KICK_IS_SERVED, NO_REGISTRATION_IS_LEFT)
LOST_KICK = "lost-kick-at-deassign"
KICK_AND_STOP = find(LOST_KICK).scenario


def take_over(board: Board) -> None:
    """A backend takes every queue."""
    board.hand_over(None)


def pause_and_resume(board: Board) -> None:
    """R10, both ways."""
    board.pause()
    board.resume()


def replug(board: Board) -> None:
    """A backend's thread ends with the device that it served."""
    board.unplug()
    board.plug()


HAND_OVER = Scenario(
    name="kick-and-hand-over",
    story="The guest kicks, and a backend takes the queue.",
    invariants=HELD,
    guest=(publish(), kick()),
    main=(Act("hand_over", take_over),),
    prepare=added,
    backend=True,
)
PAUSE = Scenario(
    name="kick-and-pause",
    story="The guest kicks, and the machine is paused and resumed.",
    invariants=(*HELD, REST_IS_REST),
    guest=(publish(), kick()),
    main=(Act("pause_and_resume", pause_and_resume),),
    prepare=added,
)
TWO_VCPUS = Scenario(
    name="kick-here-and-stop-there",
    story="One vCPU kicks while the other clears DRIVER_OK.",
    invariants=HELD,
    guest=(publish(), kick()),
    others={1: (driver_ok(False),)},
    boot={"vcpus": 2},
    prepare=added,
)
REPLUG = Scenario(
    name="kick-and-replug",
    story="The guest kicks a queue that a backend has, and the device is pulled out and put back.",
    invariants=(),
    guest=(publish(), kick()),
    main=(Act("replug", replug),),
    prepare=added,
    begin=take_over,
    backend=True,
)

State = tuple[object, ...]


def left(player: Player, run: Run) -> State:
    """What a schedule has left behind, as far as a later run could tell."""
    board = player.vm._board
    queues = tuple(
        (queue.avail_idx, queue.used_idx, queue.last_avail_idx, queue.notifier.owner, queue.notifier.pending)
        for queue in board.proxy.queues
    )
    broken = tuple(sorted(one.invariant for one in run.broken))
    return run.outcome.name, broken, int(board.proxy.status), board.runstate.state.name, queues


def every_order(player: Player, limit: int = 5000) -> Iterator[tuple[Run, State]]:
    """Depth first, as `explore` does it."""
    plan = Depth(player.scenario)
    while (branch := plan.next()) is not None:
        run = player.play(branch.choice)
        plan.played(branch, run)
        yield run, left(player, run)
        limit -= 1
        assert limit, "there are too many"
