"""How far is the lab from what this machine can do at best? Every figure beside its raw floor, from one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from labkit import abi
from labkit import cpu as cpus
from labkit.bench.qemu import Qemu
from labkit.bench.row import FULL, Effort, Row, Spec
from labkit.bench.rows import BY_NAME, rows_on
from labkit.errors import HostError, UsageError
from labkit.memory import GuestMemory

__all__ = ["BY_NAME", "PEERS", "Report", "run"]
PEERS = ("qemu",)
NO_BACK_END = "none"


@dataclass(frozen=True)
class Report:
    """What one run measured. `cpu` is the back end; `notes` say what was left out or not compared, and why."""

    cpu: str
    rows: tuple[Row, ...]
    peer: str | None = None
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The report as `labkit bench --json` gives it."""
        rows = [row.as_json() for row in self.rows]
        return {"cpu": self.cpu, "rows": rows, "peer": self.peer, "notes": list(self.notes)}


def run(
    names: Iterable[str] | None = None,
    effort: Effort = FULL,
    peer: str | None = None,
    progress: Callable[[str], None] | None = None,
    cpu: str = "auto",
) -> Report:
    """Measure the named rows, or all, on back end `cpu` (see `labkit.boot`).

    UsageError: no such row, peer or back end. HostError: this host cannot.
    """
    wanted = _known(names)
    back_end = _back_end(cpu)
    specs, left_out = _chosen(wanted, back_end)
    effort = replace(effort, cpu=cpu if back_end == NO_BACK_END else back_end)
    other, why_not = _peer(peer, effort)
    rows = []
    for spec in specs:
        if progress is not None:
            progress(spec.name)
        samples = spec.measure(effort)
        rows.append(Row(spec, samples, other.compare(spec) if other else None, spec.why_not()))
    notes = other.notes if other else why_not
    return Report(back_end, tuple(rows), other.version if other else None, (*left_out, *notes))


def _known(names: Iterable[str] | None) -> list[str] | None:
    if names is None:
        return None
    wanted = list(names)
    unknown = [name for name in wanted if name not in BY_NAME]
    if unknown or not wanted:
        raise UsageError(f"no row {', '.join(unknown) or 'named'}; the rows are {', '.join(BY_NAME)}")
    return wanted


def _chosen(wanted: list[str] | None, back_end: str) -> tuple[list[Spec], list[str]]:
    """The rows to measure, and what is said of those that `back_end` has not."""
    specs, left_out = rows_on(back_end)
    if wanted is None:
        return list(specs.values()), list(dict.fromkeys(left_out.values()))
    for name in wanted:
        if name in left_out:
            raise UsageError(left_out[name])
    return [specs[name] for name in wanted], []


def _peer(name: str | None, effort: Effort) -> tuple[Qemu | None, list[str]]:
    """The peer, or why there is none."""
    if name is None:
        return None, []
    if name not in PEERS:
        raise UsageError(f"peer {name!r}: this version knows {', '.join(PEERS)}")
    try:
        return Qemu(effort), []
    except HostError as error:
        return None, [str(error)]


def _back_end(wanted: str) -> str:
    """The back end that `wanted` is here. Without any, "auto" is none: some rows need no guest."""
    memory = GuestMemory(abi.MEMORY_MIN_MIB)
    try:
        back_end = cpus.choose(wanted, memory, 1)
        back_end.close()
        return back_end.name
    except HostError:
        if wanted != "auto":
            raise
        return NO_BACK_END
    finally:
        memory.close()
