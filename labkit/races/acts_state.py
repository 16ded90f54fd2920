"""What can the main thread do that no rule begins? Save a device and load it; work alone; run out of something."""

from __future__ import annotations

import os
from contextlib import suppress

from labkit.board import Board
from labkit.native import lib
from labkit.races.scenario import Act
from labkit.trace.events import State


def _save_and_load(board: Board) -> None:
    """Memory and CPUs are as they were, as on the other side of a migration.

    What the eventfds had counted goes with the machine that was saved, and is in no state.
    """
    with board.stopped(lib.ASK_SETTLE):
        state = board.proxy.save_device()
        for notifier in board.proxy.notifiers.each.values():
            _forget_count(notifier.fd)
        board.runstate.change(State.PAUSED)
        board.proxy.load_device(state)
        board.runstate.change(State.RUNNING)
    board.release_vcpus()


def _forget_count(fd: int) -> None:
    if fd >= 0:
        with suppress(BlockingIOError):  # it was 0
            os.eventfd_read(fd)


def _work_alone(board: Board) -> None:
    """The iothread lets go, for something is done with the disk; kicks wait in their eventfds."""
    with board.locked():
        for notifier in board.proxy.notifiers.each.values():
            notifier.detach()


def _work_together(board: Board) -> None:
    with board.locked():
        for notifier in board.proxy.notifiers.each.values():
            notifier.attach()


def _let_an_assign_fail(board: Board) -> None:
    board.proxy.faults.fail_assign()


SAVE_AND_LOAD = Act("save and load", _save_and_load)
NEXT_ASSIGN_FAILS = Act("the next assign fails", _let_an_assign_fail)
WORK_ALONE, WORK_TOGETHER = Act("work alone", _work_alone), Act("work together", _work_together)
