"""Is that right? `course.check("01.who-runs", answer, vm)` looks at an answer to an exercise of the notebooks.

Each notebook has a module here, n00 to n13 by its first two digits, with its EXERCISES; there is no other list.
`mystery(2)` is a machine with an unnamed bug.
"""

from __future__ import annotations

import pkgutil
import re
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from labkit.course.exercise import Exercise
from labkit.course.verdict import Verdict
from labkit.errors import UsageError

if TYPE_CHECKING:
    from labkit.course.mysteries import Mystery

__all__ = ["Exercise", "Verdict", "check", "exercises", "find", "mystery"]

_MODULE = re.compile(r"n(\d\d)")


@cache
def _notebooks() -> tuple[str, ...]:
    """Notebooks that have exercises, by their digits."""
    found = (_MODULE.fullmatch(module.name) for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(match[1] for match in found if match))


@cache
def _of(notebook: str) -> tuple[Exercise, ...]:
    found: tuple[Exercise, ...] = import_module(f"{__name__}.n{notebook}").EXERCISES
    return found


def exercises(notebook: str | None = None) -> tuple[Exercise, ...]:
    """Those of a notebook, by its first two digits ("05"), or of all. UsageError: it has none."""
    if notebook is None:
        return tuple(one for digits in _notebooks() for one in _of(digits))
    digits = notebook[:2] if isinstance(notebook, str) else repr(notebook)
    if digits not in _notebooks():
        raise UsageError(f"notebook {digits!r} has no exercises; these have: {', '.join(_notebooks())}")
    return _of(digits)


def find(name: str) -> Exercise:
    """One of them. UsageError: there is none of that name."""
    those = exercises(name or "")
    found = next((one for one in those if one.name == name), None)
    if found is None:
        raise UsageError(f"exercise {name!r}: notebook {name[:2]} has {', '.join(one.name for one in those)}")
    return found


def check(name: str, *answer: object, **evidence: object) -> Verdict:
    """Is this the answer to that exercise? Any answer gets a verdict, which is true if it is right.

    UsageError: there is no such exercise.
    """
    return find(name).verdict(*answer, **evidence)


def mystery(number: int) -> Mystery:
    """A machine with an unnamed bug, 1 to 5. UsageError: there is no such mystery. HostError: the C core is missing."""
    from labkit.course import mysteries  # here: its scenarios need the C core, which copies of the notebooks do not

    return mysteries.mystery(number)
