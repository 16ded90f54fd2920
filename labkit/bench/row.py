"""What is a row of the bench? A figure, its raw floor measured in turns with it, and how far the two are apart."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

PER_S = "/s"  # how the unit of a throughput ends, of which more is better
REQUESTS_PER_S, PAGES_PER_S, PERCENT = f"requests{PER_S}", f"pages{PER_S}", "%"
OF_A_CORE = "% of a core"


@dataclass(frozen=True)
class Effort:
    """How often each pair of figures is taken, how much the guest does for one, and who executes it."""

    repetitions: int
    kick_repetitions: int  # more of them: wake-ups make kicks the noisiest figure
    kicks: int  # in one batch; the guest reports the time of each batch
    trap_batches: int
    ioeventfd_batches: int
    requests: int
    events: int
    characters: int = 200  # written one by one by a guest that spins
    cpu: str = "auto"  # as `labkit.boot` takes it


FULL = Effort(21, 61, kicks=250, trap_batches=10, ioeventfd_batches=100, requests=1000, events=200_000)
QUICK = Effort(3, 3, kicks=50, trap_batches=4, ioeventfd_batches=10, requests=100, events=100_000, characters=50)


@dataclass(frozen=True)
class Samples:
    """Figures of labkit and of its floor, in the order they were taken, in the unit of the row."""

    values: tuple[float, ...]
    floors: tuple[float, ...]


@dataclass(frozen=True)
class Target:
    """A promise: `quantity` ("ratio", or "value" in the row's unit) is at most `most`."""

    quantity: str
    most: float


@dataclass(frozen=True)
class Spec:
    """A row before it is measured: what its figure and its floor are."""

    name: str
    unit: str
    what: str
    floor_is: str
    measure: Callable[[Effort], Samples]
    target: Target | None = None
    why_not: Callable[[], str] = str  # what keeps this machine from showing it; empty if nothing does


@dataclass(frozen=True)
class Peer:
    """The same guest binary under another VMM, and under labkit in turns with it, both in the row's unit."""

    value: float
    own: float
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A measured row. 1.0 is perfect and larger is worse, in every ratio, for times and throughputs alike."""

    spec: Spec
    samples: Samples
    peer: Peer | None = None
    note: str = ""

    @property
    def value(self) -> float:
        """Labkit's figure: the median."""
        return statistics.median(self.samples.values)

    @property
    def floor(self) -> float:
        """What the same costs with nothing of the lab around it: the median."""
        return statistics.median(self.samples.floors)

    @property
    def ratio(self) -> float:
        """value / floor for times, floor / value for throughputs."""
        return worse(self.spec, self.value, self.floor)

    @property
    def peer_ratio(self) -> float | None:
        """Labkit against the peer, the same way round: below 1.0 labkit is faster."""
        return worse(self.spec, self.peer.own, self.peer.value) if self.peer else None

    @property
    def met(self) -> bool | None:
        """Is the target reached? None without one."""
        if self.spec.target is None:
            return None
        reached: float = getattr(self, self.spec.target.quantity)
        return reached <= self.spec.target.most

    def as_json(self) -> dict[str, Any]:
        """The row as `labkit bench --json` gives it; spreads are interquartile ranges as a share of the median."""
        return {
            "row": self.spec.name,
            "value": self.value,
            "unit": self.spec.unit,
            "floor": self.floor,
            "ratio": self.ratio,
            "peer": self.peer_ratio,
            "peer_value": self.peer.value if self.peer else None,
            "peer_own": self.peer.own if self.peer else None,
            "peer_note": self.peer.note if self.peer else "",
            "target": asdict(self.spec.target) if self.spec.target else None,
            "met": self.met,
            "spread": spread(self.samples.values),
            "floor_spread": spread(self.samples.floors),
            "repetitions": len(self.samples.values),
            "what": self.spec.what,
            "floor_is": self.spec.floor_is,
            "note": self.note,
        }


def worse(spec: Spec, value: float, reference: float) -> float:
    """How many times worse `value` is than `reference`."""
    return reference / value if spec.unit.endswith(PER_S) else value / reference


def spread(figures: tuple[float, ...]) -> float:
    """Interquartile range as a share of the median; 0 for a single figure."""
    if len(figures) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(figures, n=4, method="inclusive")
    return (high - low) / middle


def interleaved(value: Callable[[], float], floor: Callable[[], float], repetitions: int) -> Samples:
    """A B A B ...: what disturbs a shared machine disturbs both. The first pair only warms up."""
    pairs = [(value(), floor()) for _ in range(repetitions + 1)][1:]
    return Samples(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))


def settled(kicks_ns: list[float]) -> float:
    """The median of the second half of a kick loop's batches.

    A kick costs more when it has to wake its reader, and how often that happens settles only after some thousand.
    """
    return statistics.median(kicks_ns[len(kicks_ns) // 2 :])
