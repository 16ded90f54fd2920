"""Is it right, and if not, where should one look? The answer to an answer: it has a hint, and never the solution."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

RIGHT, NOT_YET = "right", "not yet"
AT_MOST = 80  # characters of what somebody answered
MARGIN = 'style="border-left: 4px solid {}; padding-left: 8px; text-align: left"'
COLOURS = {True: "var(--jp-success-color1, #2e7d32)", False: "var(--jp-warn-color1, #b26a00)"}


class Verdict(NamedTuple):
    """True where `ok`. `says`: what is right or wrong; `hint`: where to look next."""

    ok: bool
    says: str
    hint: str = ""

    def __bool__(self) -> bool:
        return self.ok

    def _lines(self) -> list[tuple[str, str]]:
        first = (RIGHT if self.ok else NOT_YET, self.says)
        return [first, ("hint", self.hint)] if self.hint else [first]

    def __repr__(self) -> str:
        return "\n".join(f"{word}: {text}" for word, text in self._lines())

    def _repr_html_(self) -> str:
        lines = "<br>".join(f"<b>{word}</b>: {escape(text)}" for word, text in self._lines())
        return f"<div {MARGIN.format(COLOURS[self.ok])}>{lines}</div>"


def right(says: str) -> Verdict:
    """It is; `says` tells what follows from it."""
    return Verdict(True, says)


def not_yet(says: str, hint: str) -> Verdict:
    """It is not: what is wrong, and where to look."""
    return Verdict(False, says, hint)


def shown(answer: object) -> str:
    """What somebody answered, for `says`: shortened, and whatever its repr does."""
    try:
        text = repr(answer)
    except Exception:  # noqa: BLE001 - an answer may be anything
        text = f"something of type {type(answer).__name__}"
    return text if len(text) <= AT_MOST else text[:AT_MOST] + " …"
