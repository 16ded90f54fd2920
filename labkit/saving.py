"""How is a machine saved, and how is it taken up again? In order: every part out, every part in, and the rules last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from errno import EIO
from typing import Any, NamedTuple

from labkit.board import Board
from labkit.cpu.state import CpuState
from labkit.errors import HostError, UsageError
from labkit.native import lib
from labkit.snapshot import Snapshot
from labkit.state import State as PartState
from labkit.trace.events import State

PARTS = frozenset({"cpu", "device", "pci", "console"})
STILL = (State.RUNNING, State.PAUSED)


class Known(NamedTuple):
    """What this very machine gave or took, and so is not doubted. `parts` is a copy: a snapshot can be changed."""

    memory: bytes  # RAM is like this, but for the pages that are dirty
    parts: PartState
    cpu: CpuState


def take(board: Board) -> Snapshot:
    """In the owner thread. A running machine is stopped for it, which its rules do not see.

    Unless a backend has queues: they are given back and taken again, for their indices are its own.
    """
    _check_stays(board)
    if board.runstate.state not in STILL:
        raise UsageError(f"the machine is {board.runstate.state.name.lower()}: there is nothing to go on with")
    running = board.runstate.running
    with board.settled(), board.locked(), _without_backend(board):
        cpu = board.cpu.save()
        parts = {"cpu": cpu.to_plain(), **save_parts(board)}
        snapshot = Snapshot(described(board), running, parts, board.memory.contents())
        _begin_anew(board, Known(snapshot.memory, deepcopy(snapshot.parts), cpu))
        return snapshot


def _begin_anew(board: Board, known: Known) -> None:
    """Memory is like that, and from now on every page that is written is noted."""
    board.dirty.track(True)
    board.like = known


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
    _check_stays(board)
    snapshot.check_fits(described(board))
    _check_names(snapshot.parts)
    try:
        with board.stopped(lib.ASK_SETTLE):
            known = _known(board, snapshot) or _checked(board, snapshot.parts)._replace(memory=snapshot.memory)
            board.runstate.change(State.PAUSED)
            with _whole_or_crashed(board):
                _load(board, known)
            if snapshot.running:
                board.claim_disk()
                board.runstate.change(State.RUNNING)
    finally:
        if board.runstate.running:
            board.release_vcpus()


def _known(board: Board, snapshot: Snapshot) -> Known | None:
    """If it is the one that memory is like, and nobody has changed it: what can differ now is the device's own part."""
    like: Known | None = board.like
    if like is None or like.memory is not snapshot.memory or like.parts != snapshot.parts:
        return None
    board.proxy.model.check_state(like.parts["device"]["model"])
    return like


def _checked(board: Board, parts: PartState) -> Known:
    """Every part has looked at its own. What the kernel thinks of a CPU's state it says only when it gets it."""
    found, cpu = _looked_at(board, parts), CpuState.from_plain(parts["cpu"])
    board.cpu.load(cpu)
    return Known(b"", {"cpu": cpu.to_plain(), **found}, cpu)


def _looked_at(board: Board, parts: PartState) -> PartState:
    """All but the CPU's."""
    device = board.proxy.check_device(parts["device"])
    pci = board.pci.check(parts["pci"])
    return {"device": device, "pci": pci, "console": _text(parts["console"])}


@contextmanager
def _whole_or_crashed(board: Board) -> Iterator[None]:
    """A machine that was loaded by half is not entered; a reset mends it, and so does another load."""
    try:
        yield
    except (HostError, UsageError) as error:
        board.like = None
        board.crash = error if isinstance(error, HostError) else HostError("a load that had begun", EIO, str(error))
        board.runstate.change(State.CRASHED)
        raise board.crash from error


def _check_stays(board: Board) -> None:
    board.check_plugged()
    if board.migration is not None:
        raise UsageError("the machine is on its way to another host, which notes what is written: cancel that first")


def _check_names(parts: PartState, names: frozenset[str] = PARTS) -> None:
    if parts.keys() != names:
        raise UsageError(f"saved state: it has not the parts of this version: {', '.join(sorted(names))}")


def _load(board: Board, known: Known) -> None:
    """Of memory only the pages that were written since it was like this. The CPU last: what the devices raised
    meanwhile was in there already.
    """
    if board.like is not None and board.like.memory is known.memory:
        board.dirty.put_back(board.dirty.take(), known.memory)
        board.like = known
    else:
        board.memory.write(0, known.memory)
        _begin_anew(board, known)
    _load_parts(board, known.parts)
    board.cpu.load(known.cpu, known=True)


def _load_parts(board: Board, parts: PartState) -> None:
    native = board.memory.native
    board.pci.load(parts["pci"])
    board.proxy.load_checked(parts["device"])
    board.proxy.tell_loaded()
    lib.lk_console_clear(native)
    lib.lk_console_put(native, parts["console"], len(parts["console"]))
    board.crash = board.exit_code = None


def arrive(board: Board, parts: object) -> None:
    """In the owner thread of a machine made for it, that has the memory already and never runs before: all but the CPU.

    What belongs to the host is this host's (`HostNotifiers.as_here`). UsageError: they do not fit or are damaged; the
    machine is good for a close only then.
    """
    with board.stopped(lib.ASK_SETTLE):
        found = fitting(board, parts)
        found["device"]["notifiers"] = board.proxy.notifiers.as_here(found["device"]["notifiers"])
        _load_parts(board, found)


def arrive_cpu(board: Board, plain: object) -> None:
    """The same with the CPU's state, after the others'."""
    with board.stopped(lib.ASK_SETTLE):
        board.cpu.load(fitting_cpu(board, plain), known=True)


def fitting(board: Board, parts: object) -> PartState:
    """Every part's state but the CPU's, looked at by its part; nothing is loaded. UsageError: it does not fit."""
    if not isinstance(parts, dict):
        raise UsageError("saved state: it has no parts")
    _check_names(parts, PARTS - {"cpu"})
    return _looked_at(board, parts)


def fitting_cpu(board: Board, plain: object) -> CpuState:
    """The same of the CPU."""
    cpu = CpuState.from_plain(plain)
    board.cpu.check(cpu)
    return cpu


def saved(board: Board) -> PartState:
    """In the owner thread of a paused machine: every part's state but the CPU's."""
    with board.stopped(lib.ASK_SETTLE):
        return save_parts(board)


def saved_cpu(board: Board) -> PartState:
    """The same of the CPU."""
    with board.stopped(lib.ASK_SETTLE):
        return board.cpu.save().to_plain()


def described(board: Board) -> dict[str, str | int]:
    """What of a machine a snapshot must find again."""
    plan = board.plan
    texts = {"cpu": board.cpu.name, "guest": plan.image.name, "device": plan.model.name, "revision": plan.revision}
    return {**texts, "vcpus": plan.vcpus, "memory_mib": plan.memory_mib, "intx": int(plan.intx)}


def save_parts(board: Board) -> PartState:
    """Every part's state but the CPU's; at rest and under the big lock."""
    return {
        "device": board.proxy.save_device(),
        "pci": board.pci.save(),
        "console": board.memory.console(),
    }


def _text(found: Any) -> bytes:
    if not isinstance(found, bytes) or len(found) > lib.CONSOLE_MAX:
        raise UsageError(f"saved state: the console is no text of at most {lib.CONSOLE_MAX} bytes")
    return found
