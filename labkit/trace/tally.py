"""What is new, for who cannot look at each event? How many by time and thread, the rare ones themselves, the last kick."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from labkit.native import ffi, lib
from labkit.trace.events import Actor, Event, Kind, actor_text
from labkit.trace.feed import BATCH, RECORD, Feed
from labkit.trace.recorded import event

COLUMN_NS = 20_000_000
RARE_KEPT = 512
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

    `rare` holds the newest of them, oldest first; `lost` counts the events that were overwritten before a look.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed, self.seen, self.lost, self.new = feed, 0, 0, 0
        self.rare: deque[Event] = deque(maxlen=RARE_KEPT)
        self._tally = ffi.new("lk_tally *", {"column_ns": COLUMN_NS})
        self._where = ffi.new("uint32_t[]", BATCH)
        self._mask = sum(1 << kind for kind in RARE)
        self.columns = len(self._tally.columns)

    def look(self) -> None:
        """Count what has come since the last look; `new` says how many, `lost` how many of them nobody will see."""
        before = self.seen
        batches, self.lost = self._feed.batches(before)
        for batch, count in batches:
            found = lib.lk_tally_events(self._tally, batch, count, before, self._mask, self._where)
            raw = ffi.buffer(batch)
            for place in self._where[0:found]:
                self.rare.append(event(RECORD.unpack_from(raw, place * RECORD.size)))
            if count:
                self.seen = max(self.seen, batch[count - 1].seq)
        self.new = self.seen - before - self.lost if before else 0

    @property
    def kick(self) -> Event | None:
        """The newest kick that the guest made, as whoever took it told; None: there was none."""
        if not self._tally.kick.seq:
            return None
        return event(RECORD.unpack(ffi.buffer(ffi.addressof(self._tally, "kick"))))

    def newest(self, most: int) -> list[Event]:
        """The last events of any kind, as far as looked, oldest first."""
        return [event(record) for record in self._feed.records_between(max(0, self.seen - most), self.seen)]

    def counts(self, lanes: Iterable[int], end_ns: int) -> dict[int, list[int]]:
        """For each lane: events in each column, up to the column in which `end_ns` is. The first is the oldest."""
        last, columns = end_ns // COLUMN_NS, self._tally.columns
        places = [column % self.columns for column in range(last - self.columns + 1, last + 1)]
        valid = [last - self.columns < columns[place] <= last for place in places]
        counts = self._tally.counts
        return {
            lane: [counts[place][lane] if ok else 0 for place, ok in zip(places, valid, strict=True)] for lane in lanes
        }


def lane_of(one: Event) -> str:
    """Whose lane an event is in: "guest" for the steps of its driver, else the thread's."""
    return "guest" if one.kind in (Kind.STEP, Kind.STEP_DONE) else one.actor


def lanes(vcpus: int) -> dict[str, int]:
    """The lanes of a machine by name, in the order to show them, with their place in the core's table."""
    threads = {actor_text(actor): lib.LANE_THREADS + actor for actor in Actor if actor is not Actor.VCPU0}
    cpus = {f"vcpu{index}": lib.LANE_VCPU0 + index for index in range(vcpus)}
    order = ("iothread", "backend", "owner", "host")
    return {"guest": lib.LANE_GUEST} | cpus | {name: threads[name] for name in order}
