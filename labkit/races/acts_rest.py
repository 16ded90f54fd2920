"""What else can the main thread do in a scenario? Pause, reset, lend, unplug, load: each as one step of a schedule."""

from __future__ import annotations

from labkit.abi import NUMBERS, PciCommand, Register, Status
from labkit.board import Board
from labkit.errors import HostError
from labkit.pc.pci import COMMAND
from labkit.races.scenario import Act
from labkit.trace.events import State

UP = Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK


def _reset_device(board: Board) -> None:
    """R7, as a reset of the bus does it: the guest goes on."""
    with board.stopped():
        board.proxy.reset()
    board.release_vcpus()


def _hand_over(board: Board) -> None:
    try:
        board.hand_over(None)
    except HostError as error:
        board.proxy.notifiers.errors.append(error)


def _take_back(board: Board) -> None:
    board.take_back()


def _pause_and_resume(board: Board) -> None:
    board.pause()
    board.resume()


def _load_device(board: Board) -> None:
    """The device as it was when the scenario began; memory stays as it is."""
    with board.stopped():
        board.runstate.change(State.PAUSED)
        board.proxy.load_device(board.like.parts["device"])
        board.proxy.tell_loaded()
        board.runstate.change(State.RUNNING)
    board.release_vcpus()


PAUSE = Act("pause", Board.pause)
RESUME = Act("resume", Board.resume)
PAUSE_AND_RESUME = Act("pause and resume", _pause_and_resume)
RESET_DEVICE = Act("reset the device", _reset_device)
HAND_OVER = Act("hand over", _hand_over)
TAKE_BACK = Act("take back", _take_back)
UNPLUG = Act("unplug", Board.unplug)
LOAD_DEVICE = Act("load the device", _load_device)


# -- what no snapshot holds, before a schedule begins ------------------------------------------------------------------


def bug_is_noted(board: Board) -> None:
    """A driver that came up without bus-master (R13)."""
    with board.locked():
        board.proxy.write_config(COMMAND, 2, board.proxy.command & ~PciCommand.MASTER)
        board.proxy.write_register(Register.STATUS, 1, UP)


def comes_up(board: Board) -> None:
    """A driver that has come up, by its registers alone."""
    with board.locked():
        board.proxy.write_register(Register.QUEUE_PFN, 4, NUMBERS["GPA_RINGS"] >> NUMBERS["QUEUE_PFN_SHIFT"])
        board.proxy.write_register(Register.STATUS, 1, UP)


def next_assign_fails(board: Board) -> None:
    """R4."""
    board.proxy.faults.fail_assign()


def is_lent(board: Board) -> None:
    """A backend has the queues."""
    board.hand_over(None)
