"""How is the line of a magic read? Words and options as a shell has them; what is wrong with it is told in one line."""

from __future__ import annotations

import argparse
import keyword
import shlex
from collections.abc import Mapping
from typing import Any, NoReturn

from labkit import errors


class _Short:
    """A cell shows it without the magic's own frames, in which nothing is wrong."""

    def _render_traceback_(self) -> list[str]:
        kind = next(one for one in type(self).__mro__ if one.__module__ == errors.__name__)
        return [f"{kind.__name__}: {self}"]


class Refused(_Short, errors.UsageError):
    """What a magic was asked for is not there, or not possible."""


class Crashed(_Short, errors.GuestError):
    """The guest of a cell has crashed."""


class Line(argparse.ArgumentParser):
    """The options of one magic."""

    def __init__(self, magic: str, what: str, options: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(magic, description=what, add_help=False, allow_abbrev=False)
        for name, settings in options.items():
            self.add_argument(name, **settings)

    def read(self, line: str) -> argparse.Namespace:
        """Refused: an option that is not there, a value that it does not take."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise self.refusal(str(error)) from None
        return self.parse_args(words)

    def error(self, message: str) -> NoReturn:
        """In place of an exit."""
        raise self.refusal(message)

    def refusal(self, message: str) -> Refused:
        """With what could be said."""
        return Refused(f"{self.prog}: {message}\n{self.format_usage().strip()}")


def on_or_off(said: str) -> bool:
    """A property of the machine."""
    if said not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{said!r} is neither on nor off")
    return said == "on"


def seconds(said: str) -> float:
    """Some, or none."""
    found = float(said)
    if not 0 <= found < float("inf"):
        raise argparse.ArgumentTypeError(f"{said!r}: seconds, from 0 on")
    return found


def name(said: str) -> str:
    """Of a variable."""
    if not said.isidentifier() or keyword.iskeyword(said):
        raise argparse.ArgumentTypeError(f"{said!r} is no name of a variable")
    return said
