"""Whatever a source says, is it a machine that is whole, or an error that says why not? Mutants of a real stream.

In make test the mutants are the same on every run; a failure names the seed of the one. make fuzz tries 10^5: most of
them at a machine that stands and only looks, the others all the way, to a guest that runs.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fuzzing import much, report
from moves import at
from recordings import RINGS, recorded, wrong
from streams import Memory, Stream, mutant, packed, record

from labkit import HostError, LabkitError, Machine, UsageError
from labkit.board import Board
from labkit.loader import guest_image
from labkit.migration.address import parse
from labkit.migration.channel import Channel
from labkit.migration.destination import Destination, state_of
from labkit.migration.expected import Expected
from labkit.migration.hello import Here, check, image_of, plan_of
from labkit.migration.wire import HEAD, Kind, unpack_disk, unpack_json, unpack_state
from labkit.saving import fitting, fitting_cpu
from labkit.trace.events import Gate

LOOKED_AT, PLAYED = much(1500, 46_000), much(200, 4_000)  # of each back end
SILENCE_S = 30.0
NOWHERE = parse("unix:mutant.sock")
DISK_SECTORS = 64


class Looker(Destination):
    """Looks at all that comes and stores the pages, in a machine that stands; it makes none, and loads nothing."""

    def __init__(self, said: bytes, board: Board) -> None:
        channel: Any = Memory(said)
        super().__init__(channel, Here(), Expected({}), "looker", lambda _: None)
        self._board = board

    def look(self) -> None:
        """As `take`, up to the end."""
        assert self._board is not None
        said = check(unpack_json(self._wire.expect(Kind.HELLO)))
        plan_of(said, image_of(said, self._kernel(said)), self._here, trusted=True).model.close()
        parts = unpack_state(self._store(self._board))
        while (frame := self._wire.expect(Kind.DISK, Kind.STATE)).kind is Kind.DISK:
            unpack_disk(frame)
        _, cpu = state_of(frame)
        with self._board.locked():
            fitting(self._board, parts)
            fitting_cpu(self._board, cpu)
        self._wire.expect(Kind.YOURS)


@pytest.fixture
def sources(boot: Callable[..., Machine], tmp_path: Path) -> list[tuple[Stream, dict[str, Any]]]:
    """What machines said that moved, each with a request in its ring; and how one like it is booted."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512 * DISK_SECTORS))
    kinds: list[dict[str, Any]] = [
        {"device": "blk"},
        {"device": "blk", "disk": disk, "writable": True, "irq": "intx", "vcpus": 2},
        {"device": "null", "queues": 3, "irq": "poll"},
        {"device": "blk", "kernel": guest_image("storm"), "cmdline": "irq=poll requests=1000000000"},
    ]
    found = []
    for kind in kinds:
        vm = boot(**kind)
        if "kernel" not in kind:
            (vm.guest.add if kind["device"] == "blk" else vm.guest.add_buffers)(0, 1)
            vm.guest.publish()
        found.append((record(vm, f"unix:{tmp_path}/{len(found)}.sock"), kind))
        vm.close()
    return found


def mutants(streams: list[Stream], count: int) -> Iterator[tuple[int, int, str, bytes]]:
    """Seed, which stream, what was done to it, and the bytes; always the same for a seed."""
    for seed in range(count):
        yield seed, seed % len(streams), *mutant(streams[seed % len(streams)], random.Random(seed))


@contextlib.contextmanager
def named(seed: int, change: str) -> Iterator[None]:
    """Say which mutant it was if anything but a clear error comes of it."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"mutant {seed}: {change}")
        raise


# -- looked at ---------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(much(600, 1800))
def test_whatever_is_said_is_refused_or_fits(boot: Callable[..., Machine], sources: Any) -> None:
    """Frames, HELLO, pages and every part's state: a clear error or nothing to say against it."""
    standing = [boot(**kind) for _, kind in sources]
    for vm in standing:
        vm.pause()
    came: collections.Counter[str] = collections.Counter()
    for seed, which, change, said in mutants([stream for stream, _ in sources], LOOKED_AT):
        board = standing[which]._board
        with named(seed, change):
            came[board.owner.call(lambda said=said, board=board: _looked(said, board))] += 1
    assert came["UsageError"] > came["fits"] > 0, came
    assert came["HostError"] > 0, came
    report(f"wire: {standing[0].cpu}: {LOOKED_AT} mutants looked at: {dict(came)}")


def _looked(said: bytes, board: Board) -> str:
    try:
        Looker(said, board).look()
    except (UsageError, HostError) as error:
        return type(error).__name__ if type(error) is HostError else "UsageError"
    return "fits"


# -- played ------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(much(600, 1800))
def test_whatever_is_said_makes_a_whole_machine_or_none(sources: Any, cpu: str) -> None:
    """All the way: what arrives can be paused, looked at and reset; what does not leaves nothing behind."""
    came: collections.Counter[str] = collections.Counter()
    with ThreadPoolExecutor(1) as pool:
        for stream, _ in sources:
            assert _played(packed(stream), pool) == "running"
        files = len(os.listdir("/proc/self/fd"))
        for seed, _, change, said in mutants([stream for stream, _ in sources], PLAYED):
            with named(seed, change):
                came[_played(said, pool, rude=seed % 4 == 3)] += 1
                assert len(os.listdir("/proc/self/fd")) == files
    assert came["UsageError"] > came["running"] > 0, came
    report(f"wire: {cpu}: {PLAYED} mutants played: {dict(came)}")


@pytest.mark.parametrize("more", [(Kind.REFUSED, b"no"), (Kind.PAGES, b"no"), (Kind.YOURS, b""), (99, b"")])
def test_who_has_given_it_away_has_no_say(sources: Any, more: tuple[int, bytes]) -> None:
    """The source sends something after YOURS, and is gone before it can be told RUNS: the machine runs."""
    stream = sources[0][0]
    ours, theirs = socket.socketpair()

    def say() -> None:
        with theirs:
            theirs.sendall(packed(stream[:-1]))
            theirs.recv(2 * HEAD.size, socket.MSG_WAITALL)  # WELCOME and TAKEN
            theirs.sendall(packed([stream[-1], more]))

    with ThreadPoolExecutor(1) as pool, Channel(ours, NOWHERE, SILENCE_S) as channel:
        saying = pool.submit(say)
        destination = Destination(channel, Here(), Expected({}), "given", at(Gate.YOURS_HEARD, saying.result))
        with Machine(destination.take(), destination.irq) as vm:
            assert _whole(vm) == "running"


def _played(said: bytes, pool: ThreadPoolExecutor, *, rude: bool = False) -> str:
    """To a destination, by a socket; what came of it. `rude`: the other side is gone as soon as it has said all."""
    ours, theirs = socket.socketpair()
    with Channel(ours, NOWHERE, SILENCE_S) as channel:
        saying = pool.submit(_say, theirs, said, rude)
        destination = Destination(channel, Here(), Expected({}), "mutant", lambda _: None)
        try:
            board = destination.take()
        except (UsageError, HostError) as error:
            return "UsageError" if isinstance(error, UsageError) else "HostError"
        finally:
            channel.close()
            saying.result()
    with Machine(board, destination.irq) as vm:
        return _whole(vm)


def _say(theirs: socket.socket, said: bytes, rude: bool) -> None:
    with theirs, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        theirs.sendall(said)
        theirs.shutdown(socket.SHUT_WR)
        while not rude and theirs.recv(1 << 16):
            pass


def _whole(vm: Machine) -> str:
    """Its state when it came. It does what any machine does, and a reset mends what the guest made of nonsense."""
    state = vm.state
    assert not isinstance(vm.crash, HostError), vm.crash
    with contextlib.suppress(LabkitError):  # the guest may crash at once
        vm.pause()
        vm.snapshot()
        assert wrong(recorded(vm), RINGS) == {}
    assert not isinstance(vm.crash, HostError), vm.crash
    vm.reset()
    if vm.state == "paused":
        vm.resume()
    if vm._board.plan.image.lab:
        vm.guest.parked()
        vm.guest.negotiate(driver_ok=True)
    return state
