"""How is a machine made wrong on purpose? A mutation takes something out of the rules, the engine or the data path.

The museum has them by name; each brings back a bug that was real, or takes away one step that must be missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple, TypeVar

from labkit.trace.events import Cause
from labkit.virtio.table import Batches, Part, Revision, Row, Step

T = TypeVar("T")


class Mutation(NamedTuple):
    """`rules` changes the table; `engine`, `notifier` and `worker` are mixed into HostNotifiers, HostNotifier and
    Worker, and come first. `core`: MUTATE_* bits, for what the C core does. `late`: where schedules are played, the
    rules are changed for as long as one lasts, and whole while its machine is made and rewound. `driver`: an option of
    the lab's guest, which is wrong then, and not the device.
    """

    name: str
    rules: Callable[[Revision], Revision] | None = None
    engine: type | None = None
    notifier: type | None = None
    worker: type | None = None
    core: int = 0
    late: bool = False
    driver: str = ""


Mutations = Sequence[Mutation]


def mutated_rules(rules: Revision, mutations: Mutations) -> Revision:
    """The table with every change, one after the other."""
    return reduce(lambda table, one: one.rules(table) if one.rules else table, mutations, rules)


def mutated(kind: type[T], mixed_in: Sequence[type | None]) -> type[T]:
    """`kind` with these in front of it."""
    front = tuple(one for one in mixed_in if one is not None)
    return type(kind.__name__, (*front, kind), {}) if front else kind


def core_bits(mutations: Mutations) -> int:
    """For lk_device.mutations."""
    return reduce(lambda bits, one: bits | one.core, mutations, 0)


def driver_options(mutations: Mutations) -> str:
    """For the guest's command line."""
    return " ".join(one.driver for one in mutations if one.driver)


# -- what most of them do to a table -----------------------------------------------------------------------------------


def without_part(part: Part) -> Callable[[Revision], Revision]:
    """START and STOP leave that out."""

    def change(batches: Batches) -> Batches:
        left = (tuple(one for one in batch if one is not part) for batch in batches)
        return tuple(batch for batch in left if batch)

    return lambda rules: rules._replace(start=change(rules.start), stop=change(rules.stop))


def without_parts(*parts: Part) -> Callable[[Revision], Revision]:
    """The same for several."""
    return lambda rules: reduce(lambda table, part: without_part(part)(table), parts, rules)


def without_step_of(cause: Cause, step: Step, *, otherwise: bool = False) -> Callable[[Revision], Revision]:
    """One row has not that step; `otherwise`: not where its condition does not hold."""

    def change(rules: Revision) -> Revision:
        row = rules.rows[cause]
        steps = tuple(one for one in (row.otherwise if otherwise else row.steps) if one is not step)
        row = row._replace(otherwise=steps) if otherwise else row._replace(steps=steps)
        return rules._replace(rows=rules.rows | {cause: row})

    return change


def without_step(step: Step) -> Callable[[Revision], Revision]:
    """No row has that step."""

    def change(row: Row) -> Row:
        steps, otherwise = (tuple(one for one in steps if one is not step) for steps in (row.steps, row.otherwise))
        return row._replace(steps=steps, otherwise=otherwise)

    return lambda rules: rules._replace(rows={cause: change(row) for cause, row in rules.rows.items()})


def with_rows_of(older: Revision, *causes: Cause) -> Callable[[Revision], Revision]:
    """What follows these causes is what followed them then."""
    return lambda rules: rules._replace(rows=rules.rows | {cause: older.rows[cause] for cause in causes})
