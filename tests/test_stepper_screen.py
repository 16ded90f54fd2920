"""Does a click on a stepper's screen do what the call does, in order, and does whatever else is sent do nothing?"""

from __future__ import annotations

import gc
import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from orders import HAND_OVER, KICK_AND_STOP, LOST_KICK, PAUSE

from labkit import UsageError
from labkit.races import Stepper, schedules
from labkit.races.scenario import Scenario
from labkit.widgets.publisher import PUBLISHER
from labkit.widgets.stepper import SCHEDULE_MOST, StepperScreen

pytestmark = pytest.mark.usefixtures("leaves_nothing")
WAIT_S = 30.0
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
FORMS = ("text/html", "text/plain")


class Page:
    """What a browser does: it numbers what it asks, and hears what was taken."""

    def __init__(self, stepper: Stepper, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stepper, self.view, self.heard, self._seq = stepper, stepper.view(), list[Any](), 0
        monkeypatch.setattr(self.view, "send", self.heard.append)

    def say(self, message: object) -> None:
        """As it comes through the comm."""
        self.view._handle_custom_msg(message, [])

    def ask(self, ask: str, **given: object) -> None:
        """A click."""
        self._seq += 1
        self.say({"ask": ask, "seq": self._seq, "page": "a1b2", "machine": 0, "with": given})

    def seen(self) -> dict[str, Any]:
        """All is done, and this is what the page draws."""
        assert self.view._hand.idle(WAIT_S)
        self.view.frame()
        json.dumps(self.view.scene, allow_nan=False)
        return self.view.scene["stepper"]


@pytest.fixture
def open_page(cpu: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Page]]:
    """A page that shows a stepper; both are closed at the end."""
    pages: list[Page] = []

    def make(scenario: Scenario = KICK_AND_STOP, mutations: tuple[str, ...] = (LOST_KICK,)) -> Page:
        pages.append(Page(scenario.stepper(mutations, cpu), monkeypatch))
        return pages[-1]

    yield make
    for page in pages:
        page.view.close()
        page.stepper.close()
    assert PUBLISHER.wait_for_end(WAIT_S)


Open = Callable[..., Page]


def states(seen: dict[str, Any]) -> set[str]:
    """Of the invariants."""
    return {one["state"] for one in seen["invariants"]}


def test_a_page_knows_its_buttons(open_page: Open) -> None:
    """Each with its label, its code and a sentence; and which actors and texts may be filled in."""
    about = open_page().view.about
    json.dumps(about)
    assert about["views"] == ["stepper"]
    assert [one["id"] for one in about["actions"]] == ["go", "back", "again", "rest", "search", "play", "stop"]
    assert all(one["label"] and one["code"] and one["help"] for one in about["actions"])
    assert about["fields"]["actor"]["choices"] == ["vcpu0", "iothread"]
    assert about["fields"]["schedule"]["kind"] == "text" and about["rules_of"] == "v6" and about["rules"]["R5"]


def test_a_race_is_lost_by_clicks(open_page: Open) -> None:
    """From the start to the invariant that breaks; what is shown grows with it."""
    page = open_page()
    start = page.seen()
    assert (start["scenario"], start["mutations"], start["decisions"]) == ("kick-and-stop", [LOST_KICK], [])
    assert (start["schedule"], start["cpu"]) == (page.stepper.schedule, page.stepper.cpu)
    assert start["actors"][0] == {"name": "vcpu0", "can": True, "stands": "idle", "next": "publish(0)"}
    for count in range(1, 11):
        page.ask("go", actor="vcpu0")
        seen = page.seen()
        assert len(seen["decisions"]) == seen["asked"]["done"] == seen["asked"]["seq"] == count
        assert (seen["asked"]["code"], seen["asked"]["outcome"]) == ('s.go("vcpu0")', "done")
    assert (seen["over"], seen["outcome"], states(seen)) == (True, "done", {"holds", "broken"})
    assert {"name", "sentence", "state", "seen"} == set(seen["invariants"][0])
    assert "every-kick-is-served is broken" in page.view.scene["announce"]
    assert seen["events"][0]["seq"] > seen["events"][-1]["seq"]
    assert {"seq", "time", "actor", "queue", "name", "text", "rule"} == set(seen["events"][0])
    page.ask("back")
    seen = page.seen()
    assert (seen["over"], states(seen), len(seen["decisions"])) == (False, {"open"}, 9)
    assert page.view.scene["announce"].startswith("vcpu0 went: ")


def test_each_button_does_what_the_call_does(open_page: Open) -> None:
    """Rest, again, play and search."""
    page = open_page()
    page.ask("rest")
    whole = page.seen()
    assert whole["over"] and whole["asked"]["text"] == whole["schedule"]
    page.ask("again")
    assert page.seen()["decisions"] == []
    page.ask("play", schedule=whole["schedule"])
    assert page.seen()["decisions"] == whole["decisions"]
    page.ask("again")
    page.ask("search")
    found = page.seen()
    assert (found["over"], found["asked"]["outcome"]) == (True, "done")
    assert "every-kick-is-served is broken" in found["asked"]["text"]


def test_a_hundred_clicks_are_done_in_their_order(open_page: Open) -> None:
    """Each is answered at once, and none is lost or overtaken."""
    page = open_page()
    for _ in range(24):
        for ask, given in (("go", {"actor": "vcpu0"}), ("go", {"actor": "vcpu0"}), ("back", {}), ("back", {})):
            page.ask(ask, **given)
    page.ask("go", actor="vcpu0")
    assert page.heard == [{"taken": seq, "page": "a1b2"} for seq in range(1, 98)]
    seen = page.seen()
    assert (seen["asked"]["done"], seen["asked"]["waiting"], seen["asked"]["outcome"]) == (97, 0, "done")
    assert len(seen["decisions"]) == 1


def test_a_move_in_a_cell_is_seen_too(open_page: Open) -> None:
    """And a picture is drawn only when there is something new."""
    page = open_page()
    page.seen()
    page.stepper.go("vcpu0")
    PUBLISHER.remove(page.view)
    page.view.frame()
    assert page.seen()["schedule"] == page.stepper.schedule
    assert page.view.frame() is False
    page.stepper.go("vcpu0")
    assert (page.view.frame(), page.view.frame()) == (True, False)


# -- what goes wrong ---------------------------------------------------------------------------------------------------

OF_ANOTHER = schedules.encode(PAUSE, b"\x10")
HOSTILE: list[object] = [
    {"ask": "no-such", "seq": 1},
    {"ask": None, "seq": 1},
    {"ask": ["go"], "seq": 1, "with": {"actor": "vcpu0"}},
    {"ask": "__init__", "seq": 1},
    {"ask": "close", "seq": 1},
    {"ask": "go", "seq": 1},
    {"ask": "go", "seq": 1, "with": None},
    {"ask": "go", "seq": 1, "with": "vcpu0"},
    {"ask": "go", "seq": 1, "with": {"actor": None}},
    {"ask": "go", "seq": 1, "with": {"actor": "vcpu1"}},
    {"ask": "go", "seq": 1, "with": {"actor": 'vcpu0"); s.close(); ("'}},
    {"ask": "go", "seq": 1, "machine": 1, "with": {"actor": "vcpu0"}},
    {"ask": "go", "seq": 1, "with": {"actor": "x" * 100_000}},
    {"ask": "go", "seq": 1, "with": {"actor": "iothread"}},
    {"ask": "back", "seq": 1, "page": {"a": 1}},
    {"ask": "back", "seq": "one"},
    {"ask": "play", "seq": 1, "with": {"schedule": 5}},
    {"ask": "play", "seq": 1, "with": {"schedule": ""}},
    {"ask": "play", "seq": 1, "with": {"schedule": "v" * (SCHEDULE_MOST + 1)}},
    {"ask": "play", "seq": 1, "with": {"schedule": "{0.__class__}"}},
    {"ask": "play", "seq": 1, "with": {"schedule": OF_ANOTHER}},
]


def test_what_cannot_be_done_is_told_on_the_page(open_page: Open) -> None:
    """Whatever was sent: it failed, with a reason, and nothing has happened."""
    page = open_page()
    before = page.seen()
    for count, message in enumerate(HOSTILE, 1):
        page.say(message)
        seen = page.seen()
        assert (seen["asked"]["outcome"], seen["asked"]["done"]) == ("failed", count), message
        assert seen["asked"]["text"].startswith("UsageError: ") and len(seen["asked"]["text"]) < 1000, message
        assert {**seen, "asked": None} == {**before, "asked": None}, message


def test_what_asks_nothing_is_not_answered(open_page: Open) -> None:
    """It is not for the stepper at all."""
    page = open_page()
    before = page.seen()
    for message in (None, 5, "go", [], {}, {"seq": 1}, {"event": "x"}):
        page.say(message)
        assert (page.seen(), page.heard) == (before, []), message


def test_a_click_on_what_is_closed_is_told(open_page: Open) -> None:
    """The screen says that it is closed, nobody can go, and what was stays to be read."""
    page = open_page()
    page.ask("rest")
    page.seen()
    page.stepper.close()
    page.view.frame()
    seen = page.seen()
    assert (seen["note"], seen["over"], states(seen)) == ("closed", True, {"holds", "broken"})
    page.ask("again")
    assert page.seen()["asked"]["text"] == "UsageError: the stepper is closed"


def test_a_forgotten_stepper_is_told_of(open_page: Open) -> None:
    """Its screen does not keep it."""
    page = open_page()
    page.stepper.go("vcpu0")
    schedule = page.seen()["schedule"]
    page.stepper = KICK_AND_STOP.stepper()  # what is closed at the end
    gc.collect()
    assert page.view.machines == [None]
    page.view.frame()
    seen = page.seen()
    assert (seen["schedule"], {one["can"] for one in seen["actors"]}) == (schedule, {False})
    assert "nobody held it" in seen["note"]
    page.ask("go", actor="vcpu0")
    assert page.seen()["asked"]["outcome"] == "failed"
    assert schedule in repr(page.view)


def test_a_search_can_be_stopped(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked after it is not done either."""
    page, under_way = open_page(HAND_OVER, ()), threading.Event()
    search = Stepper.search

    def long(self: Stepper, progress: Callable[[int, int], object]) -> object:
        def told(schedules: int, failures: int) -> None:
            under_way.set()
            progress(schedules, failures)

        return search(self, "random", 10**9, told)

    monkeypatch.setattr(Stepper, "search", long)
    page.ask("search")
    page.ask("go", actor="vcpu0")
    assert under_way.wait(WAIT_S)
    page.ask("stop")
    seen = page.seen()
    assert (seen["asked"]["done"], seen["decisions"]) == (3, [])
    assert "stop" in seen["asked"]["text"]


# -- without a page ----------------------------------------------------------------------------------------------------


def bundle(shown: Any) -> dict[str, Any]:
    """What a cell would store of it."""
    made = shown._repr_mimebundle_()
    return made[0] if isinstance(made, tuple) else made


def test_a_cell_stores_what_can_be_read_without_a_kernel(open_page: Open) -> None:
    """Beside the view the same HTML and text each time, from the stepper as from its view."""
    page, other = open_page(), open_page()
    stored = bundle(page.stepper)
    assert stored[WIDGET_VIEW]["model_id"] == page.view.model_id
    assert {name: stored[name] for name in FORMS} == {
        "text/html": page.stepper._repr_html_(),
        "text/plain": repr(page.stepper),
    }
    again = bundle(other.view)
    assert [again[name] for name in FORMS] == [stored[name] for name in FORMS]
    assert isinstance(page.view, StepperScreen) and page.stepper.view() is page.view


def test_without_anywidget_there_is_the_form_alone(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell shows the tables; who asks for the view is told what is missing."""
    for name in ("labkit.widgets.screen", "labkit.widgets.stepper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with KICK_AND_STOP.stepper((), cpu) as s:
        assert set(bundle(s)) == set(FORMS)
        with pytest.raises(UsageError, match="needs anywidget"):
            s.view()
