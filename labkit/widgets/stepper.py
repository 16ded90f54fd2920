"""How is a schedule decided by clicks? The screen of a `labkit.races.Stepper`: lanes, decisions, what holds."""

from __future__ import annotations

import weakref
from typing import Any

from labkit import rules
from labkit.errors import UsageError
from labkit.trace.events import Event
from labkit.widgets.actions import Action, Case
from labkit.widgets.scene import EVENTS_MOST, Scene, rule_of, said
from labkit.widgets.screen import Screen

GROUP = "schedule"
SCHEDULE_MOST = 1 << 14  # characters: a schedule of 4096 decisions fits
FORGOTTEN = "closed: nobody held it; keep it in a variable, s = scenario.stepper()"


def _search(case: Case) -> str:
    def told(schedules: int, failures: int) -> None:
        if case.stopped():
            raise UsageError(f"stopped: {schedules} schedules were tried, {failures} are broken")
        case.tell(f"{schedules} tried")

    report = case.vm.search(progress=told)
    found = f"{report.failures[0].invariant} is broken" if report.failures else "nothing is broken"
    return f"{report.schedules} tried{', all there are' if report.complete else ''}: {found}"


TABLE = (
    Action(
        "go", GROUP, "Go", 's.go("{actor}")', ("actor",),
        "Let it go to its next gate.", (), do=lambda case: case.vm.go(case.values["actor"]).schedule,
    ),
    Action(
        "back", GROUP, "Back", "s.back()", (),
        "Undo the last decision.", (), do=lambda case: case.vm.back().schedule,
    ),
    Action(
        "again", GROUP, "Again", "s.again()", (),
        "Start anew, with no decision taken.", (), do=lambda case: case.vm.again().schedule,
    ),
    Action(
        "rest", GROUP, "Run the rest", "s.rest()", (),
        "Let it run to its end: whoever went last goes on, while it can.", (), do=lambda case: case.vm.rest().schedule,
    ),
    Action(
        "search", GROUP, "Search", "s.search()", (),
        "Find the shortest schedule that breaks an invariant, and go to its end.", (), do=_search,
    ),
    Action(
        "play", GROUP, "Play", 's.play("{schedule}")', ("schedule",),
        "Go where a schedule leads.", (), do=lambda case: case.vm.play(case.values["schedule"]).schedule,
    ),
    Action(
        "stop", GROUP, "Stop", "screen.stop()", (),
        "End a search, and forget what waits.", (), "stop",
    ),
)  # fmt: skip


class Race:
    """What is seen of a stepper. It does not keep it: a forgotten one is closed, and looks like that."""

    def __init__(self, stepper: Any) -> None:
        self._stepper = weakref.ref(stepper)
        self.scene: Scene = {}
        self.announce = ""
        self.form = ("", "")  # HTML and text, for where there is no page
        self.over = False

    @property
    def announced(self) -> tuple[int, str]:
        """The last decision, as a Look has it; there is no other look beside it."""
        return 0, self.announce

    @property
    def machine(self) -> Any:
        """The stepper; None if nobody holds it any more."""
        return self._stepper()

    def mark(self) -> object:
        """Another one after each move."""
        stepper = self._stepper()
        return None if stepper is None else (stepper.moment, stepper.closed)

    def look(self) -> Scene:
        """A new scene; of one that is gone what it was."""
        stepper = self._stepper()
        if stepper is not None:
            self.scene, self.announce = picture(stepper), announced(stepper)
            self.form = (stepper._repr_html_(), repr(stepper))
        self.over = stepper is None or stepper.closed
        if self.over:
            still = [{**one, "can": False} for one in self.scene["actors"]]
            self.scene = {**self.scene, "actors": still, "note": FORGOTTEN if stepper is None else "closed"}
        return self.scene


def picture(stepper: Any) -> Scene:
    """As plain values; a stepper is at one moment, whoever moves it meanwhile."""
    now, scenario = stepper.moment, stepper.scenario
    return {
        "scenario": scenario.name,
        "story": scenario.story,
        "mutations": list(stepper.mutations),
        "cpu": stepper.cpu,
        "schedule": now.schedule,
        "decisions": [{**one._asdict(), "did": list(one.did)} for one in now.decisions],
        "actors": [one._asdict() for one in now.actors],
        "invariants": [one._asdict() for one in now.invariants],
        "over": now.over,
        "outcome": now.outcome,
        "events": [_event(one, now.events[0]) for one in now.events[: -EVENTS_MOST - 1 : -1]],
        "note": "",
    }


def _event(one: Event, first: Event) -> Scene:
    """Counted from the schedule's first."""
    return {
        "seq": one.seq - first.seq + 1,
        "time": f"+{(one.time_ns - first.time_ns) / 1e9:.6f} s",
        "actor": one.actor,
        "queue": one.queue,
        "name": one.name,
        "text": said(one),
        "rule": rule_of(one),
    }


def announced(stepper: Any) -> str:
    """The last decision, and at the end what came of it."""
    now = stepper.moment
    if not now.decisions:
        return "at the start, nothing is decided"
    last = now.decisions[-1]
    told = f"{last.actor} went: {', '.join(last.did) or last.step or 'nothing that is told'}"
    if not now.over:
        return told
    broken = "; ".join(f"{one.name} is broken: {one.seen}" for one in now.invariants if one.state == "broken")
    return f"{told}. The schedule has ended ({now.outcome}): {broken or 'nothing is broken'}"


class StepperScreen(Screen):
    """Made by `stepper.view()`. `close()` takes it from the page, and leaves the stepper as it is."""

    def __init__(self, stepper: Any) -> None:
        fields: dict[str, dict[str, Any]] = {
            "actor": {"label": "actor", "kind": "choice", "choices": [one.name for one in stepper.actors]},
            "schedule": {"label": "schedule", "kind": "text", "most": SCHEDULE_MOST, "value": ""},
        }
        about = {
            "views": ["stepper"],
            "actions": [action.told() for action in TABLE],
            "fields": fields,
            "rules": rules.prose(),
            "rules_of": stepper.revision,
            "machines": [stepper.scenario.name],
        }
        self._race = Race(stepper)
        super().__init__([self._race], about, list(TABLE), fields)

    def _built(self, machines: list[Scene]) -> Scene:
        return {
            "stepper": {**machines[0], "asked": self._hand.asked._asdict()},
            "announce": self._race.announce,
        }

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, *more = bundle if isinstance(bundle, tuple) else (bundle,)
        data = {**data, "text/html": self._race.form[0]}
        return (data, *more) if more else data

    def __repr__(self) -> str:
        return self._race.form[1]
