"""How do events become a table? One row an event, one column a field: as a DataFrame, or as a file of text."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.files import write_whole
from labkit.trace.events import Event
from labkit.trace.tracepoints import KernelEvent

if TYPE_CHECKING:
    import pandas

COLUMNS = ("seq", "time_s", "actor", "event", "queue")  # of every table; the fields follow as they come


def frame(events: Sequence[Event], cpu: str, kernel: Sequence[KernelEvent] = ()) -> pandas.DataFrame:
    """A DataFrame of events: seq, time_s (seconds since the first row), actor, event, queue, then the fields.

    Tracepoints of the kernel stand among them, by their times. `.attrs["cpu"]` is `cpu`.
    """
    import pandas

    rows = _rows(events, kernel)
    table = pandas.DataFrame(rows, columns=None if rows else list(COLUMNS))
    table.attrs["cpu"] = cpu
    return table


def write(path: str | os.PathLike[str], events: Sequence[Event], kernel: Sequence[KernelEvent] = ()) -> None:
    """The same as CSV, with every number whole. UsageError: it cannot be there. HostError: the disk is full."""
    rows = _rows(events, kernel)
    columns = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(columns), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_whole(path, "table", text.getvalue().encode())


def _rows(events: Sequence[Event], kernel: Sequence[KernelEvent]) -> list[dict[str, Any]]:
    told: list[Event | KernelEvent] = list(events)
    if kernel:
        told = sorted([*told, *kernel], key=lambda event: event.time_ns)
    start_ns = told[0].time_ns if told else 0
    return [_row(event, (event.time_ns - start_ns) / 1e9) for event in told]


def _row(told: Event | KernelEvent, time_s: float) -> dict[str, Any]:
    row: dict[str, Any] = {"seq": None, "time_s": time_s, "actor": told.actor, "event": told.name, "queue": None}
    if isinstance(told, Event):
        return {**row, "seq": told.seq, "queue": told.queue, **told.values}
    return {**row, **told.values, "host_cpu": told.host_cpu, "text": told.text}
