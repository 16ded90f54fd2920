"""`labkit migrate`: what happens to a machine that moves, by round, and for how long did nobody run its guest?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labkit import views
from labkit.cli.boot import booted, machine_sentence
from labkit.cli.common import json_option, print_json
from labkit.cli.machines import (
    Console,
    changes,
    kick_sentence,
    kicks,
    machine_options,
    moving_options,
    owner_sentences,
    plan_of,
    read_sentence,
    synthetic_sentences,
    telling,
    why_none,
)
from labkit.errors import UsageError
from labkit.trace.events import Gate

if TYPE_CHECKING:
    from labkit import Machine
    from labkit.migration import Migration, Progress

KERNEL_RUNS_S = 1.0
TOLD = (Gate.CONNECTED, Gate.ROUND_SENT)  # and none while nobody runs the guest: a terminal takes its time


@click.command()
@click.argument("address")
@machine_options
@click.option(
    "--after",
    "after_s",
    type=click.FloatRange(min=0),
    help=f"Seconds that it runs here first. Default: {KERNEL_RUNS_S:g} for a kernel, 0 for the lab's guest.",
)
@click.option("--downtime-ms", type=float, default=5.0, show_default=True, help="The last pages may take so long.")
@click.option("--rounds", type=int, default=16, show_default=True, help="Rounds of pages at most.")
@moving_options
@json_option
def migrate(
    address: str,
    as_json: bool,
    after_s: float | None,
    downtime_ms: float,
    rounds: int,
    tls: Path | None,
    timeout_s: float,
    verbose: bool,
    **options: Any,
) -> None:
    """Boot a machine as `labkit boot` does, let it read a sector or its kernel run, and move it to ADDRESS.

    There, `labkit receive ADDRESS` waits. If it cannot move, the machine ends with this process, and the exit code says
    whose fault it was. A machine lives in the process that booted it, and no other can tell it to move: for one that
    runs already in a notebook, that is vm.migrate(ADDRESS).
    """
    plan, sector = plan_of(options)
    tell = telling(verbose)
    vm, story = booted(plan)
    with vm:
        tell(vm.cpu_note)
        console = Console(vm, quiet=as_json) if plan["kernel"] is not None else None
        story |= _let_run(vm, console, sector, after_s) | {"port": vm.proxy.queues[0].notifier.port}

        def progress(at: Progress) -> None:
            if at.gate in TOLD:
                tell(at)

        going = vm.migrate(
            address, tls=tls, timeout_s=timeout_s, downtime_s=downtime_ms / 1000, rounds=rounds, progress=progress
        )
        if console is not None:
            console.show()
            story["console"] = console.text
        story |= {"notifier": changes(vm), "kicks": kicks(vm)} | _figures(going)
    if as_json:
        print_json(story)
    else:
        click.echo("\n".join(_sentences(story, why_none(vm))))


def _let_run(vm: Machine, console: Console | None, sector: int, after_s: float | None) -> dict[str, Any]:
    """What it did before it left."""
    if console is None:
        data = vm.guest.read(sector)
        vm.wait(timeout_s=after_s or 0)
        return {"sector": sector, "data": data.hex()}
    code = console.follow(KERNEL_RUNS_S if after_s is None else after_s)
    if code is not None:
        raise UsageError(f"the kernel ended here, with exit code {code}, before it could move: take a smaller --after")
    return {}


def _figures(going: Migration) -> dict[str, Any]:
    return {
        "address": str(going.address),
        "rounds": [
            {
                **this._asdict(),
                "dirty_pages_per_s": this.dirty_pages_per_s,
                "estimated_downtime_ms": this.estimated_downtime_s * 1000,
            }
            for this in going.rounds
        ],
        "pages": going.pages,
        "total_ms": going.total_s * 1000,
        "downtime_ms": going.downtime_s * 1000,
    }


def _sentences(story: dict[str, Any], why: str) -> list[str]:
    started, *stopped = owner_sentences(story["notifier"], story["port"], why)
    read = [read_sentence(story["sector"], bytes.fromhex(story["data"]))] if "data" in story else []
    return [
        machine_sentence(story, "booted to DRIVER_OK" if read else "booted"),
        started,
        *synthetic_sentences(story["kicks"]),
        *read,
        *stopped,
        kick_sentence(story["kicks"]),
        _moved_sentence(story),
    ]


def _moved_sentence(story: dict[str, Any]) -> str:
    rounds = f"{len(story['rounds'])} round" + ("s" if len(story["rounds"]) != 1 else "")
    caution = f" ({views.cpu_note(story['cpu'])})" if story["cpu"] == views.EMULATED else ""
    return (
        f"Moved to {story['address']}: {rounds}, {story['pages']} pages, {story['total_ms']:.1f} ms in all, "
        f"{story['downtime_ms']:.2f} ms of it with nobody running the guest{caution}."
    )
