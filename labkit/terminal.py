"""What is at the host's end of a virtio-console? Text that the guest wrote, and a keyboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labkit.abi import NUMBERS, Status
from labkit.board import Board
from labkit.errors import UsageError
from labkit.native import ffi, lib
from labkit.trace.events import Run, State
from labkit.virtio.devices.console import Console

INPUT = NUMBERS["CONSOLE_INPUT"]
GONE = (State.CRASHED, State.EXITED)


class Terminal:
    """The terminal of a machine whose device is a console. It is the host's: no reset of the guest clears it."""

    def __init__(self, board: Board, machine: object) -> None:
        model = board.plan.model
        if not isinstance(model, Console):
            raise UsageError(f'the device is a virtio-{model.name}: a terminal comes with labkit.boot("console")')
        self._board, self._native = board, model.terminal
        self._machine = machine  # a terminal in use keeps its machine from being collected

    @property
    def output(self) -> bytes:
        """What the guest has written since boot: the newest MiB of it."""
        return bytes(self._locked(self._read))

    @property
    def text(self) -> str:
        """The same as text, UTF-8."""
        return self.output.decode(errors="replace")

    @property
    def waiting(self) -> int:
        """Bytes that were sent and that the guest has not taken: it has posted no buffers for them."""
        return int(self._locked(lambda: lib.lk_terminal_waiting(self._native)))

    def send(self, data: bytes | str) -> None:
        """Type: the guest gets it in the buffers it has posted, and the rest when it posts more.

        UsageError: the guest is gone, or more than 64 KiB would wait; then nothing is sent.
        """
        typed = data.encode() if isinstance(data, str) else bytes(data)
        self._locked(lambda: self._type(typed))

    def _type(self, typed: bytes) -> None:
        board = self._board
        if board.runstate.state in GONE:
            raise UsageError("the guest is gone: vm.reset() starts it again")
        if lib.lk_terminal_type(self._native, typed, len(typed)):
            waiting = lib.lk_terminal_waiting(self._native)
            raise UsageError(
                f"{len(typed)} bytes: {waiting} wait already, and there is room for {lib.TERMINAL_INPUT_MAX}"
            )
        if not board.proxy.status & Status.DRIVER_OK:
            return  # nobody may write to the guest's memory now; its driver will kick when it is up
        if board.runstate.running:
            lib.lk_queue_run(board.device, INPUT, Run.HOST)
        else:
            board.device.vq[INPUT].unfinished = 1  # while paused nothing moves

    def _read(self) -> bytes:
        written = lib.lk_terminal_written(self._native)
        kept = min(written, lib.TERMINAL_OUTPUT_MAX)
        out = ffi.new("char[]", kept or 1)
        return bytes(ffi.buffer(out, lib.lk_terminal_read(self._native, written - kept, out, kept)))

    def _locked(self, work: Callable[[], Any]) -> Any:
        """In the owner thread, so that a cell that waits for the lock can be interrupted."""
        board = self._board
        if board.runstate.state is State.CLOSED:
            raise UsageError("the machine is closed")

        def with_lock() -> Any:
            with board.locked():
                return work()

        return board.gates.call(board.owner, with_lock)

    def __repr__(self) -> str:
        return self.text
