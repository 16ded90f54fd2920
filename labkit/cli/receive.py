"""`labkit receive`: which machine came, how did its notifier come along, and does its driver live?"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labkit import abi
from labkit.cli.common import json_option, print_json
from labkit.cli.machines import (
    Console,
    changes,
    cpu_option,
    kick_sentence,
    kicks,
    moving_options,
    owner_sentences,
    read_sentence,
    sector_option,
    synthetic_sentences,
    telling,
    why_none,
)
from labkit.trace.events import Gate

if TYPE_CHECKING:
    from labkit import Machine
    from labkit.migration import Progress

TOLD = (Gate.ACCEPTED, Gate.BUILT, Gate.ROUND_STORED)  # and none while nobody runs the guest: a terminal takes its time


@click.command()
@click.argument("address")
@click.option("--disk", type=click.Path(path_type=Path), help="Where the machine's disk is here. Default: as there.")
@cpu_option
@sector_option
@moving_options
@json_option
def receive(address: str, as_json: bool, **options: Any) -> None:
    """Wait at ADDRESS for one machine, say what came and how its notifier did, and let it run.

    ADDRESS is unix:PATH, tcp:PORT on this machine (0: a free one, which -v tells), or tcp:HOST:PORT, which needs --tls.
    The lab's guest reads a sector, to show that its driver lives, and is closed. A kernel of the user's own runs to its
    end: its console came along and is shown whole, and its exit code is passed on. Ctrl-C ends the waiting.
    """
    sys.exit(take_in(address, {}, as_json=as_json, **options))


def take_in(
    address: str,
    expect: Mapping[str, Any],
    *,
    disk: Path | None,
    cpu: str,
    sector: int | None,
    tls: Path | None,
    timeout_s: float,
    verbose: bool,
    as_json: bool,
) -> int:
    """One machine, to its end. Returns the exit code."""
    import labkit

    tell = telling(verbose)

    def progress(at: Progress) -> None:
        if at.gate in TOLD:
            tell(at)

    with labkit.listen(
        address, disk=disk, cpu=cpu, expect=expect, tls=tls, timeout_s=timeout_s, progress=progress
    ) as arrival:
        tell(f"listening at {arrival.address}")
        vm = arrival.machine()
    with vm:
        story = {"address": arrival.address} | _how_much(arrival.progress) | _what_came(vm)
        if story["came"] == "paused":
            vm.resume()
        is_lab = vm._board.plan.image.lab
        return _read(vm, story, sector or 0, as_json) if is_lab else _run(vm, story, as_json)


def _how_much(at: Progress | None) -> dict[str, int]:
    return {"rounds": at.round, "pages": at.pages} if at is not None else {}


def _what_came(vm: Machine) -> dict[str, Any]:
    facts = vm._facts
    return {
        "came": "paused" if vm.state == "paused" else "running",
        "machine": vm.name,
        **{name: getattr(facts, name) for name in ("cpu", "guest", "device", "revision", "vcpus", "memory_mib")},
    }


def _read(vm: Machine, story: dict[str, Any], sector: int, as_json: bool) -> int:
    """The lab's guest: its driver goes on where it was, if it was up."""
    readable = story["device"] == "blk" and bool(vm.proxy.status & abi.Status.DRIVER_OK)
    story |= {"port": vm.proxy.queues[0].notifier.port}
    data = vm.guest.read(sector) if readable else None
    story |= {"sector": sector, "data": data.hex()} if data is not None else {}
    story |= {"notifier": changes(vm), "kicks": kicks(vm)}
    if as_json:
        print_json(story)
        return 0
    read = [read_sentence(sector, data)] if data is not None else []
    lines = [*_came_sentences(vm, story), *synthetic_sentences(story["kicks"]), *read, kick_sentence(story["kicks"])]
    click.echo("\n".join([*lines, "Closed."]))
    return 0


def _run(vm: Machine, story: dict[str, Any], as_json: bool) -> int:
    """A kernel: to its end."""
    story |= {"port": vm.proxy.queues[0].notifier.port, "notifier": changes(vm)}
    if not as_json:
        click.echo("\n".join(_came_sentences(vm, story)))
    console = Console(vm, quiet=as_json)
    code = console.follow()
    assert code is not None
    story |= {"notifier": changes(vm), "kicks": kicks(vm), "exit_code": code, "console": console.text}
    if as_json:
        print_json(story)
    else:
        click.echo("\n".join([*synthetic_sentences(story["kicks"]), kick_sentence(story["kicks"])]))
    return code


def _came_sentences(vm: Machine, story: dict[str, Any]) -> list[str]:
    machine = f"{story['machine']}: {story['vcpus']} vCPU on {story['cpu']}, {story['memory_mib']} MiB"
    machine += f", virtio-{story['device']}, {story['guest']}, rules {story['revision']}"
    rounds = f"{story['rounds']} round" + ("s" if story["rounds"] != 1 else "")
    paused = ", paused; resumed here" if story["came"] == "paused" else ""
    return [
        f"{machine}; it came in {rounds}, {story['pages']} pages{paused}.",
        *owner_sentences(story["notifier"], story["port"], why_none(vm)),
    ]
