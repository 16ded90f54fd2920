"""What do the tests of recordings share? Where a fold of the events and the machine itself disagree."""

from __future__ import annotations

from labkit import Machine
from labkit.recording import Recording
from labkit.trace.fields import label
from labkit.trace.recorded import Recorded

RINGS = ("avail_idx", "used_idx")  # a guest may write there whenever it likes


def wrong(recorded: Recorded, leave_out: tuple[str, ...] = ()) -> dict[str, tuple[int | None, int | None]]:
    """Fields that the events tell otherwise than the machine did when it was saved: (told, real)."""
    told = Recording(recorded)._now()
    return {
        label(key): (told[key], real)
        for key, real in recorded.final.items()
        if key[0] not in leave_out and told[key] is not None and real is not None and told[key] != real
    }


def unknown(recorded: Recorded) -> list[str]:
    """Fields that the events do not tell, and the machine did."""
    told = Recording(recorded)._now()
    return [label(key) for key, real in recorded.final.items() if told[key] is None and real is not None]


def recorded(vm: Machine) -> Recorded:
    """What `vm.trace.save` would write."""
    return vm.trace._record()
