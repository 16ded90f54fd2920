"""How is a machine saved, and how is it taken up again? In order: every part out, every part in, and the rules last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from labkit.board import Board
from labkit.cpu.state import CpuState
from labkit.errors import UsageError
from labkit.native import lib
from labkit.snapshot import Snapshot
from labkit.state import State as PartState
from labkit.trace.events import State

PARTS = frozenset({"cpu", "device", "pci", "console"})
STILL = (State.RUNNING, State.PAUSED)


def take(board: Board) -> Snapshot:
    """In the owner thread. A running machine is stopped for it, which its rules do not see.

    Unless a backend has queues: they are given back and taken again, for their indices are its own.
    """
    board.check_plugged()
    if board.runstate.state not in STILL:
        raise UsageError(f"the machine is {board.runstate.state.name.lower()}: there is nothing to go on with")
    running = board.runstate.running
    with board.settled(), board.locked(), _without_backend(board):
        snapshot = Snapshot(described(board), running, save_parts(board), board.memory.contents())
        _begin_anew(board, snapshot)
        return snapshot


def _begin_anew(board: Board, snapshot: Snapshot) -> None:
    """Memory is what the snapshot has, and from now on every page that is written is noted."""
    board.dirty.track(True)
    board.like = snapshot


@contextmanager
def _without_backend(board: Board) -> Iterator[None]:
    """Paused by the rules, if a backend has queues."""
    if not board.proxy.backend.has:
        yield
        return
    board.runstate.change(State.PAUSED)
    try:
        yield
    finally:
        board.runstate.change(State.RUNNING)


def take_up(board: Board, snapshot: Snapshot) -> None:
    """In the owner thread: the machine as it was then. UsageError: it does not fit, and nothing has changed.

    R10 stops the notifiers, and starts them if the machine ran: one kick for each queue finds what was in the rings.
    """
    board.check_plugged()
    snapshot.check_fits(described(board))
    _check_names(snapshot.parts)
    try:
        with board.stopped(lib.ASK_SETTLE):
            board.proxy.check_device(snapshot.parts["device"])
            board.pci.check(snapshot.parts["pci"])
            text = _text(snapshot.parts["console"])
            cpu = CpuState.from_plain(snapshot.parts["cpu"])
            board.cpu.load(cpu)  # it looks before it changes anything, too
            board.runstate.change(State.PAUSED)
            _load(board, snapshot, text)
            board.cpu.load(cpu)  # what the device has raised meanwhile was in there already
            if snapshot.running:
                board.runstate.change(State.RUNNING)
    finally:
        if board.runstate.running:
            board.release_vcpus()


def _check_names(parts: PartState) -> None:
    if not isinstance(parts, dict) or parts.keys() != PARTS:
        raise UsageError(f"saved state: it has not the parts of this version: {', '.join(sorted(PARTS))}")


def _load(board: Board, snapshot: Snapshot, text: bytes) -> None:
    """What has been checked. Of memory only the pages that were written since it was like this."""
    if board.like is snapshot:
        board.dirty.put_back(board.dirty.take(), snapshot.memory)
    else:
        board.memory.write(0, snapshot.memory)
        _begin_anew(board, snapshot)
    _load_parts(board, snapshot.parts, text)


def _load_parts(board: Board, parts: PartState, text: bytes) -> None:
    board.pci.load(parts["pci"])
    board.proxy.load_device(parts["device"])
    board.proxy.tell_loaded()
    lib.lk_console_clear(board.memory.native)
    lib.lk_console_put(board.memory.native, text, len(text))
    board.crash = board.exit_code = None


def arrive(board: Board, parts: PartState) -> None:
    """In the owner thread of a machine that has never run, and that has the memory already: it is as the parts say.

    UsageError: they do not fit or are damaged; it may be loaded by half then, and is good for a close only.
    """
    _check_names(parts)
    with board.stopped(lib.ASK_SETTLE):
        device = board.proxy.check_device(parts["device"])
        own = board.proxy.notifiers
        device["notifiers"] |= {"ioeventfd": int(own.ioeventfd), "turned_off": int(own.turned_off)}
        board.pci.check(parts["pci"])
        text = _text(parts["console"])
        cpu = CpuState.from_plain(parts["cpu"])
        _load_parts(board, {**parts, "device": device}, text)
        board.cpu.load(cpu)


def described(board: Board) -> dict[str, str | int]:
    """What of a machine a snapshot must find again."""
    plan = board.plan
    texts = {"cpu": board.cpu.name, "guest": plan.image.name, "device": plan.model.name, "revision": plan.revision}
    return {**texts, "vcpus": plan.vcpus, "memory_mib": plan.memory_mib, "intx": int(plan.intx)}


def save_parts(board: Board) -> PartState:
    """Every part's state, at rest and under the big lock."""
    return {
        "cpu": board.cpu.save().to_plain(),
        "device": board.proxy.save_device(),
        "pci": board.pci.save(),
        "console": board.memory.console(),
    }


def _text(found: Any) -> bytes:
    if not isinstance(found, bytes) or len(found) > lib.CONSOLE_MAX:
        raise UsageError(f"saved state: the console is no text of at most {lib.CONSOLE_MAX} bytes")
    return found
