"""Who is held, and behind which event? A person's hand on the threads of one machine: hold, step, release.

A hold that is in the way of a command of the host (of a pause, a snapshot, a migration) is lifted for that command, and
is armed again afterwards; a close ends all. A step of the guest that is held, or waits for who is, says so. So a
forgotten hold hangs nobody.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from labkit import views
from labkit.errors import UsageError
from labkit.native import ffi, lib
from labkit.owner import Owner, Work
from labkit.threads import Visitors
from labkit.trace import gates
from labkit.trace.events import Actor

SLICE_MS = 20  # how long a wait goes without looking for an interrupt of the cell
LET_GO = "vm.step({0!r}) or vm.release({0!r}) lets it go on"


class Held(NamedTuple):
    """An actor that is held: behind which event, and of which queue (None: of none)."""

    actor: str
    gate: str
    queue: int | None

    def __str__(self) -> str:
        of = f" of queue {self.queue}" if self.queue is not None else ""
        return f"{self.actor} held behind {self.gate}{of}"


class Gates:
    """The gates of one machine, as `vm.gates`."""

    def __init__(self, native_machine: Any, vcpus: int, visitors: Visitors) -> None:
        self._machine, self._vcpus, self._visitors = native_machine, vcpus, visitors
        self._armed: dict[int, int] = {}
        self.board: Any = None  # whose they are

    @property
    def _native(self) -> Any:
        return lib.lk_gates_of(self._machine)

    def hold(self, actor: str, at: str | None) -> None:
        """Hold it behind its next event of that kind; None: of any."""
        number = gates.number(actor, self._vcpus)
        self._arm(number, gates.mask(at))

    def _arm(self, number: int, kinds: int) -> None:
        self._hold(number, kinds)
        self._armed[number] = kinds

    def _hold(self, number: int, kinds: int) -> None:
        with self._visitors:
            lib.lk_gates_hold(self._native, number, kinds)

    def _let_go(self, number: int) -> None:
        with self._visitors:
            lib.lk_gates_let_go(self._native, number)

    def step(self, actor: str, timeout_s: float) -> Held | None:
        """Past the gate where it is, up to its next; None: it came to none in time. UsageError: it is not held."""
        number = gates.number(actor, self._vcpus)
        if self._held(number) is None:
            raise UsageError(f"{actor} is not held: vm.hold({actor!r}) holds it behind its next event")
        self._arm(number, gates.EVERY)
        self._let_go(number)
        return self.wait(actor, timeout_s)

    def wait(self, actor: str, timeout_s: float = 1.0) -> Held | None:
        """Until it is held; None: not in time. An interrupt gets through."""
        number, until = gates.number(actor, self._vcpus), time.monotonic() + timeout_s
        while not self._comes(number):
            if time.monotonic() > until:
                return None
        return self._held(number)

    def _comes(self, number: int) -> bool:
        with self._visitors:
            return bool(lib.lk_gates_wait_held(self._native, number, SLICE_MS))

    def release(self, actor: str | None) -> None:
        """Let it go, and hold it no more; None: all of them."""
        numbers = list(self._armed) if actor is None else [gates.number(actor, self._vcpus)]
        for number in numbers:
            self._armed.pop(number, None)
            self._hold(number, 0)
            self._let_go(number)

    def held(self, actor: int) -> Held | None:
        """Where it is held, by its number (ACTOR_*)."""
        return self._held(actor) if actor in self._armed else None

    def _held(self, number: int) -> Held | None:
        kind, queue = ffi.new("uint16_t *"), ffi.new("int32_t *")
        try:
            with self._visitors:
                if not lib.lk_gates_where(self._native, number, kind, queue):
                    return None
        except UsageError:
            return None  # the machine is closed: nobody is held
        return Held(gates.name_of(number), gates.gate_of(kind[0]), queue[0] if queue[0] >= 0 else None)

    def __iter__(self) -> Iterator[Held]:
        return (held for number in sorted(self._armed) if (held := self._held(number)) is not None)

    @property
    def armed(self) -> list[str]:
        """Who is held, or will be."""
        return [gates.name_of(number) for number in sorted(self._armed)]

    def call(self, owner: Owner, work: Work) -> Any:
        """Do a command in the owner thread. Whoever is held and in its way is let go, and held again afterwards.

        UsageError: the command itself, which the main thread does, is held; it goes on when that is let go.
        """
        if not self._armed or owner.is_current:
            return owner.call(work)
        answer, lifted = owner.ask(work), set[int]()
        try:
            while not answer.wait_for(SLICE_MS / 1000):
                if (held := self._held(Actor.OWNER)) is not None:
                    raise UsageError(
                        f"{held} is in a command, which goes on when that does: {LET_GO.format(held.actor)}"
                    )
                lifted |= self._lift()
            return answer.value()
        finally:
            with suppress(UsageError):  # the machine was closed meanwhile
                for number in lifted:
                    self._hold(number, self._armed.get(number, 0))

    def _lift(self) -> set[int]:
        with self._visitors:
            in_the_way = {number for number in list(self._armed) if lib.lk_gates_in_the_way(self._native, number)}
        for number in in_the_way:
            self._hold(number, 0)
            self._let_go(number)
        return in_the_way

    def open(self) -> None:
        """Nobody is held from now on: the machine is about to be closed."""
        lib.lk_gates_open(self._native)

    @property
    def told(self) -> str:
        """Who is held, as the end of an error of somebody who has waited; empty: nobody is."""
        return "".join(f"; {held}: {LET_GO.format(held.actor)}" for held in self)

    # -- for people ----------------------------------------------------------------------------------------------------

    def _rows(self) -> list[tuple[object, ...]]:
        held = {one.actor: one for one in self}
        return [
            (name, "held behind " + held[name].gate if name in held else "to be held")
            for name in map(gates.name_of, sorted(self._armed))
        ]

    def view(self) -> Any:
        """Who is held, and buttons to hold, step and release, live in a cell."""
        from labkit.widgets import part

        return part(self.board, "gates")

    def _repr_html_(self) -> str:
        return views.table("gates", ("actor", "state"), [tuple(map(str, row)) for row in self._rows()])

    def __repr__(self) -> str:
        return views.lines("gates", {str(name): state for name, state in self._rows()} or {"nobody": "is held"})
