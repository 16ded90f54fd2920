"""What does a screen look like on a page without a kernel? Tables and text that no chance changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from labkit import views

Scene = dict[str, Any]

COUNTS = ("trapped", "signalled", "drained", "num", "avail", "used", "last_avail", "in_flight")


def html(scene: Scene) -> str:
    """A table of registers, one of queues, one of changes, for each machine. No fd, time or id is in them."""
    return "".join(part for machine in scene.get("machines", ()) for part in _tables(machine))


def _tables(machine: Scene) -> Iterator[str]:
    about = {"state": state(machine), "device": device(machine)}
    about |= {one["name"]: one["text"] for one in machine.get("proxy", ())}
    yield views.named(machine["name"], about)
    if queues := machine.get("queues"):
        headings = ("queue", "owner", "port", *COUNTS)
        rows = [
            (one["index"], one["owner"], one["port"], *("–" if one[name] is None else one[name] for name in COUNTS))
            for one in queues
        ]
        yield views.table(f"queues and notifiers of {machine['name']}", headings, rows)
    if changes := machine.get("changes"):
        caption = f"who owned the notifiers of {machine['name']}, newest first"
        yield views.table(caption, ("queue", "change", "rule"), changes)


def plain(scene: Scene) -> str:
    """The same in a few lines: what every run shows alike."""
    return "\n".join(_lines(machine) for machine in scene.get("machines", ())) or "screen"


def _lines(machine: Scene) -> str:
    values = {"state": state(machine), "device": device(machine)}
    values |= {one["name"]: one["text"] for one in machine.get("proxy", ()) if one["name"] in ("STATUS", "COMMAND")}
    values |= {f"queue {one['index']}": f"notifier owned by {one['owner']}" for one in machine.get("queues", ())}
    return views.lines(f"screen of {machine['name']}", values)


def state(machine: Scene) -> str:
    """In words, with what has to be known."""
    said, more = machine["state"], machine.get("note", "")
    return f"{said}: {more}" if more and more != said else said


def device(machine: Scene) -> str:
    """What it is; which CPU it has is said as everywhere."""
    facts = machine.get("facts")
    return f"virtio-{facts['device']}, rules {facts['revision']}, {views.cpu_note(facts['cpu'])}" if facts else "-"
