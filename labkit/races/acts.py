"""What can the main thread do in a scenario? What a user's commands do, in the thread that carries them out."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from labkit.errors import HostError
from labkit.races.scenario import Act

if TYPE_CHECKING:
    from labkit.board import Board


def hand_over(board: Board) -> None:
    """A backend takes every queue (R9). If the host refuses, it takes none; an event says so, for the invariants."""
    with suppress(HostError):
        board.hand_over(None)


def take_back(board: Board) -> None:
    """It gives them back."""
    board.take_back()


def pause(board: Board) -> None:
    """The machine stops (R10)."""
    board.pause()


def resume(board: Board) -> None:
    """It goes on."""
    board.resume()


def reset(board: Board) -> None:
    """The reset button (R7)."""
    board.reset()


HAND_OVER, TAKE_BACK = Act("hand over", hand_over), Act("take back", take_back)
PAUSE, RESUME = Act("pause", pause), Act("resume", resume)
RESET = Act("reset", reset)
