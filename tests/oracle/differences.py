"""Where does labkit's revision "today" not do what QEMU does, and why? What is not listed here must be the same."""

from __future__ import annotations

import difflib
from typing import NamedTuple


class Difference(NamedTuple):
    """Why, and which lines: those of QEMU alone begin with `- `, those of labkit alone with `+ `."""

    reason: str
    lines: tuple[str, ...]


_WHOLE = (
    "a register gets an access that begins at it, whatever its width, as in the patch; QEMU 7.2 under KVM "
    "first splits one that is not aligned to its width"
)

DIFFERENCES: dict[str, Difference] = {  # scenario -> difference
    "status_wide": Difference(
        f"{_WHOLE}, so that the upper half reads the device's config",
        ("- port_in:bar0+18:4 -> answer=0 value=0x80000003", "+ port_in:bar0+18:4 -> answer=0 value=0x3"),
    ),
    "queue_sel": Difference(
        "the lab's transport has room for 64 queues in every revision, and QEMU 7.2 for 1024",
        (
            *("- port_in:bar0+14:2 -> answer=0 value=0x40", "+ port_in:bar0+14:2 -> answer=0 value=0x3f"),
            *("- port_in:bar0+14:2 -> answer=0 value=0x3ff", "+ port_in:bar0+14:2 -> answer=0 value=0x3f") * 3,
        ),
    ),
    "kick_beside": Difference(
        f"{_WHOLE}, so that a part of it is a kick",
        ("- vcpu queue_notify 0", "- main queue_notify 0") * 2,
    ),
}


def between(qemu: list[str], labkit: list[str]) -> tuple[str, ...]:
    """The lines that differ, in order."""
    diff = difflib.unified_diff(qemu, labkit, n=0, lineterm="")
    changed = [line for line in diff if not line.startswith(("---", "+++", "@@"))]
    return tuple(f"{line[0]} {line[1:].strip()}" for line in changed)
