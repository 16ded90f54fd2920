"""How far is the lab from what this machine can do at best? Every figure beside its raw floor, from one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from labkit import abi, cpu
from labkit.bench.qemu import Qemu
from labkit.bench.row import FULL, Effort, Row, Spec
from labkit.bench.rows import BY_NAME, SPECS
from labkit.errors import HostError, UsageError
from labkit.memory import GuestMemory

__all__ = ["BY_NAME", "PEERS", "Report", "run"]
PEERS = ("qemu",)


@dataclass(frozen=True)
class Report:
    """What one run measured. `cpu` is the back end; `notes` say what could not be compared, and why."""

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
) -> Report:
    """Measure the named rows, or all. UsageError: no such row or peer. HostError: this host cannot."""
    specs = _chosen(names)
    other, why_not = _peer(peer, effort)
    rows = []
    for spec in specs:
        if progress is not None:
            progress(spec.name)
        samples = spec.measure(effort)
        rows.append(Row(spec, samples, other.compare(spec) if other else None, spec.why_not()))
    notes = other.notes if other else why_not
    return Report(_back_end(), tuple(rows), other.version if other else None, tuple(notes))


def _chosen(names: Iterable[str] | None) -> tuple[Spec, ...]:
    if names is None:
        return SPECS
    wanted = list(names)
    unknown = [name for name in wanted if name not in BY_NAME]
    if unknown or not wanted:
        raise UsageError(f"no row {', '.join(unknown) or 'named'}; the rows are {', '.join(BY_NAME)}")
    return tuple(BY_NAME[name] for name in wanted)


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


def _back_end() -> str:
    """The back end that "auto" takes here."""
    memory = GuestMemory(abi.MEMORY_MIN_MIB)
    try:
        back_end = cpu.choose("auto", memory, 1)
        back_end.close()
        return back_end.name
    except HostError:
        return "none"
    finally:
        memory.close()
