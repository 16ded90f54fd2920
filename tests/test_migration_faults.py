"""If anything fails on the way, does the machine run on at its source, with nothing left at its destination?"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
from certificates import folder
from moves import DESTINATIONS, SOURCES, WAIT_S, at, moved
from pressing import interrupted
from rulebook import Boot

from labkit import HostError, LabkitError, Machine, UsageError
from labkit.migration.address import parse
from labkit.migration.channel import Listener
from labkit.migration.progress import Progress
from labkit.migration.wire import HEAD, Kind, Wire
from labkit.threads import happened
from labkit.trace.events import Gate

Listen = Callable[..., Any]
Tell = Callable[[Progress], None]
SECTOR = b"before".ljust(512, b".")
FOR_EVER_S = 3600
PROMISED = Gate.YOURS_SENT  # from here on the source has given it away


class OnPurpose(Exception):
    """What a test raises."""


def fail() -> None:
    """What a test does at a gate."""
    raise OnPurpose


def runs_on(vm: Machine) -> None:
    """It is running, on its way nowhere, and works."""
    assert (vm.state, vm._board.migration) == ("running", None)
    assert vm.guest.read(3) == SECTOR
    assert vm.guest.storm(20).errors == 0


@pytest.fixture
def vm(boot: Boot) -> Machine:
    """One that has something to lose."""
    machine = boot()
    machine.guest.write(3, SECTOR)
    return machine


# -- at each gate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", SOURCES, ids=lambda gate: gate.name)
def test_an_exception_at_a_gate_of_the_source(vm: Machine, listen: Listen, gate: Gate) -> None:
    """Before the machine is given away it calls it back; afterwards it is too late."""
    arrival = listen()
    if gate < PROMISED:
        with pytest.raises(OnPurpose):
            vm.migrate(arrival.address, progress=at(gate, fail))
        runs_on(vm)
        with pytest.raises(LabkitError):
            arrival.machine(WAIT_S)
        assert arrival.state == "failed"
        there = moved(vm, listen())  # and nothing is in the way of another try
    else:
        with contextlib.nullcontext() if gate is Gate.RUNS_HEARD else pytest.raises(HostError, match="did not confirm"):
            vm.migrate(arrival.address, progress=at(gate, fail))
        there = arrival.machine(WAIT_S)
        assert vm.state == "migrated"
    assert there.guest.read(3) == SECTOR


@pytest.mark.parametrize("gate", DESTINATIONS, ids=lambda gate: gate.name)
def test_an_exception_at_a_gate_of_the_destination(vm: Machine, listen: Listen, gate: Gate) -> None:
    """Before it runs there it throws all away, and the source runs on; then it is too late."""
    arrival = listen(progress=at(gate, fail))
    if gate < Gate.RUNS_SENT:
        with pytest.raises(LabkitError) as refused:
            vm.migrate(arrival.address)
        if gate < Gate.TAKEN_SENT:
            assert "OnPurpose on this side" in str(refused.value)
        runs_on(vm)
        with pytest.raises(OnPurpose):
            arrival.machine(WAIT_S)
        assert arrival.state == "failed"
    else:
        assert moved(vm, arrival).guest.read(3) == SECTOR
        assert vm.state == "migrated"


@pytest.mark.parametrize("gate", SOURCES, ids=lambda gate: gate.name)
def test_it_can_be_cancelled_at_each_gate(vm: Machine, listen: Listen, gate: Gate) -> None:
    """As long as it was not given away, it goes on here; the handle says which."""
    arrival, begun, going = listen(), threading.Event(), []

    def cancel() -> None:
        assert begun.wait(WAIT_S)
        going[0].cancel()

    going.append(vm.migrate(arrival.address, wait=False, progress=at(gate, cancel)))
    begun.set()
    if gate < PROMISED:
        with pytest.raises(UsageError, match="the migration was cancelled; the machine goes on here"):
            going[0].wait(WAIT_S)
        assert going[0].state == "cancelled"
        runs_on(vm)
        with pytest.raises(LabkitError):
            arrival.machine(WAIT_S)
    else:
        with contextlib.suppress(HostError):
            going[0].wait(WAIT_S)
        assert (going[0].state, vm.state) == ("moved", "migrated")
        assert arrival.machine(WAIT_S).guest.read(3) == SECTOR


@pytest.mark.parametrize("gate", [*SOURCES[:4], *DESTINATIONS[:5]], ids=lambda gate: gate.name)
def test_the_destination_can_stop_waiting(vm: Machine, listen: Listen, gate: Gate) -> None:
    """Closed while a machine is coming, it throws it away; the source runs on."""
    closing = at(gate, lambda: arrival.close(0))
    arrival = listen(progress=closing if gate in DESTINATIONS else None)
    with pytest.raises(HostError):
        vm.migrate(arrival.address, progress=closing if gate in SOURCES else None)
    runs_on(vm)
    with pytest.raises(HostError):
        arrival.machine(WAIT_S)


# -- nobody there ------------------------------------------------------------------------------------------------------


def test_nobody_listens(vm: Machine, tmp_path: Path) -> None:
    """No such socket, or a dead one, or a port that nobody has: what to start first."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        free = closed.getsockname()[1]  # of others too, as long as it is bound
        for address in (f"unix:{tmp_path}/none.sock", f"unix:{tmp_path}/dead.sock", f"tcp:{free}"):
            with pytest.raises(HostError, match=r"nobody listens at .*: start `labkit receive .*` first") as failed:
                vm.migrate(address)
            assert failed.value.errno in (errno.ENOENT, errno.ECONNREFUSED)
            runs_on(vm)


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[socket.socket]:
    """Somebody listens, and it is no labkit."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "stranger.sock"))
        listening.listen()
        yield listening


def test_who_never_answers_is_not_waited_for_for_ever(vm: Machine, stranger: socket.socket) -> None:
    """Somebody listens and says nothing: the time-out says so."""
    with pytest.raises(HostError, match=r"the other side did not answer for 0.1 s") as failed:
        vm.migrate(f"unix:{stranger.getsockname()}", timeout_s=0.1)
    assert failed.value.errno == errno.ETIMEDOUT
    runs_on(vm)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no migration of a labkit machine"),
        (bytes(64), "no migration of a labkit machine"),
        (HEAD.pack(0x474D4B4C, 2, 16, 0, 0), "speaks format 2, this labkit 1: update one of them"),
        (HEAD.pack(0x474D4B4C, 1, 18, 0, 0), "frame 18 came where WELCOME was due"),
        (HEAD.pack(0x474D4B4C, 1, 16, 0, 0), "WELCOME was damaged"),
        (b"", "closed the connection or died"),
    ],
    ids=("http", "zeros", "format", "turn", "checksum", "nothing"),
)
def test_who_answers_nonsense_gets_no_machine(vm: Machine, stranger: socket.socket, said: bytes, why: str) -> None:
    """Whatever it is, the machine runs on."""

    def answer() -> None:
        with stranger.accept()[0] as connection, contextlib.suppress(ConnectionResetError):
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(LabkitError, match=why):
        vm.migrate(f"unix:{stranger.getsockname()}")
    thread.join()
    runs_on(vm)


@pytest.mark.parametrize(
    ("word", "instead", "why", "state"),
    [
        (Kind.TAKEN, "nonsense", "frame 1 came where TAKEN was due", "running"),
        (Kind.TAKEN, "silence", "did not answer", "running"),
        (Kind.TAKEN, "the end", "closed the connection or died", "running"),
        (Kind.RUNS, "nonsense", "did not confirm it: frame 1 came where RUNS was due", "migrated"),
        (Kind.RUNS, "silence", "did not confirm it: .* did not answer", "migrated"),
        (Kind.RUNS, "the end", "closed the connection or died", "running"),
    ],
)
def test_better_none_than_both(vm: Machine, tmp_path: Path, word: Kind, instead: str, why: str, state: str) -> None:
    """Before YOURS it is the source's, whatever is heard; afterwards only if the other side has ended without RUNS."""
    with Listener(parse(f"unix:{tmp_path}/odd.sock")) as listener, ThreadPoolExecutor(1) as beside:
        over = threading.Event()
        answering = beside.submit(half_a_destination, listener, word, instead, over)
        with pytest.raises(LabkitError, match=why):
            vm.migrate(str(listener.address), timeout_s=0.5 if instead == "silence" else WAIT_S)
        over.set()
        answering.result(WAIT_S)
    assert vm.state == state
    if state == "running":
        runs_on(vm)


def half_a_destination(listener: Listener, word: Kind, instead: str, over: threading.Event) -> None:
    """Says all that is due until `word`."""
    with listener.accept(WAIT_S) as channel:
        wire = Wire(channel)
        wire.expect(Kind.HELLO)
        wire.send(Kind.WELCOME)
        while wire.expect(Kind.PAGES, Kind.ROUND, Kind.PARTS, Kind.DISK, Kind.STATE).kind is not Kind.STATE:
            pass
        if word is Kind.RUNS:
            wire.send(Kind.TAKEN)
            wire.expect(Kind.YOURS)
        if instead == "nonsense":
            wire.send(Kind.HELLO, b"nonsense")
        if instead != "the end":
            assert over.wait(WAIT_S)


def test_who_comes_with_nonsense_leaves_nothing(vm: Machine, listen: Listen) -> None:
    """A destination that hears something else says so to who waits."""
    arrival = listen()
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.connect(arrival.address.removeprefix("unix:"))
        nobody.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(UsageError, match="no migration of a labkit machine"):
            arrival.machine(WAIT_S)
    runs_on(vm)


def test_an_interrupted_cell_calls_it_back(vm: Machine, stranger: socket.socket) -> None:
    """Ctrl-C while the other side says nothing: the machine is not on its way any more, and runs."""
    with interrupted(happened):
        vm.migrate(f"unix:{stranger.getsockname()}", timeout_s=FOR_EVER_S)
    called_back(vm)


def test_an_interrupted_cell_reaches_for_nobody(vm: Machine, tmp_path: Path) -> None:
    """The same while it is still being connected: somebody is there, and does not begin TLS."""
    authority = trustme.CA()
    with socket.create_server(("127.0.0.1", 0)) as silent, interrupted(happened):
        address = f"tcp:{silent.getsockname()[1]}"
        vm.migrate(address, tls=folder(tmp_path / "tls", authority, authority), timeout_s=FOR_EVER_S)
    called_back(vm)


def called_back(vm: Machine) -> None:
    """As soon as its thread has ended."""
    while vm._board.migration is not None:
        os.sched_yield()
    runs_on(vm)


def test_an_interrupted_cell_waits_for_no_machine(listen: Listen, cpu: str) -> None:  # noqa: ARG001 - one each
    """Ctrl-C ends the listening, too; the place is free again."""
    arrival = listen()
    with interrupted(happened):
        arrival.machine()
    with pytest.raises(HostError, match="interrupted"):
        arrival.machine(WAIT_S)
    assert not os.path.exists(arrival.address.removeprefix("unix:"))


def test_nobody_comes_in_time(listen: Listen, cpu: str) -> None:  # noqa: ARG001 - one each
    """A wait with an end says what it waited for, and the listening goes on."""
    arrival = listen()
    with pytest.raises(TimeoutError, match=f"no machine has come to {arrival.address} within 0.01 s"):
        arrival.machine(0.01)
    assert arrival.state == "listening"
