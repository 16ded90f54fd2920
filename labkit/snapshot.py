"""What was a machine at one moment, so that it can be taken up there again? Its parts' states, its memory, and a file.

A snapshot is a value: `vm.snapshot()` makes one, `vm.restore(snap)` takes it up. The notifiers are not in it: where it
is taken up the rules make them anew (R10), and the kick of the start finds what was in the rings (R3).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from labkit import abi, views
from labkit.errors import UsageError
from labkit.files import write_whole
from labkit.installation import VERSION
from labkit.state import Number, Shape, State, checked

if TYPE_CHECKING:
    import zipfile  # what the file needs is imported with it: most of what `import labkit` would take

FORMAT = 1
STATE, MEMORY = "state.json", "memory"
STATE_MAX_BYTES = 4 << 20
SHOWN_BYTES = 16
PLAN: Shape = {
    "vcpus": Number(abi.VCPUS_MAX, 1),
    "memory_mib": Number(abi.MEMORY_MAX_MIB, abi.MEMORY_MIN_MIB),
    "intx": Number(1),
}
TEXTS = ("cpu", "guest", "device", "revision")


class Snapshot:
    """A machine at one moment. `plan` says of what machine, `parts` are the states, `memory` is all of guest RAM."""

    def __init__(self, plan: Mapping[str, str | int], running: bool, parts: State, memory: bytes) -> None:
        self.plan, self.running, self.parts, self.memory = dict(plan), running, parts, memory

    def save(self, path: str | os.PathLike[str]) -> None:
        """Into a file, whole or not at all. UsageError: it cannot be there. HostError: the disk is full or fails."""
        import io
        import json
        import zipfile

        head = {"format": FORMAT, "labkit": VERSION, "plan": self.plan, "running": self.running}
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            file.writestr(STATE, json.dumps(head | {"parts": to_text(self.parts)}))
            file.writestr(MEMORY, self.memory)
        write_whole(path, "snapshot", out.getvalue())

    def check_fits(self, plan: Mapping[str, str | int]) -> None:
        """UsageError: it is of another machine; says what differs."""
        odd = [f"{name} {self.plan[name]}, here {plan[name]}" for name in plan if self.plan[name] != plan[name]]
        if odd:
            raise UsageError(f"the snapshot is of another machine: {'; '.join(odd)}")

    def _values(self) -> dict[str, object]:
        used = sum(self.memory[at : at + abi.PAGE_BYTES].count(0) < abi.PAGE_BYTES for at in _pages(self.memory))
        state = "running" if self.running else "paused"
        return {"state": state, **self.plan, "pages in use": f"{used} of {len(self.memory) // abi.PAGE_BYTES}"}

    def _repr_html_(self) -> str:
        return views.named("snapshot", self._values())

    def __repr__(self) -> str:
        return views.lines("snapshot", self._values())


# -- a file ------------------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> Snapshot:
    """A snapshot from a file. UsageError: no such file, none of a snapshot, a damaged one, or one of a newer labkit.

    What the parts' states say is checked when it is taken up, by the parts.
    """
    import zipfile
    import zlib

    path = Path(path)
    try:
        with zipfile.ZipFile(path) as file:
            return _read(file)
    except OSError as error:
        raise UsageError(f"snapshot {path}: {error.strerror}") from error
    except UsageError as error:
        raise UsageError(f"snapshot {path}: {error}") from error
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, RuntimeError, NotImplementedError) as error:
        raise UsageError(f"snapshot {path}: it is damaged, or none ({error})") from error


def _read(file: zipfile.ZipFile) -> Snapshot:
    import json

    head = json.loads(_entry(file, STATE, STATE_MAX_BYTES))
    if not isinstance(head, dict) or not isinstance(head.get("format"), int):
        raise UsageError("it is no snapshot")
    if head["format"] > FORMAT:
        raise UsageError(f"it has format {head['format']}, this labkit reads up to {FORMAT}: update labkit")
    plan = head["plan"]
    said = {name: str(plan.pop(name)) for name in TEXTS}
    numbers = checked("plan", PLAN, plan)
    size = numbers["memory_mib"] << 20
    memory = _entry(file, MEMORY, size)
    if len(memory) != size:
        raise UsageError(f"it has {len(memory)} bytes of memory, and should have {size}")
    return Snapshot(said | numbers, bool(head["running"]), from_text(head["parts"]), memory)


def _entry(file: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Inflated no further than it may be."""
    with file.open(name) as entry:
        content = entry.read(most + 1)
    if len(content) > most:
        raise UsageError(f"{name} is larger than {most} bytes")
    return content


def to_text(value: Any) -> Any:
    """A state as JSON can hold it, which has no bytes."""
    if isinstance(value, bytes):
        import base64

        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {name: to_text(one) for name, one in value.items()}
    return [to_text(one) for one in value] if isinstance(value, list) else value


def from_text(value: Any) -> Any:
    """The state again. ValueError: bytes that are none."""
    if isinstance(value, dict):
        if value.keys() == {"bytes"}:
            import base64

            return base64.b64decode(value["bytes"], validate=True)
        return {name: from_text(one) for name, one in value.items()}
    return [from_text(one) for one in value] if isinstance(value, list) else value


# -- what is different -------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """What differs: a part's value by name, or how many pages of memory, and where."""

    name: str
    before: object
    after: object


class Difference:
    """Between two snapshots. Iterates over changes: name, before, after."""

    def __init__(self, before: Snapshot, after: Snapshot) -> None:
        old, new = dict(_flat(before.parts, "")), dict(_flat(after.parts, ""))
        self._changes = [
            Change(name, _shown(old.get(name)), _shown(new.get(name)))
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
        self.pages = tuple(
            at // abi.PAGE_BYTES for at in _pages(after.memory) if _page(before.memory, at) != _page(after.memory, at)
        )
        if self.pages:
            where = ", ".join(hex(page * abi.PAGE_BYTES) for page in self.pages[:SHOWN_BYTES])
            self._changes.append(Change("memory", "", f"{len(self.pages)} pages: {where}"))

    def __iter__(self) -> Iterator[Change]:
        return iter(self._changes)

    def __len__(self) -> int:
        return len(self._changes)

    def _repr_html_(self) -> str:
        return views.table("from one snapshot to the other", Change._fields, self._changes)

    def __repr__(self) -> str:
        said = {change.name: f"{change.before} -> {change.after}" for change in self}
        return views.lines("from one snapshot to the other", said or {"nothing": "differs"})


def diff(before: Snapshot, after: Snapshot) -> Difference:
    """What changed between two snapshots: registers, ring indices, pages of memory (guest-physical)."""
    return Difference(before, after)


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for at, one in enumerate(value):
            yield from _flat(one, f"{name}[{at}]")
    else:
        yield name, value


def _shown(value: object) -> object:
    if isinstance(value, bytes):
        return value[:SHOWN_BYTES].hex() + ("..." if len(value) > SHOWN_BYTES else "")
    return hex(value) if isinstance(value, int) and value > 9 else value


def _pages(memory: bytes) -> range:
    return range(0, len(memory), abi.PAGE_BYTES)


def _page(memory: bytes, at: int) -> bytes:
    return memory[at : at + abi.PAGE_BYTES]
