"""How is one schedule played on a real guest, and the next one from the same moment? One machine, rewound each time."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NamedTuple

from labkit.abi import MB_SLOTS
from labkit.board import Board
from labkit.errors import HostError, UsageError
from labkit.machine import Machine, boot
from labkit.native import ffi, lib
from labkit.races.contracts import CONTRACTS
from labkit.races.invariants import ALWAYS, Seen
from labkit.races.scenario import Scenario
from labkit.saving import take_up
from labkit.trace.events import Actor
from labkit.virtio.mutations import Mutation, mutated_rules

GATE_TIMEOUT_MS = 2000  # an actor that comes to no gate for so long is stuck
SLOTS = struct.Struct(f"<{MB_SLOTS}Q")


class Outcome(IntEnum):
    """How a schedule ended (SCHEDULE_*)."""

    DONE = lib.SCHEDULE_DONE
    DEADLOCK = lib.SCHEDULE_DEADLOCK
    LIMIT = lib.SCHEDULE_LIMIT
    WRONG = lib.SCHEDULE_WRONG
    STUCK = lib.SCHEDULE_STUCK


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


class Decision(NamedTuple):
    """Who was let go, who could have gone (bits), and what kinds of event it emitted then (bits)."""

    actor: int
    before: int
    kind: int
    enabled: int
    did: int
    seq: int


class Broken(NamedTuple):
    """An invariant that does not hold: its name, what that means, what was seen."""

    invariant: str
    meaning: str
    seen: str


class Run(NamedTuple):
    """One schedule, played."""

    outcome: Outcome
    decisions: tuple[Decision, ...]
    broken: tuple[Broken, ...]
    first_event: int
    last_event: int

    @property
    def actors(self) -> bytes:
        """Who went, decision by decision."""
        return bytes(decision.actor for decision in self.decisions)


def _named(names: Sequence[str]) -> tuple[Mutation, ...]:
    from labkit import museum

    return museum.mutations(names) if names else ()


class Player:
    """A machine prepared for a scenario. A context manager. UsageError: it cannot be prepared."""

    def __init__(self, scenario: Scenario, mutations: Sequence[str] = (), cpu: str = "auto") -> None:
        self.scenario = scenario
        wrong = _named(mutations)
        self._late = tuple(one for one in wrong if one.late)
        always = [one._replace(rules=None) if one.late else one for one in wrong]
        self._options = {"irq": "poll", "mutations": always, "cpu": cpu, **scenario.boot}
        self._make()

    def _make(self) -> None:
        self._stained = False  # something was left undone, and rules that are whole again do not know of it
        device = self.scenario.device if isinstance(self.scenario.device, str) else self.scenario.device()
        self.vm: Machine = boot(device, **self._options)
        try:
            self.scenario.prepare(self.vm)
            self._snapshot = self.vm.snapshot()
            self._board: Board = self.vm._board
            self._gates = lib.lk_gates_of(self._board.memory.native)
            self._programs = self._programs_of(self.scenario)
            self._decisions = ffi.new("lk_decision[]", self.scenario.limit)
            self._board.owner.call(self._begin)
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
        """From the scenario's moment. UsageError: the plan names an actor that cannot go."""
        if self._stained:
            self.close()
            self._make()
        run: Run = self._board.owner.call(lambda: self._play(choice))
        if run.outcome is Outcome.WRONG:
            at = len(run.decisions)
            raise UsageError(f"decision {at} of the schedule lets {choice.plan[at]} go, which cannot")
        return run

    # -- in the owner thread, which is the main thread of the scenario -------------------------------------------------

    def _begin(self) -> None:
        actors = 1 << Actor.OWNER | 1 << Actor.IOTHREAD | (1 << Actor.BACKEND if self.scenario.backend else 0)
        actors |= sum(1 << Actor.VCPU0 + index for index in self._programs)
        lib.lk_gates_play(self._gates, actors, sum(1 << kind for kind in self.scenario.points))
        self._rewind()

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
        self._give_programs(of=0)
        self._schedule(Choice(), main_steps=0)
        if (outcome := lib.lk_schedule_outcome(self._gates)) != lib.SCHEDULE_DONE:
            raise HostError(f"scenario {self.scenario.name}: its first moment does not come to rest", outcome)

    def _play(self, choice: Choice) -> Run:
        board = self._board
        self._rewind()
        self._give_programs()
        first = board.feed.position()
        with self._something_left_out():
            self._schedule(choice, main_steps=len(self.scenario.main))
        outcome = Outcome(lib.lk_schedule_outcome(self._gates))
        decisions = self._taken()
        last = board.feed.position()
        seen = Seen(board, board.feed.records_between(first, last), outcome)
        broken = self._judge(seen)
        self._stained = bool(self._late) and (bool(broken) or any(one.check(seen) for one in CONTRACTS))
        return Run(outcome, decisions, broken, first, last)

    @contextmanager
    def _something_left_out(self) -> Iterator[None]:
        """The rules as the late mutations have them."""
        notifiers = self._board.proxy.notifiers
        whole, notifiers.rules = notifiers.rules, mutated_rules(notifiers.rules, self._late)
        try:
            yield
        finally:
            notifiers.rules = whole

    def _schedule(self, choice: Choice, main_steps: int) -> None:
        plan = ffi.from_buffer("uint8_t[]", choice.plan)
        lib.lk_schedule_begin(
            self._gates,
            plan,
            len(choice.plan),
            choice.policy,
            choice.seed,
            choice.changes,
            self.scenario.limit,
            main_steps,
        )
        while (step := lib.lk_schedule_next(self._gates, GATE_TIMEOUT_MS)) >= 0:
            self.scenario.main[step].do(self._board)

    def _taken(self) -> tuple[Decision, ...]:
        count = lib.lk_schedule_decisions(self._gates, self._decisions, len(self._decisions))
        return tuple(
            Decision(one.actor, one.before, one.kind, one.enabled, one.did, one.seq) for one in self._decisions[0:count]
        )

    def _judge(self, seen: Seen) -> tuple[Broken, ...]:
        invariants = (*ALWAYS, *self.scenario.invariants)
        return tuple(Broken(one.name, one.broken, what) for one in invariants if (what := one.check(seen)))

    # -- steps of the guest --------------------------------------------------------------------------------------------

    def _programs_of(self, scenario: Scenario) -> dict[int, tuple[Any, Any, int]]:
        """By vCPU: commands and their arguments as the core takes them."""
        return {
            index: (
                ffi.new("uint32_t[]", [int(step.command) for step in steps]),
                ffi.new(
                    "uint64_t[]",
                    [a for step in steps for a in (*step.arguments, *[0] * (MB_SLOTS - len(step.arguments)))],
                ),
                len(steps),
            )
            for index, steps in scenario.steps.items()
        }

    def _give_programs(self, of: int | None = None) -> None:
        for index, (commands, arguments, count) in self._programs.items():
            vcpu = self._board.cpu.vcpus[index].native
            lib.lk_schedule_vcpu(self._gates, vcpu, commands, arguments, count if of is None else of)
