"""What became of a machine that ran once? `labkit.replay(path)`: its recording, at any moment, without any CPU.

State is a fold of the events: after event n it is what it was before, and what event n says (fold.py).
"""

from __future__ import annotations

import math
import os
from functools import cached_property
from typing import TYPE_CHECKING

from labkit.errors import UsageError
from labkit.trace import Trace
from labkit.trace.events import Event, State
from labkit.trace.fields import DEVICE, NONE, label
from labkit.trace.recorded import Recorded, Values, event
from labkit.virtio.looks import MachineLook

if TYPE_CHECKING:
    from labkit.recording.moments import Difference, Moments
    from labkit.recording.parts import RecordedProxy


class Moment(MachineLook):
    """A machine at one position of its recording, under the names that a live one has. It does not move."""

    def __init__(self, recorded: Recorded, position: int, values: Values | None = None) -> None:
        self._recorded, self._facts = recorded, recorded.facts
        self._position, self._at = position, values

    # -- where ---------------------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """How many events had happened: the `seq` of the last of them."""
        return self._position

    @property
    def event(self) -> Event | None:
        """The last event that had happened; None before the first one that is kept."""
        at = self.position - self._recorded.lost
        return event(self._recorded.records[at - 1]) if at > 0 else None

    @property
    def time_s(self) -> float:
        """Seconds from the first event that is kept to this one; 0 before it."""
        at = self.position - self._recorded.lost
        records = self._recorded.records
        return (records[at - 1][1] - records[0][1]) / 1e9 if at > 0 else 0.0

    def time_of(self, event: Event) -> float:
        """Seconds from the first event that is kept to this one."""
        return (event.time_ns - self._recorded.records[0][1]) / 1e9

    # -- what ----------------------------------------------------------------------------------------------------------

    def _now(self) -> Values:
        assert self._at is not None
        return self._at

    @property
    def name(self) -> str:
        """As it was called: "vm0", "vm1" ..."""
        return self._recorded.facts.name

    @property
    def cpu(self) -> str:
        """Which back end had run the guest."""
        return f"replay of a recording made on {self._facts.cpu}"

    @property
    def state(self) -> str | None:
        """ "running", "paused", "crashed", "exited" or "closed"."""
        state = self._now()["run_state", DEVICE]
        return None if state is None else State(state).name.lower()

    @property
    def exit_code(self) -> int | None:
        """(v << 1) | 1 after the guest wrote v to port 0xf4; None before."""
        code = self._now()["exit_code", DEVICE]
        return None if code == NONE else code

    @property
    def crash(self) -> str | None:
        """Where the guest had crashed; None if it had not."""
        vcpu, rip = self._now()["crash_vcpu", DEVICE], self._now()["crash_rip", DEVICE]
        return None if vcpu in (None, NONE) or rip is None else f"vCPU {vcpu} crashed at rip={rip:#x}"

    @cached_property
    def proxy(self) -> RecordedProxy:
        """The virtio device: registers, flags, queues."""
        from labkit.recording.parts import RecordedProxy

        return RecordedProxy(self._now, self._facts)

    def facts(self) -> dict[str, object]:
        """What does not change: name, cpu, guest, device, revision, vcpus, memory_mib ..."""
        return {**self._facts._asdict(), "labkit": self._recorded.labkit}

    def values(self) -> dict[str, int | None]:
        """Every field as a number: "STATUS", "queue 0 avail.idx" ... -1: there is no such thing, None: not known."""
        return {label(key): value for key, value in self._now().items()}

    # -- for people ----------------------------------------------------------------------------------------------------

    def _caption(self) -> str:
        return f"{self.name} after event {self.position}, {self.time_s:.6f} s"


class Recording(Moment):
    """A recording, with a cursor that moves over its events; it begins at the end, where the machine was saved.

    Views that were taken from it follow the cursor. `step`, `back`, `at` and `seek` return the moment they come to,
    which stays where it is: two of them can be compared, `recording.diff(recording.at(0.1), recording.at(0.2))`.
    """

    def __init__(self, recorded: Recorded) -> None:
        super().__init__(recorded, recorded.position())
        self.trace = Trace(recorded, lambda: recorded, recorded.facts.cpu)

    @cached_property
    def _moments(self) -> Moments:
        from labkit.recording.moments import Moments

        return Moments(self._recorded)

    def _now(self) -> Values:
        return self._moments.at(self._position)

    @property
    def start(self) -> int:
        """The position before the first event that is kept: 0, or how many were lost."""
        return self._recorded.lost

    @property
    def end(self) -> int:
        """The position after the last event."""
        return self._recorded.position()

    @property
    def saved_by(self) -> str:
        """The version of labkit that made it."""
        return self._recorded.labkit

    def moment(self, position: int) -> Moment:
        """The machine at a position. The cursor stays. UsageError: there is no such position."""
        if isinstance(position, bool) or not isinstance(position, int) or not self.start <= position <= self.end:
            raise UsageError(f"position {position!r}: this recording has {self.start} to {self.end}")
        return Moment(self._recorded, position, self._moments.at(position))

    # -- moving --------------------------------------------------------------------------------------------------------

    def seek(self, position: int) -> Moment:
        """To after the event with that `seq`; `start` is before all. UsageError: there is no such position."""
        moment = self.moment(position)
        self._position = position
        return moment

    def step(self, events: int = 1) -> Moment:
        """That many events further, or back if negative; no further than to `start` or `end`."""
        if isinstance(events, bool) or not isinstance(events, int):
            raise UsageError(f"step({events!r}): a whole number of events")
        return self.seek(min(max(self._position + events, self.start), self.end))

    def back(self, events: int = 1) -> Moment:
        """The same the other way."""
        return self.step(-events)

    def at(self, t_s: float) -> Moment:
        """To after the last event that came within `t_s` seconds of the first one; before 0, that is `start`."""
        if isinstance(t_s, bool) or not isinstance(t_s, int | float) or math.isnan(t_s):
            raise UsageError(f"at({t_s!r}): seconds since the first event")
        return self.seek(self._moments.position_at(t_s))

    # -- comparing -----------------------------------------------------------------------------------------------------

    def diff(self, before: Moment | int, after: Moment | int | None = None) -> Difference:
        """What differs between two moments or positions; `after` None: the cursor. Iterate for name, before, after."""
        from labkit.recording.moments import Difference

        one, other = self._place(before), self._place(self._position if after is None else after)
        return Difference(one._now(), other._now(), f"from event {one.position} to {other.position}")

    def _place(self, where: Moment | int) -> Moment:
        if isinstance(where, Moment):
            if where._recorded is not self._recorded:
                raise UsageError("a moment of another recording: its queues may be others")
            return where
        return self.moment(where)


def replay(path: str | os.PathLike[str]) -> Recording:
    """A recording that `vm.trace.save(path)` has written. No CPU and no C core is needed for it.

    UsageError: no such file, no recording, a damaged one, or one that a newer labkit has written.
    """
    from labkit.trace.file import load

    return Recording(load(path))
