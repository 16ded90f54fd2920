"""In which argument of which call is the cursor? The text before it is read as it is: it need not be Python yet."""

from __future__ import annotations

import re
from typing import NamedTuple

CHAIN = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:\(\))?$")  # vm.hold, vm.registers()
KEYWORD = re.compile(r"\s*([A-Za-z_]\w*)\s*=(?!=)")
PREFIX = re.compile(r"(?<![\w])[rRuU]?$")  # of a string that is its own text; f and b are not completed
CLOSES = {")": "(", "]": "[", "}": "{"}


class Argument(NamedTuple):
    """A string that is not closed yet: what was written of it, and where. `of`: what is called, or subscripted.

    `position` counts from 0; `keyword` is empty for one by position.
    """

    of: str
    subscript: bool
    position: int
    keyword: str
    written: str


class _Open(NamedTuple):
    """A bracket that is not closed: where, how many commas came since, and where the last argument begins."""

    at: int
    commas: int
    begins: int


def argument(text: str) -> Argument | None:
    """Of a text up to the cursor. None: the cursor is in no string, or the string in no call."""
    brackets, quote = _scan(text)
    if quote is None or PREFIX.search(text[max(0, quote - 1) : quote]) is None:
        return None
    for bracket in reversed(brackets):
        of = CHAIN.search(text[: bracket.at])
        if of is not None:  # else a list or a tuple, which is in an argument of a call around it
            said = KEYWORD.match(text[bracket.begins :])
            name = said[1] if said else ""
            return Argument(of[0], text[bracket.at] == "[", bracket.commas, name, text[quote + 1 :])
    return None


def _scan(text: str) -> tuple[list[_Open], int | None]:
    """Brackets that are open at the end, and the quote of a string of one line that is."""
    brackets: list[_Open] = []
    at = 0
    while at < len(text):
        here = text[at]
        if here in "'\"":
            end = _end_of_string(text, at)
            if end is None:
                return brackets, None if text.startswith(here * 3, at) else at
            at = end
        elif here == "#":
            at = _until(text, "\n", at)
        elif here in "([{":
            brackets.append(_Open(at, 0, at + 1))
        elif here in CLOSES and brackets and text[brackets[-1].at] == CLOSES[here]:
            brackets.pop()
        elif here == "," and brackets:
            brackets[-1] = brackets[-1]._replace(commas=brackets[-1].commas + 1, begins=at + 1)
        at += 1
    return brackets, None


def _end_of_string(text: str, at: int) -> int | None:
    """Its last quote; or the end of the line, for one that nobody closed; None: it goes on to the end of the text."""
    long = text.startswith(text[at] * 3, at)
    quote = text[at] * (3 if long else 1)
    at += len(quote)
    while at < len(text):
        if text.startswith(quote, at):
            return at + len(quote) - 1
        if text[at] == "\n" and not long:
            return at
        at += 2 if text[at] == "\\" else 1
    return None


def _until(text: str, what: str, at: int) -> int:
    found = text.find(what, at)
    return len(text) if found < 0 else found
