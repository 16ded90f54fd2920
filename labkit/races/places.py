"""Where does an actor stand? The places of native/gates.c in words, for a stepper and for the stacks of a deadlock."""

from __future__ import annotations

from labkit.native import lib
from labkit.trace import gates

WANTS = {
    lib.WANTS_BIG_LOCK: "before the big lock",
    lib.WANTS_BACKENDS_LOCK: "before the backend's lock",
    lib.WANTS_VCPU_OUT: "waiting for a vCPU to stop",
    lib.WANTS_LOOP_GONE: "waiting for a loop's thread to end",
    lib.WANTS_HANDLER_DONE: "waiting for the iothread's handler to be done",
}


def where(place: int, kind: int) -> str:
    """A PLACE_*; `kind`: of the event it stands behind, or WANTS_* of what it waits for."""
    return {
        lib.PLACE_AWAY: "running",
        lib.PLACE_GATE: f"behind {gates.gate_of(kind)}",
        lib.PLACE_LOCK: WANTS.get(kind, ""),
        lib.PLACE_IDLE: "idle",
        lib.PLACE_STOPPED: "stopped with the machine",
    }[place]
