"""`labkit replay`: what does a recording say of its machine?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labkit.cli.common import json_option, print_json

if TYPE_CHECKING:
    from labkit.recording import Recording


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--at", "at_s", type=float, help="Seconds since the first event. Default: the end.")
@click.option("--csv", type=click.Path(path_type=Path), help="Write all events as a table there.")
@click.option("--perfetto", type=click.Path(path_type=Path), help="Write a trace for ui.perfetto.dev there.")
@json_option
def replay(file: Path, at_s: float | None, csv: Path | None, perfetto: Path | None, as_json: bool) -> None:
    """Show a recording that `vm.trace.save` has made: the machine, its state, and who owned its notifiers.

    No CPU is needed, and no /dev/kvm. --perfetto needs the extra labkit[perfetto].
    """
    import labkit

    recording = labkit.replay(file)
    if csv is not None:
        recording.trace.csv(csv)
    if perfetto is not None:
        recording.trace.perfetto(perfetto)
    if at_s is not None:
        recording.at(at_s)
    if as_json:
        print_json(_replayed(recording))
    else:
        click.echo("\n".join(_story(recording)))


def _owner_changes(recording: Recording) -> list[dict[str, Any]]:
    """Each change of owner up to the cursor."""
    return [
        {"seq": e.seq, "time_s": recording.time_of(e), "thread": e.actor, "queue": e.queue}
        | {name: e[name] for name in ("before", "after", "rule", "cause")}
        for e in recording.trace.events("owner")
        if e.seq <= recording.position
    ]


def _replayed(recording: Recording) -> dict[str, Any]:
    return {
        **recording.facts(),
        "events": recording.end,
        "lost": recording.start,
        "position": recording.position,
        "time_s": recording.time_s,
        "state": recording.state,
        "values": recording.values(),
        "notifiers": _owner_changes(recording),
    }


def _story(recording: Recording) -> list[str]:
    lost = f", the first {recording.start} lost" if recording.start else ""
    changes = [
        f"  {c['time_s']:12.6f} s  {c['thread']:<9} queue {c['queue']}: {c['before']} -> {c['after']}, "
        f"{c['cause']} ({c['rule']})"
        for c in _owner_changes(recording)
    ]
    return [
        f"{recording.end} events{lost}; saved by labkit {recording.saved_by}",
        repr(recording),
        repr(recording.proxy),
        *(repr(part) for queue in recording.proxy.queues for part in (queue, queue.notifier)),
        "owners so far" if changes else "no notifier had an owner so far",
        *changes,
    ]
