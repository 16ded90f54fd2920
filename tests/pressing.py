"""How is a cell interrupted while it waits, and never before? By Ctrl-C, once it is seen in the function that waits."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType

import pytest

LOOK_AGAIN_S = 0.001


def main_is_inside(function: Callable[..., object]) -> bool:
    """Is the main thread in it, or in what it has called?"""
    assert isinstance(function, FunctionType)
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None


@contextmanager
def interrupted(inside: Callable[..., object]) -> Iterator[None]:
    """What is done in this block comes to wait in `inside`, is interrupted there, and KeyboardInterrupt gets out."""
    over = threading.Event()

    def press() -> None:
        while not over.wait(LOOK_AGAIN_S):
            if main_is_inside(inside):
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=press)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        over.set()
        thread.join()
