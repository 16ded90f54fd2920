"""What can a cell say that is not Python? `%load_ext labkit` brings magics, and completion of what labkit knows.

`guest.py` has `%%guest`, `race.py` `%race` and `%%race`, `rule.py` `%rule`; `line.py` reads what stands beside them.
`completion.py` completes words in calls, `call.py` says which call that is.
"""

from __future__ import annotations

from typing import Any

from labkit.ipython.completion import Completion
from labkit.ipython.guest import GuestMagic
from labkit.ipython.race import RaceMagic
from labkit.ipython.rule import rule

__all__ = ["load", "unload"]

_loaded: dict[int, Completion] = {}  # by the shell's id, for unload


def load(shell: Any) -> None:
    """Give a shell of IPython the magics and the completion; again: nothing."""
    if id(shell) in _loaded:
        return
    guest, race = GuestMagic(shell), RaceMagic(shell)
    for kind, name, function in (
        ("cell", "guest", guest),
        ("cell", "race", race.play),
        ("line", "race", race.tell),
        ("line", "rule", rule),
    ):
        shell.register_magic_function(function, kind, name)
    completion = _loaded[id(shell)] = Completion(shell.user_ns)
    shell.Completer.custom_matchers.append(completion.matcher)


def unload(shell: Any) -> None:
    """Take them away. Machines that a magic has booted stay."""
    completion = _loaded.pop(id(shell), None)
    if completion is None:
        return
    for kind, name in (("cell", "guest"), ("cell", "race"), ("line", "race"), ("line", "rule")):
        shell.magics_manager.magics[kind].pop(name, None)
    shell.Completer.custom_matchers.remove(completion.matcher)
