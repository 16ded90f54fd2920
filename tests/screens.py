"""Screens without a browser: a look at one moment, a click, and what became of it."""

from __future__ import annotations

from typing import Any

import labkit
from labkit.widgets.scene import Looker

CLICK_S = 30.0


def seen(vm: labkit.Machine) -> dict[str, Any]:
    """A machine's scene now, by a look of its own."""
    return Looker(vm._board).look()


def click(screen: Any, ask: object, seq: int = 1, machine: object = 0, **filled_in: object) -> Any:
    """What the page sends when a button is pressed; waits until it is done and returns how that went."""
    answer = screen._hand.take({"ask": ask, "seq": seq, "page": "p", "machine": machine, "with": filled_in})
    assert answer == {"taken": seq, "page": "p"}
    assert screen._hand.idle(CLICK_S)
    return screen.asked


def outcome(screen: Any, ask: object, **filled_in: object) -> tuple[str, str]:
    """The same in two words: how it went, and what it gave."""
    asked = click(screen, ask, **filled_in)
    return asked.outcome, asked.text


def register(scene: dict[str, Any], name: str) -> dict[str, Any]:
    """One register of a scene."""
    return next(one for one in scene["proxy"] if one["name"] == name)
