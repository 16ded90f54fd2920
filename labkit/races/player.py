"""How is one schedule played on a real guest, and the next one from the same moment? One machine, rewound each time."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from errno import ETIMEDOUT
from typing import Any, NamedTuple

from labkit.abi import MB_SLOTS
from labkit.board import Board
from labkit.errors import HostError, UsageError
from labkit.machine import Machine, boot
from labkit.native import ffi, lib
from labkit.races.contracts import CONTRACTS
from labkit.races.invariants import ALWAYS, Seen
from labkit.races.scenario import Act, Scenario, Step
from labkit.races.stacks import Stacks, Stood, text
from labkit.races.stillness import Stillness
from labkit.saving import take_up
from labkit.trace import gates
from labkit.trace.events import Actor
from labkit.virtio.mutations import Mutation, mutated_rules

GATE_TIMEOUT_MS = 2000  # an actor that comes to no gate for so long is stuck
STANDSTILL_S = 2 * GATE_TIMEOUT_MS / 1000  # and so is the main thread, in twice that: it looks after the others
DECISION = struct.Struct("<BBHIQQ")  # an lk_decision


class Outcome(IntEnum):
    """How a schedule ended (SCHEDULE_*)."""

    DONE = lib.SCHEDULE_DONE
    DEADLOCK = lib.SCHEDULE_DEADLOCK
    LIMIT = lib.SCHEDULE_LIMIT
    WRONG = lib.SCHEDULE_WRONG
    STUCK = lib.SCHEDULE_STUCK


ENDS_BADLY = frozenset({Outcome.DEADLOCK, Outcome.STUCK, Outcome.WRONG})  # the next schedule gets a new machine


class Policy(IntEnum):
    """Who decides where the plan ends (POLICY_*)."""

    STAY = lib.POLICY_STAY
    RANDOM = lib.POLICY_RANDOM
    PCT = lib.POLICY_PCT
    TURNS = lib.POLICY_TURNS


class Choice(NamedTuple):
    """Who is forced, and what decides after that. `changes`: of PCT, how often in a schedule priorities change."""

    plan: bytes = b""
    policy: Policy = Policy.STAY
    seed: int = 1
    changes: int = 0
    length: int = 0  # of PCT: in how many decisions


class Decision(NamedTuple):
    """Who was let go, who could have gone (bits), and what kinds of event it emitted then (bits)."""

    actor: int
    before: int  # PLACE_* where it stood
    kind: int
    enabled: int
    did: int
    seq: int


class PlanEnd(NamedTuple):
    """When the plan ended, or the schedule if that was before: events until then, and each actor's PLACE_* and kind."""

    event: int
    places: dict[int, tuple[int, int]]


class Broken(NamedTuple):
    """An invariant that does not hold: its name, what that means, what was seen.

    `stacks`: of a schedule that came to no end, where each actor stood, and in which functions, as lines.
    """

    invariant: str
    meaning: str
    seen: str
    stacks: str = ""


class Run(NamedTuple):
    """One schedule, played."""

    outcome: Outcome
    taken: bytes  # lk_decision[]
    broken: tuple[Broken, ...]
    first_event: int
    last_event: int

    @property
    def decisions(self) -> list[Decision]:
        """What was decided, and what it let happen."""
        return list(map(Decision._make, DECISION.iter_unpack(self.taken)))

    @property
    def actors(self) -> bytes:
        """Who went, decision by decision."""
        return self.taken[:: DECISION.size]


def _named(names: Sequence[str | Mutation]) -> tuple[Mutation, ...]:
    from labkit import museum

    return museum.mutations(names) if names else ()


class Player:
    """A machine prepared for a scenario. A context manager. UsageError: it cannot be prepared."""

    def __init__(self, scenario: Scenario, mutations: Sequence[str | Mutation] = (), cpu: str = "auto") -> None:
        self.scenario = scenario
        wrong = _named(mutations)
        self._late = tuple(one for one in wrong if one.late)
        always = [one._replace(rules=None) if one.late else one for one in wrong]
        self._options = {"irq": "poll", "mutations": always, "cpu": cpu, **scenario.boot}
        self._programs = _programs_of(scenario)
        self._decisions = ffi.new("lk_decision[]", scenario.limit)
        self._stands, self._events_then = ffi.new("lk_stand[]", lib.GATES_ACTORS), 0
        self.judges = tuple(dict.fromkeys((*ALWAYS, *scenario.invariants)))
        self._prepare()

    def _prepare(self) -> None:
        self._stained = False  # by what the last schedule has left: what it told can be read until the next is played
        device = self.scenario.device if isinstance(self.scenario.device, str) else self.scenario.device()
        self.vm: Machine = boot(device, **self._options)
        try:
            self.scenario.prepare(self.vm)
            self._snapshot = self.vm.snapshot()
            self._board: Board = self.vm._board
            self._gates = lib.lk_gates_of(self._board.memory.native)
            self._stacks = Stacks(self._gates)
            self._watched(self._begin)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        self.vm.close()

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def play(self, choice: Choice) -> Run:
        """From the scenario's moment. UsageError: the plan names an actor that cannot go, or a step of the main thread
        fails or does not return; then the machine is closed.
        """
        return self.play_all([choice])[0]

    def play_all(self, choices: Sequence[Choice]) -> list[Run]:
        """One after the other, each from the scenario's moment, as `play` does it."""
        runs: list[Run] = []
        while len(runs) < len(choices):
            if self._stained:
                self.close()
                self._prepare()
            try:
                self._watched(lambda: self._play_on(choices, runs))
            except BaseException:
                self.close()
                raise
            if runs[-1].outcome is Outcome.WRONG:
                at, plan = len(runs[-1].actors), choices[len(runs) - 1].plan
                raise UsageError(f"decision {at} of the schedule lets {gates.name_of(plan[at])} go, which cannot")
        return runs

    @property
    def plan_end(self) -> PlanEnd:
        """Of the schedule that was played last."""
        stands = enumerate(self._stands)
        places = {n: (int(at.place), int(at.kind)) for n, at in stands if self._actors >> n & 1}
        return PlanEnd(self._events_then, places)

    def _watched(self, work: Callable[[], object]) -> None:
        """Do it in the owner thread, and see that it gets on. UsageError: it stands still."""
        answer, seen = self._board.owner.ask(work), (-1, -1)
        while not answer.wait_for(STANDSTILL_S):
            now = self._played, int(lib.lk_schedule_decisions(self._gates, ffi.NULL, 0))
            if now == seen:
                lib.lk_schedule_end(self._gates, Outcome.STUCK)
                raise UsageError(self._standstill())
            seen = now
        answer.value()

    def _standstill(self) -> str:
        step = self.scenario.main[self._step] if self._step is not None else "what comes before the first step"
        return f"scenario {self.scenario.name}: {step} of the main thread has not returned for {STANDSTILL_S:g} s"

    # -- in the owner thread, which is the main thread of the scenario -------------------------------------------------

    _step: int | None = None  # of the main thread, under way
    _played = 0  # schedules begun

    def _begin(self) -> None:
        self._actors = 1 << Actor.OWNER | 1 << Actor.IOTHREAD | (1 << Actor.BACKEND if self.scenario.backend else 0)
        self._actors |= sum(1 << Actor.VCPU0 + index for index in self._programs)
        points = sum(1 << kind for kind in self.scenario.points)
        if lib.lk_gates_play(self._gates, self._actors, points, GATE_TIMEOUT_MS) < 0:
            raise self._restless("the machine does not come to rest")
        self._give_programs()
        self._rewind()

    def _restless(self, what: str) -> HostError:
        return HostError(f"scenario {self.scenario.name}", ETIMEDOUT, what)

    def _rewind(self) -> None:
        """The moment of the snapshot; what a start of the notifiers has signalled is served before anybody goes."""
        board = self._board
        if not board.plugged:
            board.plug()
        board.proxy.faults.clear()
        if board.proxy.backend.wants:
            board.take_back()
        take_up(board, self._snapshot)
        board.proxy.notifiers.errors.clear()
        board.proxy.backend.errors.clear()
        self.scenario.begin(board)
        if (outcome := lib.lk_schedule_settle(self._gates, self.scenario.limit, GATE_TIMEOUT_MS)) != lib.SCHEDULE_DONE:
            raise self._restless(f"its first moment does not come to rest: {Outcome(outcome).name}")

    def _play_on(self, choices: Sequence[Choice], runs: list[Run]) -> None:
        """The rest of them, as long as the machine is good for one more: to change threads costs as much as a step."""
        for choice in choices[len(runs) :]:
            self._played += 1
            runs.append(self._play(choice))
            if self._stained:
                return

    def _play(self, choice: Choice) -> Run:
        board = self._board
        self._rewind()
        first = board.feed.position()
        with self._something_left_out(), Stillness(board) as still:
            self._schedule(choice)
        outcome = Outcome(lib.lk_schedule_outcome(self._gates))
        taken = self._taken()
        self._events_then = lib.lk_schedule_stands(self._gates, self._stands)
        last = lib.lk_schedule_ended(self._gates)
        records = board.feed.records_between(first, last)
        seen = Seen(board, records, outcome, self._stood(outcome), still.stops, still.changed)
        broken = self._judge(seen)
        self._stained = outcome in ENDS_BADLY or self._left_undone(seen, broken)
        return Run(outcome, taken, broken, first, last)

    def _left_undone(self, seen: Seen, broken: Sequence[Broken]) -> bool:
        """Rules that are whole again do not know of it."""
        return bool(self._late) and (bool(broken) or any(one.check(seen) for one in CONTRACTS))

    @contextmanager
    def _something_left_out(self) -> Iterator[None]:
        """The rules as the late mutations have them."""
        notifiers = self._board.proxy.notifiers
        whole, notifiers.rules = notifiers.rules, mutated_rules(notifiers.rules, self._late)
        try:
            yield
        finally:
            notifiers.rules = whole

    def _schedule(self, choice: Choice) -> None:
        actors = ffi.from_buffer("uint8_t[]", choice.plan)
        how = (choice.policy, choice.seed, choice.changes, choice.length, self.scenario.limit)
        plan = ffi.new("lk_plan *", (actors, len(choice.plan), *how))
        if lib.lk_schedule_begin(self._gates, plan, len(self.scenario.main), GATE_TIMEOUT_MS) < 0:
            return
        try:
            while (step := lib.lk_schedule_next(self._gates, GATE_TIMEOUT_MS)) >= 0:
                self._step = step
                self._act(self.scenario.main[step])
        finally:
            self._step = None
            lib.lk_schedule_end(self._gates, Outcome.STUCK)

    def _act(self, act: Act) -> None:
        """A step of the main thread. What fails after the schedule's end fails because of that."""
        try:
            act.do(self._board)
        except Exception as error:
            if lib.lk_schedule_outcome(self._gates) == lib.SCHEDULE_RUNS:
                raise UsageError(f"scenario {self.scenario.name}: {act} of the main thread failed: {error}") from error

    def _taken(self) -> bytes:
        count = lib.lk_schedule_decisions(self._gates, self._decisions, len(self._decisions))
        return bytes(ffi.buffer(self._decisions)[: count * DECISION.size])

    def _stood(self, outcome: Outcome) -> dict[str, Stood]:
        """Where each actor was, if that says anything."""
        if outcome not in (Outcome.DEADLOCK, Outcome.STUCK):
            return {}
        actors = (actor for actor in range(lib.GATES_ACTORS) if self._actors >> actor & 1)
        return {gates.name_of(actor): self._stacks.stood(actor) for actor in actors}

    def _judge(self, seen: Seen) -> tuple[Broken, ...]:
        """What did not come to an end goes on while it is looked at: then nothing else is asked."""
        judges = self.judges if seen.outcome == Outcome.DONE else ALWAYS
        stacks = text(seen.stood)
        return tuple(Broken(one.name, one.broken, what, stacks) for one in judges if (what := one.check(seen)))

    def _give_programs(self) -> None:
        for index, program in self._programs.items():
            lib.lk_schedule_vcpu(self._gates, self._board.cpu.vcpus[index].native, *program)


def _programs_of(scenario: Scenario) -> dict[int, tuple[Any, Any, int]]:
    """By vCPU: commands and their arguments as the core takes them."""
    return {index: _program(steps) for index, steps in scenario.steps.items()}


def _program(steps: Sequence[Step]) -> tuple[Any, Any, int]:
    arguments = [a for step in steps for a in (*step.arguments, *[0] * (MB_SLOTS - len(step.arguments)))]
    commands = ffi.new("uint32_t[]", [int(step.command) for step in steps])
    return commands, ffi.new("uint64_t[]", arguments), len(steps)
