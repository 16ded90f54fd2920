"""What may stand in the saved state of a part? Numbers with ranges, bytes with a length, and parts inside parts.

A state is plain: a dict of names to ints, bytes, lists and dicts of the same, so that any file can hold it. It is
hostile until checked: `checked` says whose state is wrong, and where, before anybody believes a word of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from labkit.errors import UsageError

State = dict[str, Any]
NAMES_SHOWN, NAME_SHOWN = 8, 40  # of fields that nobody knows, and characters of each


class Number(NamedTuple):
    """A whole number, `least` to `most`."""

    most: int
    least: int = 0


class Bytes(NamedTuple):
    """Exactly so many bytes."""

    size: int


class Blob(NamedTuple):
    """Bytes of any number up to `most`."""

    most: int


class Many(NamedTuple):
    """Exactly so many states of one shape."""

    times: int
    shape: Shape


Shape = Mapping[str, "Number | Bytes | Blob | Many | Mapping[str, Any]"]
FLAG, U8, U16, U32, U64 = Number(1), Number(0xFF), Number(0xFFFF), Number((1 << 32) - 1), Number((1 << 64) - 1)


def checked(part: str, shape: Shape, found: object) -> State:
    """`found`, if it is a state of that shape and nothing else. UsageError names the field that is not."""
    if not isinstance(found, Mapping):
        raise _wrong(part, f"is {type(found).__name__}, not a state")
    if found.keys() != shape.keys():
        odd = sorted(map(_shown, found.keys() ^ shape.keys()))
        raise _wrong(part, f"has not the fields of this version: {', '.join(odd[:NAMES_SHOWN])}")
    return {name: _value(f"{part}.{name}", kind, found[name]) for name, kind in shape.items()}


def _value(name: str, kind: Any, value: object) -> Any:
    if isinstance(kind, Number):
        if not isinstance(value, int) or not kind.least <= value <= kind.most:
            raise _wrong(name, f"is no whole number from {kind.least} to {kind.most}")
        return int(value)
    if isinstance(kind, Bytes):
        if not isinstance(value, bytes) or len(value) != kind.size:
            raise _wrong(name, f"is not {kind.size} bytes")
        return value
    if isinstance(kind, Blob):
        if not isinstance(value, bytes) or len(value) > kind.most:
            raise _wrong(name, f"is not bytes, at most {kind.most}")
        return value
    if isinstance(kind, Many):
        if not isinstance(value, list) or len(value) != kind.times:
            raise _wrong(name, f"is not a list of {kind.times}")
        return [checked(f"{name}[{at}]", kind.shape, one) for at, one in enumerate(value)]
    return checked(name, kind, value)


def _shown(name: object) -> str:
    """A name that may be anything, so that it can stand in an error."""
    return repr(str(name))[1:-1][:NAME_SHOWN]


def _wrong(name: str, why: str) -> UsageError:
    return UsageError(f"saved state: {name} {why}; it was damaged, or saved from another machine")
