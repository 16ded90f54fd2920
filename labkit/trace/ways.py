"""Which way did a kick come? By trap, by its eventfd, found there by a STOP, or from nobody: a synthetic one."""

from __future__ import annotations

from enum import StrEnum

from labkit.trace.events import Event, Kind


class Way(StrEnum):
    """The way of a kick, as far as whoever took it."""

    TRAPPED = "trapped"  # an exit, served by the vCPU's own thread
    SIGNALLED = "signalled"  # matched in the kernel, taken from the eventfd
    FORWARDED = "forwarded"  # trapped, written to the eventfd, taken there
    DRAINED = "drained"  # still in the eventfd when the notifier was stopped (R5)
    SYNTHETIC = "synthetic"  # no guest kicked: the count an eventfd is born with (R3)
    IGNORED = "ignored"  # R12


OF_KIND = {Kind.KICK_TRAP: Way.TRAPPED, Kind.KICK_IGNORED: Way.IGNORED}
TAKEN = {Kind.KICK_EVENTFD: Way.SIGNALLED, Kind.DRAIN: Way.DRAINED}


def way_of(event: Event) -> Way | None:
    """None: it is no kick, or a drain that found nothing. Several at once count as what a guest did, if one did."""
    if event.kind not in TAKEN:
        return OF_KIND.get(event.kind)
    found = {TAKEN[event.kind]: "kicks", Way.FORWARDED: "forwarded", Way.SYNTHETIC: "synthetic"}
    return next((way for way, name in found.items() if event.values.get(name)), None)


def times(event: Event) -> int:
    """How many kicks were taken with one look: an eventfd counts."""
    if event.kind not in TAKEN:
        return 1
    return sum(int(event.values.get(name, 0)) for name in ("kicks", "forwarded", "synthetic"))
