"""What if a step of the rules were missing? A mutation for each step of each row, and each part of START and STOP.

`labkit.races.scenarios` has the orders that miss them. A step that nobody can miss is in NOBODY_MISSES, and why.
Such a mutation takes effect while a schedule is played, and not while its machine is made and rewound.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from labkit.races import scenarios
from labkit.races.scenario import Scenario
from labkit.trace.events import Cause
from labkit.virtio.mutations import Mutation, without_part, without_step_of
from labkit.virtio.notifier import REVISIONS

_NO_VECTORS = "a vector is in use while a register names it, and the reset has cleared those"
_STORES_ZERO = "the reset of the virtio device stores a status of 0 itself"
_STOPPED = "a machine that goes on was paused, and the pause has stopped the notifiers already"
_NEVER = (
    "a backend that gives has stopped them for good when it took: they are not started then, and the row does nothing"
)
_SAME = "it is the same status once more, for devices that listen; the lab's are told by the engine in any case"
_LIKE_TODAY = ("merged", "0.14", "today")
_BY_ROW = (
    ("STATUS_ZERO-without-STORE_STATUS", _STORES_ZERO, REVISIONS),
    ("STATUS_ZERO-without-RELEASE_VECTORS", _NO_VECTORS, REVISIONS),
    ("PFN_ZERO-without-RELEASE_VECTORS", _NO_VECTORS, REVISIONS),
    ("BACKEND_GIVES-without-STOP", _NEVER, ("v6",)),
    ("BACKEND_GIVES-without-CLEAR_PROPERTY", _NEVER, ("v6",)),
    ("DEVICE_RESET-without-FORGET_BUS_MASTER_BUG", "today's rules never note it (R13)", ("today",)),
    ("RESUME-without-STORE_STATUS_AGAIN", _SAME, _LIKE_TODAY),
    ("RESUME-otherwise-without-STOP", _STOPPED, REVISIONS),
    ("RESUME-otherwise-without-STORE_STATUS_AGAIN", _SAME, _LIKE_TODAY),
    ("PAUSE-without-STORE_STATUS_AGAIN", _SAME, _LIKE_TODAY),
    ("LOAD-without-LOOK_FOR_BUS_MASTER_BUG", "it looks before the status is stored, and finds 0", ("merged", "0.14")),
    ("start-without-SIGNAL", "the eventfd is born with a count of 1 (R3), which is a kick already", ("today",)),
)
NOBODY_MISSES = {
    f"{revision}:{left_out}": why for revision in REVISIONS for left_out, why, where in _BY_ROW if revision in where
}  # name -> why nothing is another way without it


class LeftOut(NamedTuple):
    """One step that is missing: of a cause's row, or of "start" or "stop"."""

    revision: str
    of: Cause | str
    mutation: Mutation

    @property
    def name(self) -> str:
        """ "v6:PAUSE-without-STOP"."""
        return self.mutation.name

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """In which it may be missed."""
        return scenarios.of(self.of, self.revision)


def everything(revision: str) -> Iterator[LeftOut]:
    """Each step of the rules of a revision, left out."""
    rules = REVISIONS[revision]
    for cause, row in rules.rows.items():
        for steps, way in ((row.steps, ""), (row.otherwise, "otherwise-")):
            for step in steps:
                name = f"{revision}:{cause.name}-{way}without-{step.name}"
                yield LeftOut(
                    revision, cause, Mutation(name, rules=without_step_of(cause, step, otherwise=bool(way)), late=True)
                )
    for of, batches in (("start", rules.start), ("stop", rules.stop)):
        for part in (part for batch in batches for part in batch):
            name = f"{revision}:{of}-without-{part.name}"
            yield LeftOut(revision, of, Mutation(name, rules=without_part(part), late=True))


@cache
def by_name() -> dict[str, Mutation]:
    """As `boot(mutations=...)` names them: "v6:PAUSE-without-STOP", "v6:stop-without-DRAIN"."""
    return {one.name: one.mutation for revision in REVISIONS for one in everything(revision)}
