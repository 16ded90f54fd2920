"""Where in Python does each thread stand? Asked once, when actors stand who will not go on, and before they do."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import dropwhile
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from labkit.native import ffi, lib
from labkit.races.places import where

PACKAGE = Path(__file__).resolve().parent.parent
MACHINERY = ("labkit.threads", "labkit.owner", "labkit.races.player")  # how an actor came to do anything
IN_C = "in the C core"
HAS = {lib.HAS_BIG_LOCK: "the big lock", lib.HAS_BACKENDS_LOCK: "the backend's lock"}
RESTS = (lib.PLACE_IDLE, lib.PLACE_STOPPED)


class Stood(NamedTuple):
    """Of one actor: what it waited for and which locks it had, and the functions it was in, the innermost last."""

    where: str
    stack: tuple[str, ...] = ()  # "labkit/board.py:120 pause"; empty: it rests


class Stacks:
    """Of every thread of this process, at the end of a machine's last schedule that came to no end by itself."""

    def __init__(self, native_gates: Any) -> None:
        self._gates = native_gates
        self._seen: dict[int, tuple[str, ...]] = {}
        self._handle = ffi.new_handle(self._seen)
        lib.lk_schedule_look(native_gates, lib.lk_python_look, self._handle)

    def stood(self, actor: int) -> Stood:
        """Once the schedule has ended."""
        at = ffi.new("lk_stood *")
        lib.lk_schedule_stood(self._gates, actor, at)
        stands = where(at.place, at.kind) + _with(at.has)
        return Stood(stands) if at.place in RESTS else Stood(stands, self._seen.get(at.thread) or (IN_C,))


@ffi.def_extern()  # type: ignore[untyped-decorator]
def lk_python_look(seen: Any) -> None:
    """By whichever thread has seen the deadlock; the others stand. It asks nothing of the core."""
    threads: dict[int, tuple[str, ...]] = ffi.from_handle(seen)
    threads.clear()
    threads.update((ident, _said(frame)) for ident, frame in sys._current_frames().items())


def text(stood: Mapping[str, Stood]) -> str:
    """A line for each actor, and under it one for each function."""
    lines: list[str] = []
    for actor, (stands, stack) in stood.items():
        lines += [f"{actor} {stands}", *(f"  {line}" for line in stack)]
    return "\n".join(lines)


def _said(innermost: FrameType) -> tuple[str, ...]:
    frames = dropwhile(lambda one: _module(one) in MACHINERY, reversed(list(_frames(innermost))))
    return tuple(f"{_file(one)}:{one.f_lineno} {one.f_code.co_name}" for one in frames)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """The lab's own, and a scenario's; not the interpreter's library, nor whoever looks."""
    while frame is not None:
        module = _module(frame)
        if module != __name__ and module.partition(".")[0] not in sys.stdlib_module_names:
            yield frame
        frame = frame.f_back


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _file(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return str(path.relative_to(PACKAGE.parent)) if path.is_relative_to(PACKAGE) else path.name


def _with(has: int) -> str:
    names = [name for bit, name in HAS.items() if has & bit]
    return f", with {' and '.join(names)}" if names else ""
