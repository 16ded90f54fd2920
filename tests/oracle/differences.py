"""Where does labkit's revision "today" not do what QEMU does, and why? What is not listed here must be the same."""

from __future__ import annotations

import difflib
from typing import NamedTuple


class Difference(NamedTuple):
    """Why, and which lines: those of QEMU alone begin with `- `, those of labkit alone with `+ `."""

    reason: str
    lines: tuple[str, ...]


DIFFERENCES: dict[str, Difference] = {}  # scenario -> difference


def between(qemu: list[str], labkit: list[str]) -> tuple[str, ...]:
    """The lines that differ, in order."""
    diff = difflib.unified_diff(qemu, labkit, n=0, lineterm="")
    changed = [line for line in diff if not line.startswith(("---", "+++", "@@"))]
    return tuple(f"{line[0]} {line[1:].strip()}" for line in changed)
