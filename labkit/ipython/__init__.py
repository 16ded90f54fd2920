"""What can a cell say that is not Python? `%load_ext labkit` brings magics, and completion of what labkit knows.

`guest.py` has `%%guest`, `race.py` `%race` and `%%race`, `rule.py` `%rule`; `line.py` reads what stands beside them.
`completion.py` completes words in calls, `call.py` says which call that is.
"""

from __future__ import annotations

from typing import Any

from labkit.ipython.completion import IDENTIFIER, Completion
from labkit.ipython.guest import GuestMagic
from labkit.ipython.race import RaceMagic
from labkit.ipython.rule import rule

__all__ = ["load", "unload"]

MAGICS = {"cell": ("guest", "race"), "line": ("race", "rule")}


def load(shell: Any) -> None:
    """Give a shell of IPython the magics and the completion; again: nothing."""
    if _matchers(shell):
        return
    guest, race = GuestMagic(shell), RaceMagic(shell)
    for kind, name, function in (
        ("cell", "guest", guest),
        ("cell", "race", race.play),
        ("line", "race", race.tell),
        ("line", "rule", rule),
    ):
        shell.register_magic_function(function, kind, name)
    shell.Completer.custom_matchers.append(Completion(shell.user_ns).matcher)


def unload(shell: Any) -> None:
    """Take them away. Machines that a magic has booted stay."""
    for matcher in _matchers(shell):
        shell.Completer.custom_matchers.remove(matcher)
        for kind, names in MAGICS.items():
            for name in names:
                shell.magics_manager.magics[kind].pop(name, None)


def _matchers(shell: Any) -> list[Any]:
    return [one for one in shell.Completer.custom_matchers if getattr(one, "matcher_identifier", "") == IDENTIFIER]
