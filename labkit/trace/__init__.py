"""What happened in a machine, and in which order? `vm.trace`: the events, as a list, a DataFrame, a picture, a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from labkit import views
from labkit.errors import UsageError
from labkit.trace.events import Event, Kind
from labkit.trace.recorded import Recorded

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["Event", "Kind", "Trace"]


class Source(Protocol):
    """Where events come from: the feed of a machine, or a recording of one."""

    def position(self) -> int:
        """How many events there were so far."""

    def read(self, since: int = 0) -> tuple[list[Event], int]:
        """Events from a position on, and how many of them are lost."""


class Trace:
    """The events of one machine, or of a recording of one. Watching changes nothing: a trace only reads."""

    def __init__(self, source: Source, record: Callable[[], Recorded], cpu: str, board: object = None) -> None:
        """`record` makes what `save` writes; `cpu` ran the guest: events have times. `board`: of a live one."""
        self._source, self._record, self.cpu, self._board = source, record, cpu, board

    def mark(self) -> int:
        """The present position: pass it as `since` to see only what comes after."""
        return self._source.position()

    @property
    def lost(self) -> int:
        """Events that were overwritten before anyone read them: the feed keeps the newest."""
        return self._source.read()[1]

    def events(self, *kinds: str, queue: int | None = None, since: int = 0) -> list[Event]:
        """Events in order, oldest first; only of the given kinds ("owner", "assign", ...) and queue if given."""
        return [
            event
            for event in self._source.read(since)[0]
            if (not kinds or event.name in kinds) and (queue is None or event.queue == queue)
        ]

    def frame(self, *kinds: str, queue: int | None = None, since: int = 0) -> pandas.DataFrame:
        """The same as a DataFrame: seq, time_s from the first row, actor, event, queue, and one column a field.

        `.attrs["cpu"]` says which back end ran the guest.
        """
        from labkit.trace.frame import frame

        return frame(self.events(*kinds, queue=queue, since=since), self.cpu)

    def timeline(self, *, since: int = 0, until: int | None = None, queue: int | None = None) -> Figure:
        """A picture of the events after position `since`, up to `until` (None: all there are): who did what, when.

        A lane for each thread and for the guest's steps, and a band for each queue (or the one given) in the colour of
        its notifier's owner; the CPU above. A matplotlib Figure: `.savefig("kicks.png")`.
        """
        from labkit.trace.timeline import timeline

        events, lost = self._source.read()
        title = views.cpu_note(self.cpu)
        return timeline(events, title, lost=bool(lost), since=since, until=until, queue=queue)

    def view(self) -> Any:
        """The last seconds and the newest events, live in a cell. UsageError: a recording has no next moment."""
        from labkit.widgets import part

        if self._board is None:
            raise UsageError("a recording stands still: timeline() draws it, and the replay steps through it")
        return part(self._board, "trace")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a recording, for `labkit.replay(path)`: the events that are kept, and what registers and rings hold.

        A running machine goes on afterwards, a closed or crashed one is as it ended. UsageError: `path` cannot be
        written, or the caller is a device's own code. HostError: the disk is full or fails.
        """
        from labkit.trace.file import write

        write(path, self._record())

    def _repr_html_(self) -> str:
        rows = [
            (e.actor, "" if e.queue is None else e.queue, e.name, views.fields(e.values)) for e in self.events()[-20:]
        ]
        return views.table(f"last events, {views.cpu_note(self.cpu)}", ("thread", "queue", "event", "fields"), rows)

    def __repr__(self) -> str:
        return f"<trace: {self.mark()} events, {views.cpu_note(self.cpu)}>"
