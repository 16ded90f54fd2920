"""How is a schedule told? Who goes, decision by decision, as a short text: `lost-kick:3f2a:v i2 v3`.

Its head names the scenario and the state of its definition, so that a schedule of something else is refused.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from labkit.errors import UsageError
from labkit.trace.events import Actor

if TYPE_CHECKING:
    from labkit.races.scenario import Scenario

LETTERS = {"i": int(Actor.IOTHREAD), "b": int(Actor.BACKEND), "m": int(Actor.OWNER), "v": int(Actor.VCPU0)}
PART = re.compile(
    r"(?:([ibm])|v(?:\.([0-7]))?)(?:x([1-9]\d{0,4}))?", re.ASCII
)  # i, b, m, v (vcpu0), v.1 (vcpu1); x3: three times
DECISIONS_MAX = 4096


def encode(scenario: Scenario, actors: bytes) -> str:
    """The text."""
    parts = [
        _letter(actor) + (f"x{count}" if count > 1 else "")
        for actor, count in ((actor, len(list(group))) for actor, group in itertools.groupby(actors))
    ]
    return f"{scenario.name}:{scenario.fingerprint}:{' '.join(parts)}"


def decode(scenario: Scenario, text: str) -> bytes:
    """The actors. UsageError: a schedule of another scenario or another version of it, or none."""
    name, _, rest = str(text).partition(":")
    fingerprint, _, parts = rest.partition(":")
    if name != scenario.name:
        raise UsageError(f"schedule {text!r}: it is of {name or 'nothing'}, not of {scenario.name}")
    if fingerprint != scenario.fingerprint:
        raise UsageError(f"schedule {text!r}: {name} was another one then ({fingerprint}, now {scenario.fingerprint})")
    actors = bytearray()
    for part in parts.split():
        match = PART.fullmatch(part)
        if match is None or int(match[3] or 1) + len(actors) > DECISIONS_MAX:
            raise UsageError(f"schedule {text!r}: {part!r} is no actor: i, b, m, v or v.1, and x3 for three times")
        actor = LETTERS[match[1]] if match[1] else LETTERS["v"] + int(match[2] or 0)
        actors += bytes([actor]) * int(match[3] or 1)
    return bytes(actors)


def _letter(actor: int) -> str:
    if actor >= Actor.VCPU0:
        return "v" if actor == Actor.VCPU0 else f"v.{actor - Actor.VCPU0}"
    return next(letter for letter, number in LETTERS.items() if number == actor)
