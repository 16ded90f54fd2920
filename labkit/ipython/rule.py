"""What does a rule say? `%rule R5`: its text, and where it is in the tables of each revision; `%rule`: all of them."""

from __future__ import annotations

from typing import NamedTuple

from labkit import errors, rules, views
from labkit.ipython.line import Refused


class Shown(NamedTuple):
    """A rule: its number, its text, and its rows."""

    number: str
    text: str
    rows: rules.Listing

    def _repr_html_(self) -> str:
        return views.named(self.number, {"text": self.text}) + self.rows._repr_html_()

    def __repr__(self) -> str:
        return f"{self.number}  {self.text}\n\n{self.rows!r}"


def rule(line: str) -> Shown | rules.Listing:
    """Show a rule: `%rule R5`. Alone, `%rule` lists all of them. docs/rules.md has the same on a page."""
    number = line.strip().upper()
    if not number:
        return rules.Listing("rules", ("rule", "text"), tuple(rules.prose().items()))
    number = number if number.startswith("R") else f"R{number}"
    try:
        return Shown(number, rules.text(number), rules.places(number))
    except errors.UsageError as error:
        raise Refused(str(error)) from None
