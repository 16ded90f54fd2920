"""What happened in a machine, and in which order? `vm.trace`: the events, as a list, a DataFrame, a picture, a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from labkit import views
from labkit.errors import UsageError
from labkit.trace.events import Event, Kind
from labkit.trace.recorded import Recorded

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from labkit.trace.kernel import KernelTrace
    from labkit.trace.tracepoints import KernelEvent

__all__ = ["Event", "Kind", "Trace"]


class Source(Protocol):
    """Where events come from: the feed of a machine, or a recording of one."""

    def position(self) -> int:
        """How many events there were so far."""

    def read(self, since: int = 0) -> tuple[list[Event], int]:
        """Events from a position on, and how many of them are lost."""


class Trace:
    """The events of one machine, or of a recording of one. Watching changes nothing: a trace only reads."""

    def __init__(self, source: Source, record: Callable[[], Recorded], cpu: str, board: Any = None) -> None:
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

    def frame(
        self, *kinds: str, queue: int | None = None, since: int = 0, kernel: Sequence[KernelEvent] = ()
    ) -> pandas.DataFrame:
        """The same as a DataFrame: seq, time_s from the first row, actor, event, queue, and one column a field.

        With what `kernel` watched, its tracepoints are rows among them, without `seq`, with a `host_cpu` and KVM's own
        `text`. `.attrs["cpu"]` says which back end ran the guest.
        """
        from labkit.trace.frame import frame

        return frame(self.events(*kinds, queue=queue, since=since), self.cpu, kernel)

    def csv(
        self,
        path: str | os.PathLike[str],
        *kinds: str,
        queue: int | None = None,
        since: int = 0,
        kernel: Sequence[KernelEvent] = (),
    ) -> None:
        """The same as a file, with every number whole.

        `pandas.read_csv(path)` is the frame again; where a column has numbers and words,
        both are words then. UsageError: `path` cannot be written. HostError: the disk is full or fails.
        """
        from labkit.trace.frame import write

        write(path, self.events(*kinds, queue=queue, since=since), kernel)

    def perfetto(self, path: str | os.PathLike[str], *, kernel: Sequence[KernelEvent] = ()) -> None:
        """Write a file for ui.perfetto.dev: a track for each thread and each queue, and for each thread in the kernel.

        Times are CLOCK_MONOTONIC. `kernel` is what `kernel()` watched. UsageError: the extra `labkit[perfetto]` is not
        installed, `path` cannot be written, or the caller is a device's own code. HostError: the disk is full or fails.
        """
        from labkit.trace.perfetto import write

        write(path, self._record(), kernel)

    def kernel(self, *points: str) -> KernelTrace:
        """Watch what KVM does for this machine: `with vm.trace.kernel() as kernel: ...`, or `start()` and `stop()`.

        `points` are names of KVM's tracepoints, "kvm_pio" ...; none: those of kicks, exits and interrupts. Needs root
        and tracefs (HostError if they are not there, with the mend). UsageError: a recording, or no machine of KVM's.
        """
        from labkit.trace.kernel import POINTS, KernelTrace

        if self._board is None:
            raise UsageError("a recording runs no more: the kernel has nothing to tell of it")
        if self.cpu != "kvm":
            raise UsageError(f"this guest runs on the CPU {self.cpu!r}, of which KVM knows nothing: boot(cpu='kvm')")
        return KernelTrace(self._board.threads, points or POINTS)

    def timeline(
        self,
        *,
        since: int = 0,
        until: int | None = None,
        queue: int | None = None,
        seconds: tuple[float, float] | None = None,
        width_in: float = 8.0,
        fold: bool = False,
    ) -> Figure:
        """A picture of the events after position `since`, up to `until` (None: all there are): who did what, when.

        A lane for each thread and for the guest's steps, and a band for each queue (or the one given) that shows its
        notifier's owner, and by which rule. Kicks are marked by the way they came; where they are too many to be told
        apart, it is shown how many they are. The CPU stands above.
        `seconds`: only from one time to another, since the first event. `width_in`: inches; 3.5 is a column of a paper.
        `fold`: long waits in which nothing happens are folded, each to a strip that says how long it is.
        A matplotlib Figure: `.savefig("kicks.pdf")`. UsageError: no such times, or no such width.
        """
        from labkit.trace import drawing, folding, timeline

        events, lost = self._source.read()
        shown = [event for event in events if event.seq > since and (until is None or event.seq <= until)]
        within = timeline.window(events, shown, seconds)
        lanes = timeline.lanes(events, within, since, until, queue, bool(lost))
        span_s = (within.end_ns - within.start_ns) / 1e9
        line = folding.Line(span_s, folding.folds(timeline.moments(lanes), span_s) if fold else ())
        return drawing.draw(lanes, line, within.late_s, views.cpu_note(self.cpu), width_in)

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
