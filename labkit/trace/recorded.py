"""What does a recording hold? Facts, events as numbers, and the last value of every field."""

from __future__ import annotations

from typing import NamedTuple

from labkit.trace.events import Event, decode
from labkit.trace.fields import Key

TEXT_MAX = 200
FEATURE_BITS = 32

Record = tuple[int, ...]  # seq, time_ns, kind, actor, queue (-1: none), a, b, c, d, e
Values = dict[Key, int | None]


class Facts(NamedTuple):
    """What does not change while a machine lives."""

    name: str
    cpu: str
    guest: str
    device: str
    remark: str  # what is unusual about the device, or nothing
    revision: str
    vcpus: int
    memory_mib: int
    ioeventfd: bool
    queue_sizes: tuple[int, ...]
    queue_indices: int  # QUEUE_SEL takes those below
    vectors: int
    host_features: int
    feature_names: tuple[str, ...]  # for each bit; empty: it has none


class Recorded(NamedTuple):
    """A recording's contents. A source of events for a Trace."""

    facts: Facts
    lost: int  # events that came before the first one here
    records: list[Record]
    final: Values  # every field at the save
    labkit: str  # the version that saved it

    def position(self) -> int:
        """How many events there ever were."""
        return self.lost + len(self.records)

    def read(self, since: int = 0) -> tuple[list[Event], int]:
        """Events from position `since` on, and how many of them are lost."""
        return [event(record) for record in self.records[max(0, since - self.lost) :]], max(0, self.lost - since)


def event(record: Record) -> Event:
    """A record in words."""
    seq, time_ns, kind, actor, queue, *numbers = record
    return decode(seq, time_ns, kind, actor, queue, tuple(numbers))  # type: ignore[arg-type]


def plain(said: object) -> str:
    """A text as a recording may keep it: one line, nothing that moves a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in str(said))[:TEXT_MAX]
