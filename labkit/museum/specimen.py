"""What is a specimen? A bug that was real: what happened, where, how it is brought back, and what breaks then."""

from __future__ import annotations

from typing import NamedTuple

from labkit.races.invariants import Invariant
from labkit.races.scenario import Scenario
from labkit.virtio.mutations import Mutation


class Specimen(NamedTuple):
    """`number`: in the list of docs/museum.md. `schedule`: an order that breaks `invariant`, without a text's head."""

    number: int
    name: str
    happened: str  # to whom, in a sentence or two
    where: str  # QEMU, KVM, ...
    commits: tuple[str, ...]
    rule: str  # "R5"
    mutation: Mutation
    scenario: Scenario
    invariant: Invariant
    schedule: str = ""

    @property
    def order(self) -> str:
        """That schedule with its head, as `labkit.races.replay` takes it."""
        return f"{self.scenario.name}:{self.scenario.fingerprint}:{self.schedule}"
