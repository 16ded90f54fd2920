"""Is everything that is clicked carried out as its code says, in order, and told; and nothing that makes no sense?"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable
from typing import Any

import pytest
from screens import click, outcome, seen

import labkit
from labkit.virtio.notifier import REVISIONS
from labkit.widgets import actions, stepper
from labkit.widgets.hand import WAITING_MOST, Lane

Boot = Callable[..., labkit.Machine]
Shown = Callable[..., tuple[labkit.Machine, Any]]


# -- the table ---------------------------------------------------------------------------------------------------------


def test_no_text_of_a_page_is_carried_out(boot: Boot) -> None:
    """It fills in whole numbers and words of a list; what takes a text has a function of its own."""
    kinds = {name: field["kind"] for name, field in actions.fields(boot()._board).items()}
    filled_in = {kinds[name] for action in actions.TABLE if action.do is None for name in action.fields}
    assert filled_in == {"int", "choice"}
    assert [action.id for action in stepper.TABLE if action.fields and action.do is None] == []


@pytest.mark.parametrize("action", actions.TABLE, ids=lambda action: action.id)
def test_each_button_shows_python(action: actions.Action) -> None:
    """Its code parses with anything that may be filled in, and asks for the fields that it names."""
    values = {"queue": 0, "times": 2, "sector": 1, "requests": 3}
    values |= {"actor": "vcpu0", "gate": "drain", "call": "assign", "error": "ENOSPC"}
    ast.parse(action.said(values))
    assert action.said({name: values[name] for name in action.fields}) == action.said(values)
    assert action.help.endswith(".")


def test_a_machine_has_the_buttons_that_make_sense_for_it(boot: Boot) -> None:
    """No sectors without a disk, no backend for a net device."""
    known = {action.id for action in actions.possible(boot("net")._board)}
    assert known.isdisjoint({"read", "storm", "hand_over", "take_back"})
    assert {"kick", "pause", "hold"} <= known


# -- carried out -------------------------------------------------------------------------------------------------------


def test_a_click_is_the_call_it_shows(shown: Shown) -> None:
    """A kick is a step of the guest in the events, and the answer says what came of it."""
    vm, screen = shown()
    mark = vm.trace.mark()
    asked = click(screen, "kicks", seq=7, queue=0, times=3)
    assert (asked.seq, asked.page, asked.done, asked.waiting) == (7, "p", 1, 0)
    assert (asked.code, asked.outcome) == ("vm.guest.kick(queue=0, times=3)", "done")
    (step,) = vm.trace.events("step", since=mark)
    assert (step["command"], step["arg1"]) == ("KICK", 3)


@pytest.mark.parametrize("revision", REVISIONS)
def test_each_action_leaves_its_record(shown: Shown, revision: str) -> None:
    """What a button did can be read in the events afterwards, whatever the rules are."""
    vm, screen = shown(revision=revision)
    left = {
        "pause": "runstate",
        "resume": "runstate",
        "read": "step",
        "hand_over": "backend",
        "take_back": "backend",
        "ioeventfd_off": "plug",
        "ioeventfd_on": "plug",
        "reset": "device_reset",
        "bring_up": "step",
    }
    filled_in = {"read": {"sector": 1}}
    for ask, kind in left.items():
        mark = vm.trace.mark()
        assert outcome(screen, ask, **filled_in.get(ask, {}))[0] == "done", ask
        assert vm.trace.events(kind, since=mark), ask


@pytest.mark.parametrize("revision", REVISIONS)
def test_ioeventfd_belongs_to_the_device_that_is_plugged_in(shown: Shown, revision: str) -> None:
    """R1: off is another device, whose kicks trap, and on is one more; the disk is the same."""
    vm, screen = shown(revision=revision)
    for on, path in ((False, "trap"), (True, "eventfd")):
        mark = vm.trace.mark()
        assert outcome(screen, "ioeventfd_on" if on else "ioeventfd_off")[0] == "done"
        assert [event["plugged"] for event in vm.trace.events("plug", since=mark)] == [0, 1]
        assert vm.guest.read(0).startswith(b"labkit")
        assert seen(vm)["datapath"]["path"] == path
    vm.unplug()
    vm.plug()
    assert vm.proxy.notifiers.ioeventfd, "as the last one was made"


def test_a_fault_comes_at_the_next_call(shown: Shown) -> None:
    """R4: the assign fails at the next start, and the event says that it was asked for."""
    vm, screen = shown()
    vm.pause()
    assert outcome(screen, "fault", call="assign", queue=0, error="ENOSPC") == (
        "done",
        "the next assign of queue 0 will fail: ENOSPC",
    )
    vm.resume()
    assert [event.name for event in vm.trace.events("fault", "roll_back")] == ["fault", "roll_back"]


def test_a_thread_is_held_stepped_and_released(shown: Shown) -> None:
    """The kick waits behind the iothread; a step lets it go to its next event."""
    vm, screen = shown(irq="poll")
    vm.guest.read(0)
    assert outcome(screen, "hold_at", actor="iothread", gate="before-handler")[0] == "done"
    click(screen, "kick", queue=0)
    assert vm.gates.wait("iothread")
    assert outcome(screen, "step", actor="iothread")[1].startswith("Held(actor='iothread'")
    assert outcome(screen, "release", actor="iothread") == ("done", "")


def test_a_step_of_the_guest_that_waits_keeps_no_release_away(shown: Shown) -> None:
    """The read waits for a held iothread, and the click that releases it goes past."""
    vm, screen = shown(irq="poll")
    vm.hold("iothread", at="before-handler")
    hand = screen._hand
    hand.take({"ask": "read", "seq": 1, "with": {"sector": 0}})
    assert vm.gates.wait("iothread", 10)
    hand.take({"ask": "release", "seq": 2, "with": {"actor": "iothread"}})
    assert hand.idle(30)
    assert (screen.asked.done, screen.asked.code, screen.asked.outcome) == (2, "vm.guest.read(0)", "done")


def test_a_guest_that_hangs_keeps_no_reset_away(shown: Shown) -> None:
    """A step under way is waited for a moment only; the reset ends it."""
    vm, screen = shown()
    vm.hold("iothread", at="before-handler")
    screen._hand.take({"ask": "storm", "seq": 1, "with": {"requests": 1000}})
    assert vm.gates.wait("iothread", 10)
    screen._hand.take({"ask": "reset", "seq": 2})
    vm.release()
    assert screen._hand.idle(60)
    assert screen.asked.done == 2
    assert vm.state == "running"


def test_a_migration_shows_both_machines(shown: Shown) -> None:
    """It moves to a listener of its own; the machine that came is the screen's, and is shown beside."""
    vm, screen = shown()
    assert outcome(screen, "migrate")[0] == "done"
    screen.frame()
    assert [one["state"] for one in screen.scene["machines"]] == ["migrated", "running"]
    source, there = screen.machines
    assert source is vm
    assert there.guest.read(0).startswith(b"labkit")
    assert click(screen, "kick", machine=1, queue=0).outcome == "done"
    there.close()


# -- order and an end --------------------------------------------------------------------------------------------------


def test_a_hundred_clicks_are_a_hundred_calls_in_order(shown: Shown) -> None:
    """None is lost, none comes before one that was clicked earlier."""
    vm, screen = shown()
    mark = vm.trace.mark()
    for number in range(100):
        screen._hand.take({"ask": "kicks", "seq": number, "with": {"queue": 0, "times": number + 1}})
    assert screen._hand.idle(30)
    assert [event["arg1"] for event in vm.trace.events("step", since=mark)] == list(range(1, 101))
    assert (screen.asked.done, screen.asked.waiting, screen.asked.seq) == (100, 0, 99)


def test_a_stop_ends_a_storm_and_forgets_what_waits(shown: Shown) -> None:
    """The storm tells how far it came; what waited behind it is not done, and says so."""
    vm, screen = shown()
    hand, done = screen._hand, []
    storm = next(action for action in actions.TABLE if action.id == "storm")
    stops = iter([False, False, True])
    case = actions.Case(vm, {"requests": 10**6}, done.append, lambda: next(stops), done.append)
    assert storm.carry_out(case) == f"{2 * actions.STORM_PIECE} of {10**6} requests, stopped"
    assert [text.split(",")[0] for text in done] == [f"{n * actions.STORM_PIECE} of {10**6} requests" for n in (1, 2)]
    blocked = threading.Event()
    hand._order.put(blocked.wait)
    hand.take({"ask": "pause", "seq": 1})
    hand.take({"ask": "stop", "seq": 2})
    blocked.set()
    assert hand.idle(30)
    assert (screen.asked.code, screen.asked.outcome, vm.state) == ("vm.pause()", "failed", "running")


def test_what_a_call_raises_is_told(shown: Shown) -> None:
    """Its type and its text; the next click is carried out as ever."""
    vm, screen = shown()
    vm.pause()
    assert outcome(screen, "kick", queue=0) == (
        "failed",
        "UsageError: the machine is paused: no guest step can be done",
    )
    assert outcome(screen, "resume") == ("done", "")


def test_a_click_on_a_closed_machine_is_told(shown: Shown) -> None:
    """It fails in words, and so does one on a machine that nobody holds any more."""
    vm, screen = shown()
    vm.close()
    assert outcome(screen, "pause") == ("failed", "UsageError: the machine is closed")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"ask": "format_c"}, "nothing is called 'format_c' here"),
        ({"ask": ["kick"]}, "nothing is called"),
        ({"ask": "kick"}, "queue=None: a whole number from 0 to 0"),
        ({"ask": "kick", "with": {"queue": True}}, "queue=True"),
        ({"ask": "kick", "with": {"queue": 10**30}}, "a whole number from 0 to 0"),
        ({"ask": "kick", "with": {"queue": "0); import os; ("}}, "a whole number"),
        ({"ask": "kick", "with": 3}, "what was filled in is not a table"),
        ({"ask": "kick", "machine": 5, "with": {"queue": 0}}, "machine 5: there are 1"),
        ({"ask": "kick", "machine": -1, "with": {"queue": 0}}, "machine -1"),
        ({"ask": "hold", "with": {"actor": 'x"); import os; ("'}}, "one of vcpu0, iothread"),
        ({"ask": "read", "with": {"sector": 10**9}}, "sector=1000000000"),
    ],
)
def test_what_makes_no_sense_is_refused(shown: Shown, message: dict[str, Any], text: str) -> None:
    """Hostile until checked: nothing is carried out, and the reason is told."""
    vm, screen = shown()
    mark = vm.trace.mark()
    assert screen._hand.take({**message, "seq": 3, "page": "q"}) == {"taken": 3, "page": "q"}
    assert screen._hand.idle(30)
    assert (screen.asked.outcome, text in screen.asked.text) == ("failed", True)
    assert vm.trace.events("step", since=mark) == []


@pytest.mark.parametrize("message", [None, 3, "kick", [], {}, {"seq": 1}])
def test_what_is_no_request_is_not_answered(shown: Shown, message: object) -> None:
    """Other messages may be anybody's."""
    _, screen = shown()
    assert screen._hand.take(message) is None
    assert screen.asked.done == 0


def test_more_clicks_than_anybody_makes_are_refused(shown: Shown) -> None:
    """The waiting ones are bounded, and who is refused hears it."""
    _, screen = shown()
    hand, blocked = screen._hand, threading.Event()
    hand._order.put(blocked.wait)
    for number in range(WAITING_MOST + 1):
        hand.take({"ask": "resume", "seq": number})
    assert (hand.asked.waiting, hand.asked.outcome) == (WAITING_MOST, "failed")
    hand.stop()
    blocked.set()
    assert hand.idle(30)
    assert hand.asked.waiting == 0


def test_a_lane_has_a_thread_only_while_there_is_work() -> None:
    """It is idle when all is done, and begins again with the next piece."""
    lane, done = Lane("test"), []
    for turn in range(3):
        lane.put(lambda turn=turn: done.append(turn))
        assert lane.idle(30)
    assert done == [0, 1, 2]
