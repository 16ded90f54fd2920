"""Is a page told what is new, once and only then, and does nothing stay behind when nobody looks any more?"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from screens import click

import labkit
from labkit import UsageError
from labkit.widgets import dashboard, pair, publisher
from labkit.widgets.publisher import PUBLISHER, Publisher

Boot = Callable[..., labkit.Machine]
WAIT_S = 30.0


class Page:
    """Something to look after that counts how often somebody did."""

    def __init__(self) -> None:
        self.over, self.looked = False, threading.Semaphore(0)

    def frame(self, *, at_once: bool) -> bool:
        """Nothing is ever new."""
        self.looked.release()
        return False


# -- the thread --------------------------------------------------------------------------------------------------------


def test_it_looks_again_and_again_until_all_is_over() -> None:
    """Its thread ends by itself then, and the next page gets a new one."""
    tells = Publisher()
    for _ in range(2):
        page = Page()
        tells.add(page)
        for _ in range(3):
            assert page.looked.acquire(timeout=WAIT_S)
        page.over = True
        tells.nudge()
        assert tells.wait_for_end(WAIT_S)


def test_it_keeps_no_page_alive() -> None:
    """A page that is forgotten is collected, and nobody looks any more."""
    tells, page = Publisher(), Page()
    tells.add(page)
    assert page.looked.acquire(timeout=WAIT_S)
    gone = weakref.ref(page)
    del page
    tells.nudge()
    assert tells.wait_for_end(WAIT_S)
    assert gone() is None


def test_a_click_is_seen_at_once_however_calm_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has changed for long, and the next look would be in an hour: a nudge brings it on."""
    monkeypatch.setattr(publisher, "CALM_AFTER_S", -1.0)
    monkeypatch.setattr(publisher, "CALM_PERIOD_S", 3600.0)
    tells, page = Publisher(), Page()
    tells.add(page)
    for _ in range(3):
        assert page.looked.acquire(timeout=WAIT_S)
        tells.nudge()
    tells.remove(page)
    assert tells.wait_for_end(WAIT_S)


class Mute(Page):
    """A page that cannot be told anything."""

    def frame(self, *, at_once: bool) -> bool:
        """It fails."""
        super().frame(at_once=at_once)
        raise LookupError


def test_a_page_that_cannot_be_told_is_not_the_end_of_the_others() -> None:
    """It fails each time, and both are looked after all the same."""
    tells, pages = Publisher(), (Mute(), Page())
    for page in pages:
        tells.add(page)
    for page in pages * 3:
        assert page.looked.acquire(timeout=WAIT_S)
    for page in pages:
        tells.remove(page)
    assert tells.wait_for_end(WAIT_S)


# -- frames ------------------------------------------------------------------------------------------------------------


def test_nothing_is_told_when_nothing_is_new(shown: Callable[..., Any]) -> None:
    """A machine at rest: the second look finds what the first has told."""
    vm, screen = shown()
    vm.pause()
    screen.frame()
    told: list[object] = []
    screen.observe(told.append, "scene")
    assert [screen.frame() for _ in range(3)] == [False] * 3
    assert told == []


def test_what_is_new_is_told_as_a_whole(shown: Callable[..., Any]) -> None:
    """One trait, one message: the state, the owner, the announcement and the answer to the click together."""
    _, screen = shown()
    click(screen, "pause", seq=4)
    screen.frame()
    (machine,) = screen.scene["machines"]
    assert (machine["state"], machine["queues"][0]["owner"]) == ("paused", "none")
    assert screen.scene["asked"]["seq"] == 4
    assert screen.scene["asked"]["outcome"] == "done"
    assert screen.scene["announce"] == "queue 0: vmm → none because PAUSE (R10)"


def test_a_kick_that_only_waits_is_new(shown: Callable[..., Any]) -> None:
    """A guest that kicks makes no event while the iothread is held: the count in the eventfd is looked at."""
    vm, screen = shown(irq="poll")
    vm.guest.read(0)
    vm.hold("iothread", at="before-handler")
    vm.guest.kick()
    assert vm.gates.wait("iothread")
    screen.frame()
    vm.proxy.notifiers.each[0].signal()
    assert screen.frame()
    assert screen.scene["machines"][0]["queues"][0]["pending"] == 2
    vm.release()


def test_a_closed_machine_is_told_once_more(shown: Callable[..., Any]) -> None:
    """The last scene says so; then the screen is over, and nobody looks at it."""
    vm, screen = shown()
    vm.close()
    screen.frame()
    assert screen.scene["machines"][0]["state"] == "closed"
    assert screen.over
    PUBLISHER.nudge()
    assert PUBLISHER.wait_for_end(WAIT_S)


def test_a_look_that_fails_is_told_and_not_the_end(shown: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen last stays, with what went wrong; the next look is as ever."""
    vm, screen = shown()
    (look,) = screen._looks
    with monkeypatch.context() as broken:
        broken.setattr(look, "look", lambda: 1 / 0)
        vm.pause()
        screen.frame()
        (machine,) = screen.scene["machines"]
        assert machine["note"] == "the screen itself failed: ZeroDivisionError('division by zero')"
        assert machine["queues"]
    vm.resume()
    screen.frame()
    assert screen.scene["machines"][0]["note"] == ""


def test_a_screen_keeps_no_machine_alive(cpu: str) -> None:
    """The machine is forgotten while it is shown: it is closed, and the screen says what to do about it."""
    vm = labkit.boot(cpu=cpu)
    screen = dashboard(vm)
    board = vm._board
    del vm
    gc.collect()
    assert board.gone
    screen.frame()
    assert "keep it in a variable" in screen.scene["machines"][0]["note"]
    screen.close()


def test_two_screens_of_one_machine_show_the_same(shown: Callable[..., Any]) -> None:
    """Each has its own position in the feed, and its own requests."""
    vm, first = shown()
    second = vm.dashboard()
    click(first, "pause")
    assert first.frame()
    assert second.frame()
    assert first.scene["machines"][0]["queues"] == second.scene["machines"][0]["queues"]
    assert second.scene["asked"]["done"] == 0
    second.close()


# -- pairs and parts ---------------------------------------------------------------------------------------------------


def test_a_pair_waits_for_the_machine_that_comes(shown: Callable[..., Any], listen: Callable[..., Any]) -> None:
    """It listens, then it is here: the same screen shows who has which queue."""
    vm, _ = shown()
    arrival = listen()
    screen = pair(vm, arrival)
    assert [one["state"] for one in screen.scene["machines"]] == ["running", "listening"]
    assert click(screen, "kick", machine=1, queue=0).text == (
        "UsageError: there is no machine: it was closed, or has not come yet"
    )
    vm.migrate(arrival.address)
    there = arrival.machine(WAIT_S)
    screen.frame()
    states = [(one["state"], one["queues"][0]["owner"]) for one in screen.scene["machines"]]
    assert states == [("migrated", "none"), ("running", "vmm")]
    assert screen.machines == [vm, there]
    screen.close()


def test_a_pair_says_that_nothing_came(shown: Callable[..., Any], listen: Callable[..., Any]) -> None:
    """The arrival was closed: why stands in the note."""
    vm, _ = shown()
    arrival = listen()
    screen = pair(vm, arrival)
    arrival.close()
    screen.frame()
    assert screen.scene["machines"][1]["state"] == "failed"
    assert screen.scene["machines"][1]["note"].startswith("it did not come:")
    screen.close()


def test_a_pair_is_of_machines() -> None:
    """Anything else is the caller's mistake."""
    with pytest.raises(UsageError, match=r"a machine, or what labkit\.listen gives"):
        pair("vm0", "vm1")


def test_each_part_has_a_view_of_its_own(boot: Boot) -> None:
    """Only what belongs to it is drawn and looked at; the gates have the buttons that hold and release."""
    vm = boot()
    queue = vm.proxy.queues[0]
    parts = {
        vm.proxy: ["proxy"],
        queue: ["queues", "rings"],
        queue.notifier: ["queues"],
        vm.trace: ["timeline", "events"],
        vm.gates: ["controls"],
    }
    for part, views in parts.items():
        screen = part.view()
        assert screen.about["views"] == views
        assert {action["group"] for action in screen.about["actions"]} == ({"threads"} if part is vm.gates else set())
        screen.close()


def test_the_rules_are_told_with_the_screen(shown: Callable[..., Any]) -> None:
    """Every rule that an event can name has its prose."""
    _, screen = shown(revision="today")
    assert screen.about["rules"] == {f"R{number}": labkit.rules.text(f"R{number}") for number in range(1, 19)}
    assert screen.about["rules_of"] == "today"
