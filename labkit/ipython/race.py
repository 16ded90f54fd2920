"""How is a schedule written in a cell? `%%race SCENARIO`: a line for whoever goes next; `%race` lists the scenarios."""

from __future__ import annotations

import re
from argparse import Namespace
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from labkit import museum, rules, views
from labkit.cpu import BACK_ENDS
from labkit.errors import UsageError
from labkit.ipython.line import Line, Refused, name
from labkit.races import Scenario, Stepper, schedules
from labkit.races.moment import Moment
from labkit.trace import gates

OPTIONS: dict[str, dict[str, Any]] = {
    "scenario": {"metavar": "SCENARIO"},
    "--mutation": {"action": "append", "default": []},
    "--cpu": {"choices": BACK_ENDS, "default": "auto"},
    "--rest": {"action": "store_true"},
    "--name": {"type": name},
}
WHAT = """Play a schedule that is written by hand: each line of the cell lets one actor go to its next gate.

`vcpu0`, `iothread x3` (three times), `backend`, `main`, or the letters of a schedule's text, `v ix3`; # begins a
comment. A whole schedule, as labkit.races.explore gives it, will do. --rest lets it go on to its end: whoever went last
goes on, while it can.
--name keeps the stepper as a variable, to go on by hand. SCENARIO: what `%race` lists, or a variable with one.
"""
SHORT = {"iothread": "i", "backend": "b", "main": "m", "vcpu0": "v"} | {f"vcpu{n}": f"v.{n}" for n in range(1, 8)}
TIMES = re.compile(r"\s+(?=x\d+\b)")  # "iothread x3" is "iothreadx3"
WORD = re.compile(r"(?P<name>[a-z]+?\d?|v\.\d)(?P<times>x\d+)?", re.ASCII)
FIRST = 2  # the number of the cell's first line after that of the magic


class Turn(NamedTuple):
    """Somebody is let go, by a line of the cell."""

    line: int
    actor: int


class Played(NamedTuple):
    """Where a schedule has led: what was decided, what it did, and what holds."""

    scenario: Scenario
    mutations: tuple[str, ...]
    cpu: str
    moment: Moment

    @property
    def ending(self) -> str:
        """How it ended, or who can go."""
        now = self.moment
        return f"ended: {now.outcome}" if now.over else f"goes on: {' or '.join(now.can)} can go"

    def _decisions(self) -> list[tuple[str, ...]]:
        return [
            (str(number), one.actor, one.stood, one.step or "–", ", ".join(one.did) or "–")
            for number, one in enumerate(self.moment.decisions, 1)
        ]

    def _listings(self) -> tuple[rules.Listing, rules.Listing]:
        decided = ("", "went", "stood", "began", "did")
        judged = ("invariant", "state", "what its breach means", "seen")
        verdicts = tuple((one.name, one.state, one.sentence, one.seen or "–") for one in self.moment.invariants)
        return (
            rules.Listing("decisions", decided, tuple(self._decisions())),
            rules.Listing("what must hold", judged, verdicts),
        )

    def _values(self) -> dict[str, object]:
        wrong = ", ".join(self.mutations) or "nothing"
        return {"wrong on purpose": wrong, "cpu": self.cpu, "schedule": self.moment.schedule, "state": self.ending}

    def _repr_html_(self) -> str:
        caption = f"{self.scenario.name}: {self.scenario.story}"
        return views.named(caption, self._values()) + "".join(one._repr_html_() for one in self._listings())

    def __repr__(self) -> str:
        head = views.lines(f"{self.scenario.name}: {self.scenario.story}", self._values())
        return "\n\n".join([head, *map(repr, self._listings())])


class RaceMagic:
    """`%race` and `%%race` of one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._made: WeakValueDictionary[str, Stepper] = WeakValueDictionary()
        self._line = Line("%%race", WHAT, OPTIONS)
        RaceMagic.play.__doc__ = f"{WHAT}\n{self._line.format_usage()}"

    def play(self, line: str, cell: str) -> Played:  # noqa: D102 - said above
        asked = self._line.read(line)
        try:
            scenario = self._scenario(asked.scenario)
            turns = read(scenario, cell)
            stepper = Stepper(scenario, asked.mutation, asked.cpu)
        except UsageError as error:
            raise Refused(str(error)) from None
        try:
            walk(stepper, turns)
            if asked.rest:
                stepper.rest()
            return Played(scenario, stepper.mutations, stepper.cpu, stepper.moment)
        finally:
            self._keep(stepper, asked)

    def _keep(self, stepper: Stepper, asked: Namespace) -> None:
        """In the place of an older one; or not at all."""
        if asked.name is None:
            stepper.close()
            return
        old = self._made.pop(asked.name, None)
        if old is not None:
            old.close()
        self._made[asked.name] = self._shell.user_ns[asked.name] = stepper

    def _scenario(self, said: str) -> Scenario:
        mine = self._shell.user_ns.get(said)
        if isinstance(mine, Scenario):
            return mine
        return scenarios()[said] if said in scenarios() else museum.find(said).scenario

    def tell(self, line: str) -> rules.Listing:
        """List the scenarios, or who takes part in one: `%race`, `%race SCENARIO`."""
        said = line.strip()
        if not said:
            rows = tuple(
                (one, museum.find(one).scenario.name, museum.find(one).scenario.story) for one in museum.names()
            )
            return rules.Listing(
                "scenarios, of specimens of the museum", ("specimen", "scenario", "what is played"), rows
            )
        try:
            scenario = self._scenario(said)
        except UsageError as error:
            raise Refused(str(error)) from None
        caption = f"{scenario.name}: {scenario.story}"
        return rules.Listing(caption, ("actor", "does"), tuple(programs(scenario).items()))


def scenarios() -> dict[str, Scenario]:
    """Those of the museum, by their own names."""
    return {one.name: one for one in (museum.find(specimen).scenario for specimen in museum.names())}


def programs(scenario: Scenario) -> dict[str, str]:
    """Who takes part, and what each does."""
    found = {f"vcpu{index}": ", ".join(map(str, steps)) for index, steps in sorted(scenario.steps.items())}
    found["iothread"] = "serves what it finds"
    if scenario.backend:
        found["backend"] = "serves what it finds, once it has queues"
    return found | ({"main": ", ".join(map(str, scenario.main))} if scenario.main else {})


def read(scenario: Scenario, cell: str) -> list[Turn]:
    """Who goes, by which line. Refused: one that names nobody; more of them than the scenario ends by itself."""
    turns = [
        Turn(number, actor)
        for number, said in enumerate(cell.splitlines(), FIRST)
        for actor in _actors(scenario, number, said.partition("#")[0].strip())
    ]
    if len(turns) > scenario.limit:
        over = turns[scenario.limit].line
        raise Refused(f"line {over}: a schedule of {scenario.name} has at most {scenario.limit} decisions")
    return turns


def _actors(scenario: Scenario, number: int, said: str) -> bytes:
    try:
        if ":" in said:  # a whole schedule
            return schedules.decode(scenario, said)
        words = [_short(word) for word in TIMES.sub("", said).split()]
        return schedules.decode(scenario, f"{scenario.name}:{scenario.fingerprint}:{' '.join(words)}")
    except UsageError as error:
        raise Refused(f"line {number}: {error}") from None


def _short(word: str) -> str:
    """As `labkit.races.schedules` writes it."""
    match = WORD.fullmatch(word)
    if match is not None and match["name"] in SHORT:
        return SHORT[match["name"]] + (match["times"] or "")
    if schedules.PART.fullmatch(word) is None:
        known = ", ".join(SHORT)
        raise UsageError(f"{word!r} is no actor: there are {known}, or i, b, m, v and v.1; x3 for three times")
    return word


def walk(stepper: Stepper, turns: list[Turn]) -> None:
    """Let them go. Refused: by the first line that cannot, with who could."""
    plan = bytes(turn.actor for turn in turns)
    try:
        stepper.play(schedules.encode(stepper.scenario, plan))
        if len(stepper.decisions) == len(plan):
            return
    except UsageError:
        pass  # one by one, to see which
    stepper.again()
    for turn in turns:
        try:
            stepper.go(gates.name_of(turn.actor))
        except UsageError as error:
            raise Refused(f"line {turn.line}: {error}") from None
