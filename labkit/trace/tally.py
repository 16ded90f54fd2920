"""What is new, for who cannot look at each event? How many by time and thread, the rare ones, the last kick."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from labkit.native import ffi, lib
from labkit.trace.events import Actor, Event, Kind, actor_text
from labkit.trace.feed import RECORD, Feed
from labkit.trace.recorded import event

COLUMN_NS = 20_000_000
RARE_KEPT = 512
BATCH = 256
FREQUENT = frozenset(
    {
        *(Kind.KICK_TRAP, Kind.KICK_IGNORED, Kind.KICK_EVENTFD, Kind.QUEUE_NOTIFY, Kind.REQUEST, Kind.INTERRUPT),
        *(Kind.REGISTER, Kind.FORWARD, Kind.FRAME, Kind.CHAIN, Kind.INTX, Kind.STEP, Kind.STEP_DONE),
        *(Kind.WANTS_LOCK, Kind.WOKEN, Kind.EMPTY),
    }
)
RARE = frozenset(Kind) - FREQUENT


class Tally:
    """Of one feed, by one reader. The counting is done in the C core: a storm has a hundred thousand events a second.

    `rare` holds the newest of them, oldest first. `new` and `lost` count on until whoever reads them sets them to 0.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed, self.seen, self.lost, self.new = feed, 0, 0, 0
        self.rare: deque[Event] = deque(maxlen=RARE_KEPT)
        self._tally = ffi.new("lk_tally *", {"column_ns": COLUMN_NS, "rare": sum(1 << kind for kind in RARE)})
        self._out = ffi.new("lk_event[]", BATCH)
        self.columns = len(self._tally.columns)
        self._cells = self.columns * len(self._tally.counts[0])

    def look(self) -> None:
        """Count what has come since the last look; `new` says how many, `lost` how many nobody will see any more."""
        before = self.seen
        rare, self.seen, lost = self._feed.tally(self._tally, before, self._out)
        self.rare.extend(event(record) for record in rare)
        self.lost += lost if before else 0
        self.new += self.seen - before

    @property
    def kick(self) -> Event | None:
        """The newest kick that the guest made, as whoever took it told; None: there was none."""
        if not self._tally.kick.seq:
            return None
        return event(RECORD.unpack(ffi.buffer(ffi.addressof(self._tally, "kick"))))

    def newest(self, most: int) -> list[Event]:
        """The last events of any kind, as far as looked, oldest first."""
        return [event(record) for record in self._feed.newest(self.seen, most)]

    def counts(self, lanes: Iterable[int], end_ns: int) -> dict[int, list[int]]:
        """For each lane: events in each column, up to the column in which `end_ns` is. The first is the oldest."""
        last = end_ns // COLUMN_NS
        at, flat = ffi.unpack(self._tally.columns, self.columns), ffi.unpack(self._tally.counts[0], self._cells)
        step = self._cells // self.columns
        starts = [column % self.columns for column in range(last - self.columns + 1, last + 1)]
        rows = [place * step if last - self.columns < at[place] <= last else None for place in starts]
        return {lane: [0 if row is None else flat[row + lane] for row in rows] for lane in lanes}


def lane_of(one: Event) -> str:
    """Whose lane an event is in: "guest" for the steps of its driver, else the thread's."""
    return "guest" if one.kind in (Kind.STEP, Kind.STEP_DONE) else one.actor


def lanes(vcpus: int) -> dict[str, int]:
    """The lanes of a machine by name, in the order to show them, with their place in the core's table."""
    threads = {actor_text(actor): lib.LANE_THREADS + actor for actor in Actor if actor is not Actor.VCPU0}
    cpus = {f"vcpu{index}": lib.LANE_VCPU0 + index for index in range(vcpus)}
    order = ("iothread", "backend", "owner", "host")
    return {"guest": lib.LANE_GUEST} | cpus | {name: threads[name] for name in order}
