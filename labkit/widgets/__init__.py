"""How does a running machine look in a notebook, and what can be clicked? Live views; see docs/screen.md.

`vm.dashboard()` and the `view()` of a machine's parts come from here. Nothing of it is imported before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from labkit import rules
from labkit.errors import UsageError

if TYPE_CHECKING:
    from labkit.widgets.coming import Look
    from labkit.widgets.screen import Screen

__all__ = ["dashboard", "pair", "part"]

WHOLE = ("controls", "datapath", "proxy", "queues", "rings", "timeline", "events")
PARTS = {
    "proxy": ("proxy",),
    "queue": ("queues", "rings"),
    "notifier": ("queues",),
    "trace": ("timeline", "events"),
    "gates": ("controls",),
}
THREADS = "threads"


def __getattr__(name: str) -> Any:
    """`labkit.widgets.stepper`: a race, one decision at a time."""
    if name == "stepper":
        return import_module("labkit.widgets.stepper")
    raise AttributeError(f"module 'labkit.widgets' has no attribute {name!r}")


def dashboard(vm: Any) -> Screen:
    """A machine as it is from moment to moment, with its buttons. UsageError: anywidget is not installed."""
    return _screen([vm], WHOLE)


def pair(source: Any, destination: Any) -> Screen:
    """Two machines beside each other, as in a migration; either may be what `labkit.listen` gives.

    UsageError: neither a machine nor an arrival.
    """
    return _screen([source, destination], WHOLE)


def part(board: Any, name: str, queue: int | None = None) -> Screen:
    """One part of a machine, alone; `queue`: the only one to show."""
    return _show([_looker(board, PARTS[name], queue)], [board], PARTS[name])


def _screen(shown: list[Any], views: tuple[str, ...]) -> Screen:
    boards = [getattr(one, "_board", None) for one in shown]
    for one, board in zip(shown, boards, strict=True):
        if board is None and not hasattr(one, "progress"):
            raise UsageError(f"{type(one).__name__}: a machine, or what labkit.listen gives")
    looks = [_coming(one) if board is None else _looker(board) for one, board in zip(shown, boards, strict=True)]
    return _show(looks, [board for board in boards if board is not None], views)


def _looker(board: Any, views: tuple[str, ...] = WHOLE, queue: int | None = None) -> Look:
    from labkit.widgets.scene import Looker

    return Looker(board, views, queue)


def _coming(arrival: Any) -> Look:
    from labkit.widgets.coming import Coming

    return Coming(arrival)


def _show(looks: list[Look], boards: list[Any], views: tuple[str, ...]) -> Screen:
    """The widget, with what does not change: which parts, which buttons, what the rules say."""
    from labkit.widgets import actions

    known, fields = [], {}
    if boards and "controls" in views:
        known = [one for one in actions.possible(boards[0]) if views == WHOLE or one.group == THREADS]
        fields = actions.fields(boards[0])
    about = {
        "views": list(views),
        "actions": [action.told() for action in known],
        "fields": {name: fields[name] for name in dict.fromkeys(name for one in known for name in one.fields)},
        "rules": rules.prose(),
        "rules_of": boards[0].plan.revision if boards else "",
        "machines": [board.name for board in boards],
    }
    try:
        from labkit.widgets.screen import Screen
    except ImportError as error:
        raise UsageError(f"a live view needs anywidget: pip install anywidget ({error})") from error
    return Screen(looks, about, known, fields)
