"""Where does everybody stand after so many decisions? A schedule is played, and this is told of the end of its plan."""

from __future__ import annotations

from typing import NamedTuple

from labkit.native import lib
from labkit.races import schedules
from labkit.races.footprint import LOOPS
from labkit.races.invariants import ALWAYS
from labkit.races.places import where
from labkit.races.player import Choice, Decision, Outcome, Player, Run
from labkit.races.scenario import Scenario
from labkit.trace import gates
from labkit.trace.events import Actor, Event, Kind

OPEN, HOLDS, BROKEN = "open", "holds", "broken"
LOOKS = "look at its eventfds"  # what a loop does that is woken
SHOWN_LAST = 1 << 8  # the vCPUs are shown first, the main thread last


class Decided(NamedTuple):
    """A decision that was taken: who went, where he stood, the step he began there, and what he emitted until he stood
    again. `step` is empty if he went on with something.
    """

    actor: str
    stood: str
    step: str
    did: tuple[str, ...]


class Stand(NamedTuple):
    """An actor: whether he may be let go, where he stands, and what he begins next; empty: nothing any more."""

    name: str
    can: bool
    stands: str
    next: str


class Judged(NamedTuple):
    """An invariant: what it means that it is broken; "open", "holds" or "broken"; and what was seen if it is."""

    name: str
    sentence: str
    state: str
    seen: str


class Moment(NamedTuple):
    """After the decisions of `plan`, which as a text is `schedule`. `rest`: who goes then if nobody decides.

    `outcome`: how it ended; empty unless it is `over`.
    """

    plan: bytes
    schedule: str
    rest: bytes
    decisions: tuple[Decided, ...]
    actors: tuple[Stand, ...]
    invariants: tuple[Judged, ...]
    events: tuple[Event, ...]
    over: bool
    outcome: str

    @property
    def can(self) -> tuple[str, ...]:
        """Who may be let go."""
        return tuple(actor.name for actor in self.actors if actor.can)


def at(player: Player, plan: bytes) -> Moment:
    """Play it. Of a plan that is longer than its schedule only that is left. UsageError: as Player.play."""
    run = player.play(Choice(plan=plan))
    end, taken = player.plan_end, run.decisions
    count = min(len(plan), len(taken))
    over = count == len(taken)
    events = tuple(event for event in player.vm.trace.events(since=run.first_event) if event.seq <= end.event)
    return Moment(
        plan[:count],
        schedules.encode(player.scenario, plan[:count]),
        run.actors[count:],
        _decided(player.scenario, taken[:count], events),
        _stands(player.scenario, end.places, taken[:count], 0 if over else taken[count].enabled),
        _judged(player, run, over=over),
        events,
        over,
        run.outcome.name.lower() if over else "",
    )


def _decided(scenario: Scenario, taken: list[Decision], events: tuple[Event, ...]) -> tuple[Decided, ...]:
    ends = [*(decision.seq for decision in taken[1:]), events[-1].seq if events else 0]  # one too many of no decision
    return tuple(
        Decided(
            gates.name_of(decision.actor),
            where(decision.before, decision.kind),
            _begins(scenario, decision),
            _did(decision, [event for event in events if decision.seq < event.seq <= end]),
        )
        for decision, end in zip(taken, ends, strict=False)
    )


def _begins(scenario: Scenario, decision: Decision) -> str:
    if decision.before != lib.PLACE_IDLE:
        return ""
    return LOOKS if decision.actor in LOOPS else _program(scenario, decision.actor)[decision.kind]


def _did(decision: Decision, events: list[Event]) -> tuple[str, ...]:
    """Kinds of event, each once, in the order in which they came."""
    kinds = dict.fromkeys(Kind[event.name.upper()] for event in events)
    return tuple(gates.gate_of(kind) for kind in kinds if decision.did >> kind & 1)


def _program(scenario: Scenario, actor: int) -> list[str]:
    """The steps of a vCPU or of the main thread."""
    if actor == Actor.OWNER:
        return list(map(str, scenario.main))
    return list(map(str, scenario.steps.get(actor - Actor.VCPU0, ())))


def _stands(
    scenario: Scenario, places: dict[int, tuple[int, int]], taken: list[Decision], enabled: int
) -> tuple[Stand, ...]:
    begun = [decision.actor for decision in taken if decision.before == lib.PLACE_IDLE]
    shown = [actor for actor in sorted(places, key=_shown) if actor != Actor.OWNER or scenario.main]
    return tuple(
        _stand(scenario, actor, places[actor], begun.count(actor), can=bool(enabled >> actor & 1)) for actor in shown
    )


def _shown(actor: int) -> int:
    return actor + (SHOWN_LAST if actor == Actor.OWNER else 0 if actor >= Actor.VCPU0 else SHOWN_LAST >> 1)


def _stand(scenario: Scenario, actor: int, place: tuple[int, int], begun: int, *, can: bool) -> Stand:
    stands, idle = where(*place), place[0] == lib.PLACE_IDLE
    if actor in LOOPS:
        return Stand(gates.name_of(actor), can, stands, LOOKS if idle and can else "")
    program = _program(scenario, actor)
    if idle and begun == len(program):
        stands = "at its end"
    elif not idle and begun:
        stands += f", in {program[begun - 1]}"
    return Stand(gates.name_of(actor), can, stands, program[begun] if begun < len(program) else "")


def _judged(player: Player, run: Run, *, over: bool) -> tuple[Judged, ...]:
    """Of a schedule that has ended; one that ended badly is judged by those only that hold always."""
    judged = () if not over else player.judges if run.outcome is Outcome.DONE else ALWAYS
    seen = {one.invariant: one.seen for one in run.broken} if over else {}
    return tuple(
        Judged(
            one.name,
            one.broken,
            BROKEN if one.name in seen else HOLDS if one in judged else OPEN,
            seen.get(one.name, ""),
        )
        for one in player.judges
    )
