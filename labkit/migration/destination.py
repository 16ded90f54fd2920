"""How does a machine arrive? One like it is made, its pages stored, its state checked and loaded; then it is ours.

Whose it is, says `source.py`. Here: the guest is entered after YOURS, or, if the source is gone before it could say
that, because we have the lock of its disk, without which it cannot run. Otherwise everything is thrown away.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from labkit import abi
from labkit.abi import Irq
from labkit.board import Board, Plan
from labkit.errors import HostError, LabkitError, UsageError
from labkit.loader import guest_image, lab_guest, load_kernel
from labkit.migration.channel import Channel
from labkit.migration.expected import Expected
from labkit.migration.hello import Hello, Here, check, image_of, plan_of, table_of
from labkit.migration.progress import Progress, Tell
from labkit.migration.wire import (
    SAID_MAX,
    Frame,
    Kind,
    Wire,
    pack_state,
    unpack_disk,
    unpack_json,
    unpack_pages,
    unpack_round,
    unpack_state,
)
from labkit.saving import arrive, arrive_cpu, saved, saved_cpu
from labkit.state import State
from labkit.trace.events import Gate
from labkit.trace.events import Kind as EventKind
from labkit.virtio import catalogue
from labkit.virtio.backends.image import Image
from labkit.virtio.notifier import REVISIONS

LOCK_PATIENCE_S = 1.0
KERNEL = "storm"  # any that is built with the package


class Destination:
    """One hand-over, from the destination's side."""

    def __init__(self, channel: Channel, here: Here, expected: Expected, name: str, tell: Tell) -> None:
        self._wire, self._here, self._name, self._tell = Wire(channel), here, name, tell
        self._expected = expected
        self._board: Board | None = None
        self.irq = Irq.POLL  # what the lab's driver in it uses
        self.ours = False
        self.round = self.pages = 0

    def take(self) -> Board:
        """All of it. Whatever is raised says why not; nothing is left of the machine then, and the source is told."""
        try:
            self._pass(Gate.ACCEPTED)
            board = self._build()
        except BaseException as error:
            self._give_up(error)
            raise
        board.owner.call(lambda: self._take_over(board))  # one thread does the rest: none waits to be woken by another
        return board

    @property
    def is_current(self) -> bool:
        """Is the caller the thread that tells of gates, the machine's owner thread?"""
        return self._board is not None and self._board.owner.is_current

    def _take_over(self, board: Board) -> None:
        """In the owner thread: its memory, its state, its disk; then, if it is ours, into the guest."""
        try:
            running = self._load(board, self._store(board))
            self._take_disk(board)
        except BaseException as error:
            self._give_up(error)
            raise
        try:
            self._wait_for_ours(board)
        except BaseException:
            self._discard()
            raise
        self._go(board, running=running)

    def _pass(self, gate: Gate) -> None:
        """An event, if there is a machine yet, and a word to whoever wants to know."""
        if self._board is not None:
            self._board.feed.emit(EventKind.GATE, -1, gate, self.round, self.pages)
        self._tell(Progress(gate, self.round, self.pages))

    def _discard(self) -> None:
        """Before the source hears of it: it wants its disk back."""
        if self._board is not None:
            self._board.owner.call(self._board.close)
            self._board = None

    def _give_up(self, error: BaseException) -> None:
        self._discard()
        self._refuse(error)

    def _refuse(self, error: BaseException) -> None:
        why = str(error) if isinstance(error, LabkitError) else f"{type(error).__name__} on this side"
        with suppress(LabkitError):  # it may be gone itself
            self._wire.send(Kind.REFUSED, why.encode(errors="replace")[:SAID_MAX])

    # -- the machine ---------------------------------------------------------------------------------------------------

    def _build(self) -> Board:
        """One like the source's, paused, all of its memory zero."""
        said = check(unpack_json(self._wire.expect(Kind.HELLO)))
        self._pass(Gate.HELLO_HEARD)
        image = image_of(said, self._kernel(said))
        self._expected.check(said, image)
        plan = plan_of(said, image, self._here, trusted=self._wire.channel.peer_is_me)
        self.irq = Irq(said.numbers["irq"])
        self._board = board = Board(plan, self._name)
        board.proxy.msix.foresee(table_of(said))
        board.owner.call(lambda: rehearse(board))
        board.memory.clear()
        self._pass(Gate.BUILT)
        self._wire.send(Kind.WELCOME)
        self._pass(Gate.WELCOME_SENT)
        return board

    def _kernel(self, said: Hello) -> bytes:
        return b"" if said.numbers["lab"] else bytes(self._wire.expect(Kind.KERNEL).payload)

    def _store(self, board: Board) -> Frame:
        """Pages, until the states come."""
        while True:
            frame = self._wire.expect(Kind.PAGES, Kind.ROUND, Kind.PARTS)
            match frame.kind:
                case Kind.PAGES:
                    pages, contents = unpack_pages(frame)
                    board.dirty.put(pages, contents)
                    self.pages += len(pages)
                case Kind.ROUND:
                    self.round, _ = unpack_round(frame)
                    self._pass(Gate.ROUND_STORED)
                case Kind.PARTS:
                    return frame

    def _load(self, board: Board, parts: Frame) -> bool:
        """Every part's state into it, and what a RAM disk holds; the CPU's last. Returns whether it ran."""
        arrive(board, unpack_state(parts))
        while (frame := self._wire.expect(Kind.DISK, Kind.STATE)).kind is Kind.DISK:
            _ram_disk(board).put(*unpack_disk(frame))
        self._pass(Gate.STATE_HEARD)
        running, cpu = state_of(frame)
        arrive_cpu(board, cpu)
        self._pass(Gate.LOADED)
        return running

    # -- whose it is ---------------------------------------------------------------------------------------------------

    def _take_disk(self, board: Board) -> None:
        disk = board.disk
        if disk is not None:
            disk.take_lock(LOCK_PATIENCE_S)
        self._pass(Gate.DISK_TAKEN)

    def _wait_for_ours(self, board: Board) -> None:
        """Until the source has given it away. HostError: it has not, or may not have."""
        disk = board.disk
        try:
            self._wire.send(Kind.TAKEN)
            self._pass(Gate.TAKEN_SENT)
            self._wire.expect(Kind.YOURS)
        except HostError as error:
            if disk is None or not disk.arbitrates or error.errno == errno.ECANCELED:
                raise
        else:
            self._pass(Gate.YOURS_HEARD)

    def _go(self, board: Board, *, running: bool) -> None:
        """The word goes before the deed; whoever hears it, or nobody, has no say any more."""
        self._wire.try_to_send(Kind.RUNS)
        self.ours = True
        self._pass(Gate.RUNS_SENT)
        if running:
            board.resume()
        self._pass(Gate.RUNS)


def state_of(frame: Frame) -> tuple[bool, State]:
    """Did it run, and its CPU's state, of which only the form is known to be right. UsageError: it is none."""
    said = unpack_state(frame)
    if not isinstance(said, dict) or said.keys() != {"running", "cpu"} or not isinstance(said["running"], bool):
        raise UsageError("STATE is none of a machine")
    return said["running"], said["cpu"]


def rehearse(board: Board, sent: Callable[[State], Any] = lambda state: state) -> None:
    """In its owner thread: it takes up its own state. What a first time costs shall not be anybody's downtime."""
    arrive(board, sent(saved(board)))
    arrive_cpu(board, sent(saved_cpu(board)))


def _over_the_wire(state: State) -> Any:
    return unpack_state(Frame(Kind.STATE, memoryview(pack_state(state))))


def warm_up(cpu: str) -> None:
    """Make a machine, for nobody, while none comes. HostError: none can be made here."""
    load_kernel(guest_image(KERNEL))  # whoever comes may bring one, and the library that reads it is slow to import
    plan = Plan(
        model=catalogue.make("blk", catalogue.Options()),
        image=lab_guest("agent"),
        command_line="",
        cpu=cpu,
        vcpus=1,
        memory_mib=abi.MEMORY_MIN_MIB,
        revision=next(iter(REVISIONS)),
        ioeventfd=True,
    )
    board = Board(plan, "warm-up")
    try:
        board.owner.call(lambda: rehearse(board, _over_the_wire))
    finally:
        board.owner.call(board.close)


def _ram_disk(board: Board) -> Image:
    disk = board.disk
    if disk is None or not disk.is_ram:
        raise UsageError("DISK came for a machine without a RAM disk")
    return disk
