"""Who receives the bench's machines? A second process, one machine after the other; it answers bare questions too."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import labkit
from labkit.bench.floors import boot_ns
from labkit.errors import HostError, LabkitError
from labkit.machine import Machine
from labkit.native import ffi, lib

MODULE = "labkit.bench.receiver"
REHEARSAL_S = 0.2  # a listener makes a machine for nobody first; whoever comes sooner waits for that
TIMEOUT_S = 60.0


class Receiver:
    """That process, from the side of whoever measures. A context manager; it is killed at the end.

    `address`: where it listens after `expect`. HostError: it could not do it, with what it said.
    """

    def __init__(self, cpu: str) -> None:
        with contextlib.ExitStack() as undo:
            folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="labkit-bench-"))
            self.address = f"unix:{Path(folder) / 'channel'}"
            self._orders, its_orders = (undo.enter_context(end) for end in Pipe())
            self._bare, its_bare = (undo.enter_context(end) for end in socket.socketpair())
            fds = [its_orders.fileno(), its_bare.fileno()]
            undo.enter_context(_started([cpu, self.address, *map(str, fds)], fds))
            its_orders.close()  # so that an end of the process is seen
            its_bare.close()
            self._undo = undo.pop_all()

    def expect(self) -> None:
        """Let it listen for a machine; returns when whoever comes need not wait."""
        self._order("listen")
        self._answer()

    def ran_at_ns(self) -> int:
        """When the machine that came entered its guest, by the clock of the feed. It is closed there."""
        found: int = self._answer()
        return found

    def questions_ns(self, *sizes: int, boots: bool = False) -> list[int]:
        """ns for each of as many questions with that many bytes, the answer a byte; the first waits for a bare boot."""
        buffer = ffi.new("char[]", max(sizes))
        self._order("answer", sizes, boots)
        spent = [lib.lk_bare_ask_ns(self._bare.fileno(), buffer, size) for size in sizes]
        self._answer()
        return spent

    def _order(self, *order: Any) -> None:
        try:
            self._orders.send(order)
        except OSError as error:
            raise HostError(MODULE, error.errno or errno.EIO, "it ended") from error

    def _answer(self) -> Any:
        try:
            if not self._orders.poll(TIMEOUT_S):
                raise HostError(MODULE, errno.ETIMEDOUT, "it does not answer")
            failed, answer = self._orders.recv()
        except (EOFError, OSError) as error:
            raise HostError(MODULE, errno.EIO, "it ended") from error
        if failed:
            raise HostError(MODULE, errno.EIO, answer)
        return answer

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()


@contextlib.contextmanager
def _started(arguments: list[str], fds: list[int]) -> Any:
    code = f"import sys; from {MODULE} import main; main(*sys.argv[1:])"
    command = [sys.executable, "-P", "-c", code, *arguments]
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=fds)
    except OSError as error:
        raise HostError(MODULE, error.errno or errno.EIO, "it cannot be started") from error
    with process:
        try:
            yield
        finally:
            process.kill()


def moment_ns(vm: Machine, kind: str, **fields: str) -> int:
    """When there was such an event last. Whoever is still writing one hides those behind it for that long."""
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        if found := [event for event in vm.trace.events(kind) if fields.items() <= event.values.items()]:
            return int(found[-1].time_ns)
        os.sched_yield()
    raise HostError("the bench's machine", errno.ETIMEDOUT, f"it has not told of {kind} {fields}")


# -- in the process ----------------------------------------------------------------------------------------------------


class _Process:
    """Does one order after the other, until whoever gives them is gone."""

    def __init__(self, cpu: str, address: str, orders: Connection, bare: socket.socket) -> None:
        self._cpu, self._address, self._orders, self._bare = cpu, address, orders, bare

    def serve(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                order, *arguments = self._orders.recv()
                try:
                    answer = False, getattr(self, f"_{order}")(*arguments)
                except LabkitError as error:
                    answer = True, str(error)
                self._orders.send(answer)

    def _listen(self) -> int:
        with labkit.listen(self._address, cpu=self._cpu) as arrival:
            time.sleep(REHEARSAL_S)
            self._orders.send((False, None))
            with arrival.machine(TIMEOUT_S) as vm:
                return moment_ns(vm, "gate", gate="runs")

    def _answer(self, sizes: tuple[int, ...], boots: bool) -> None:
        buffer = ffi.new("char[]", max(sizes))
        if boots:
            boot_ns(self._cpu)
        for size in sizes:
            lib.lk_bare_answer(self._bare.fileno(), buffer, size, 1)


def main(cpu: str, address: str, orders_fd: str, bare_fd: str) -> None:
    """The process. An interrupt is for whoever measures, who ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Process(cpu, address, Connection(int(orders_fd)), socket.socket(fileno=int(bare_fd))).serve()
