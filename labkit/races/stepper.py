"""Who goes next? A person decides a schedule step by step, forward and back, and sees what breaks at its end.

Schedules are deterministic and a rewinding takes about a millisecond, so nothing is undone: each moment is a schedule
that is played from the start up to there (`moment.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any

from labkit import views
from labkit.errors import UsageError
from labkit.races import moment, schedules
from labkit.races.player import Player
from labkit.trace import gates

if TYPE_CHECKING:
    from labkit.races.moment import Decided, Judged, Moment, Stand
    from labkit.races.report import Report
    from labkit.races.scenario import Scenario
    from labkit.trace.events import Event

Tell = Callable[[int, int], object]
SEARCHED = 2000  # schedules of a search at most, if nobody says how many
NO_STEP = "–"


class Stepper:
    """A schedule that grows by hand. A context manager; what it says stays after its close.

    Any thread may call it; one call is carried out after the other. UsageError: no such mutation, or the scenario
    cannot be prepared.
    """

    def __init__(self, scenario: Scenario, mutations: Sequence[str] = (), cpu: str = "auto") -> None:
        self.scenario = scenario
        self.mutations = tuple(mutations)
        self._about = (scenario, self.mutations, cpu)
        self._closed = False
        self._turn = RLock()
        self._view: Any = None
        self._player: Player | None = Player(*self._about)
        self.cpu, self.revision = self._player.vm.cpu, self._player.vm._board.plan.revision
        try:
            self._moment = moment.at(self._player, b"")
        except BaseException:
            self.close()
            raise

    # -- what there is to see ------------------------------------------------------------------------------------------

    @property
    def can(self) -> tuple[str, ...]:
        """Names of the actors that may be let go now."""
        return self._moment.can

    @property
    def actors(self) -> tuple[Stand, ...]:
        """Each actor: whether it can go, where it stands, what it begins next."""
        return self._moment.actors

    @property
    def decisions(self) -> tuple[Decided, ...]:
        """Taken so far, oldest first: who went from where, and what he emitted."""
        return self._moment.decisions

    @property
    def invariants(self) -> tuple[Judged, ...]:
        """Each one's state: "open" until the schedule has ended, then "holds" or "broken"."""
        return self._moment.invariants

    @property
    def events(self) -> tuple[Event, ...]:
        """Of the schedule so far, oldest first."""
        return self._moment.events

    @property
    def over(self) -> bool:
        """Has the schedule ended?"""
        return self._moment.over

    @property
    def outcome(self) -> str:
        """How: "done", "deadlock", "limit" or "stuck"; empty: it goes on."""
        return self._moment.outcome

    @property
    def schedule(self) -> str:
        """The decisions as a text, for `play` and `labkit.races.replay`."""
        return self._moment.schedule

    @property
    def closed(self) -> bool:
        """Is there no machine any more?"""
        return self._closed

    @property
    def moment(self) -> Moment:
        """All of that as one value."""
        return self._moment

    # -- what can be done ----------------------------------------------------------------------------------------------

    def go(self, actor: str) -> Stepper:
        """Let one go to its next gate. UsageError: it cannot go now; then nothing has happened."""
        with self._turn:
            self._refuse_closed()
            if actor not in self.can:
                raise UsageError(self._why_not(actor))
            number = gates.number(actor, 1 + max(self.scenario.steps))
            return self._to(self._moment.plan + bytes([number]))

    def back(self) -> Stepper:
        """Before the last decision. UsageError: there is none."""
        with self._turn:
            self._refuse_closed()
            if not self._moment.plan:
                raise UsageError("nothing was decided yet, so there is no way back")
            return self._to(self._moment.plan[:-1])

    def again(self) -> Stepper:
        """Before the first."""
        return self._to(b"")

    def rest(self) -> Stepper:
        """To the end, as it goes when nobody decides: whoever went last goes on, while it can."""
        with self._turn:
            return self._to(self._moment.plan + self._moment.rest)

    def play(self, schedule: str) -> Stepper:
        """Where a schedule leads. UsageError: it is of another scenario, or lets an actor go that cannot."""
        return self._to(schedules.decode(self.scenario, schedule))

    def search(self, scheduler: str = "dfs", limit: int = SEARCHED, progress: Tell | None = None) -> Report:
        """Look for a schedule that breaks something, as `labkit.races.explore` does, and go to the end of the shortest
        that was found; if there is none, nothing changes. limit: schedules at most. progress: told how many so far.
        """
        from labkit.races import explore

        def told(schedules: int, failures: int) -> None:
            self._refuse_closed()  # a close does not wait for the end of a search
            if progress is not None:
                progress(schedules, failures)

        with self._turn:
            self._refuse_closed()
            report = explore(
                self.scenario, scheduler, self.mutations, limit, cpu=self.cpu, until_broken=True, progress=told
            )
            if report.failures:
                shortest = min(report.failures, key=lambda one: (one.decisions, one.schedule))
                self.play(shortest.schedule)
            return report

    def _to(self, plan: bytes) -> Stepper:
        """What fails leaves the moment as it was, and takes a new machine the next time."""
        with self._turn:
            self._refuse_closed()
            if self._player is None or self._player.vm.state == "closed":
                self._player = Player(*self._about)
            self._moment = moment.at(self._player, plan)
        return self

    def _why_not(self, actor: object) -> str:
        known = {one.name: one for one in self.actors}
        if not isinstance(actor, str) or actor not in known:
            return f"actor {actor!r}: there are {', '.join(known)}"
        if self.over:
            return f"{actor} cannot go: the schedule has ended ({self.outcome}); back() and again() are left"
        return f"{actor} cannot go: it is {known[actor].stands}. {' and '.join(self.can)} can"

    def _refuse_closed(self) -> None:
        if self._closed:
            raise UsageError("the stepper is closed")

    # -- its end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Idempotent. Ends a search under way."""
        self._closed = True
        with self._turn:
            player, self._player = self._player, None
        if player is not None:
            player.close()

    def __enter__(self) -> Stepper:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- for people ----------------------------------------------------------------------------------------------------

    def view(self) -> Any:
        """As lanes to be clicked: a widget, always the same one. UsageError: anywidget is not installed."""
        try:
            from labkit.widgets.stepper import StepperScreen
        except ImportError as error:
            raise UsageError(f"a live view needs anywidget: pip install anywidget ({error})") from error
        if self._view is None:  # with one a search may be under way, which has the turn
            with self._turn:
                self._view = self._view or StepperScreen(self)
        return self._view

    def _values(self) -> dict[str, object]:
        state = f"ended: {self.outcome}" if self.over else f"{' or '.join(self.can)} can go"
        return {
            "schedule": self.schedule,
            "wrong on purpose": ", ".join(self.mutations) or "nothing",
            "cpu": self.cpu,
            "state": "closed" if self._closed else state,
            **{one.name: _told(one) for one in self.actors},
            **{one.name: f"{one.state}: {one.seen}" if one.seen else one.state for one in self.invariants},
        }

    def __repr__(self) -> str:
        return views.lines(f"stepper of {self.scenario.name}", self._values())

    def _repr_html_(self) -> str:
        """Where everybody stands, what holds, and how it came to that."""
        actors = [(one.name, "yes" if one.can else "no", one.stands, one.next or NO_STEP) for one in self.actors]
        taken = [
            (number, one.actor, one.stood, one.step or NO_STEP, ", ".join(one.did) or NO_STEP)
            for number, one in enumerate(self.decisions, 1)
        ]
        verdicts = [(one.name, one.state, one.seen or one.sentence) for one in self.invariants]
        return "".join(
            [
                views.table(f"schedule {self.schedule}", ("actor", "can go", "stands", "next"), actors),
                views.table("what must hold", ("invariant", "state", "seen, or what its breach means"), verdicts),
                views.table("decisions", ("", "went", "stood", "began", "did"), taken),
            ]
        )

    def _repr_mimebundle_(self, **which: Any) -> Any:
        """The widget, where there is anywidget; beside it what a page without a kernel shows."""
        try:
            return self.view()._repr_mimebundle_(**which)
        except UsageError:
            return {"text/plain": repr(self), "text/html": self._repr_html_()}


def _told(actor: Stand) -> str:
    return actor.stands + (f"; next: {actor.next}" if actor.next else "")
