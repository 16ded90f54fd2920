"""How do events become a table? One row an event, one column a field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.trace.events import Event

if TYPE_CHECKING:
    import pandas


def frame(events: list[Event], cpu: str) -> pandas.DataFrame:
    """A DataFrame of events: seq, time_s (seconds since the first row), actor, event, queue, then the fields.

    `.attrs["cpu"]` is `cpu`.
    """
    import pandas

    start = events[0].time_ns if events else 0
    rows = [
        {
            "seq": event.seq,
            "time_s": (event.time_ns - start) / 1e9,
            "actor": event.actor,
            "event": event.name,
            "queue": event.queue,
            **event.values,
        }
        for event in events
    ]
    table = pandas.DataFrame(rows, columns=None if rows else ["seq", "time_s", "actor", "event", "queue"])
    table.attrs["cpu"] = cpu
    return table
