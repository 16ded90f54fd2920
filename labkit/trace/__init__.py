"""What happened in a machine, and in which order? `vm.trace`: the events, as a list, as text, as a DataFrame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit import views
from labkit.trace.events import Event, Kind
from labkit.trace.feed import Feed

if TYPE_CHECKING:
    import pandas

__all__ = ["Event", "Kind", "Trace"]


class Trace:
    """The events of one machine. Watching changes nothing: a trace only reads."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def mark(self) -> int:
        """The present position: pass it as `since` to see only what comes after."""
        return self._feed.position()

    @property
    def lost(self) -> int:
        """Events that were overwritten before anyone read them: the feed keeps the newest."""
        return self._feed.read()[1]

    def events(self, *kinds: str, queue: int | None = None, since: int = 0) -> list[Event]:
        """Events in order, oldest first; only of the given kinds ("owner", "assign", ...) and queue if given."""
        return [
            event
            for event in self._feed.read(since)[0]
            if (not kinds or event.name in kinds) and (queue is None or event.queue == queue)
        ]

    def frame(self, *kinds: str, queue: int | None = None, since: int = 0) -> pandas.DataFrame:
        """The same as a DataFrame: seq, time_s from the first row, actor, event, queue, and one column a field."""
        from labkit.trace.frame import frame

        return frame(self.events(*kinds, queue=queue, since=since))

    def _repr_html_(self) -> str:
        rows = [
            (e.actor, "" if e.queue is None else e.queue, e.name, views.fields(e.values)) for e in self.events()[-20:]
        ]
        return views.table("last events", ("thread", "queue", "event", "fields"), rows)

    def __repr__(self) -> str:
        return f"<trace: {self.mark()} events>"
