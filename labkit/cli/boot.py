"""`labkit boot`: what happens to the notifier of queue 0 when a guest comes up, reads a sector, and goes?"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from labkit import views
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
)
from labkit.cli.receive import take_in
from labkit.errors import UsageError

if TYPE_CHECKING:
    from labkit import Machine

OF_THE_HOST = ("disk", "cpu", "sector")  # given to what comes; the other options say what has to come


@click.command()
@machine_options
@click.option("--incoming", metavar="ADDRESS", help="Wait there for this machine instead (labkit receive --help).")
@moving_options
@json_option
def boot(
    as_json: bool,
    incoming: str | None,
    tls: Path | None,
    timeout_s: float,
    verbose: bool,
    **options: Any,
) -> None:
    """Boot a guest with a disk, read a sector through its own driver, and say what happened to the notifier of queue 0.

    With --kernel: show what that kernel prints on port 0xe9, and exit as it does by port 0xf4.

    With --incoming: the options that are given say what machine has to come. Another one is refused, and runs on where
    it is.
    """
    given = _given(click.get_current_context())
    if incoming is not None:
        plan, _ = plan_of(options)
        expect = {name: plan[name] for name in plan if name in given and name not in OF_THE_HOST}
        here = {name: options[name] for name in OF_THE_HOST} | {"tls": tls, "timeout_s": timeout_s}
        sys.exit(take_in(incoming, expect | {"device": "blk"}, verbose=verbose, as_json=as_json, **here))
    if lonely := given & {"tls", "timeout_s", "verbose"}:
        raise UsageError(f"--{min(lonely).removesuffix('_s')} is for a machine that comes: it needs --incoming")
    plan, sector = plan_of(options)
    sys.exit(_run_kernel(plan, as_json) if plan["kernel"] is not None else _boot_and_read(sector, plan, as_json))


def _given(ctx: click.Context) -> set[str]:
    return {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def _boot_and_read(sector: int, plan: dict[str, Any], as_json: bool) -> int:
    story = _story(sector, plan)
    if as_json:
        print_json(story)
    else:
        click.echo("\n".join(_sentences(story)))
    return 0


def _story(sector: int, plan: dict[str, Any]) -> dict[str, Any]:
    """Up, one read, DRIVER_OK cleared, closed; what the feed says of it."""
    vm, story = booted(plan)
    with vm:
        port = vm.proxy.queues[0].notifier.port
        data = vm.guest.read(sector)
        vm.guest.clear_driver_ok()
        told = {"sector": sector, "data": data.hex(), "port": port}
        return story | told | {"notifier": changes(vm), "kicks": kicks(vm)}


def booted(plan: dict[str, Any]) -> tuple[Machine, dict[str, Any]]:
    """A machine, and how its story begins."""
    import labkit

    start = time.perf_counter()
    vm = labkit.boot("blk", **plan)
    boot_ms = (time.perf_counter() - start) * 1000
    return vm, {
        "machine": vm.name,
        "cpu": vm.cpu,
        **{name: plan[name] for name in ("vcpus", "memory_mib", "irq", "revision")},
        "disk": str(plan["disk"]) if plan["disk"] else None,
        "boot_ms": boot_ms,
    }


def _sentences(story: dict[str, Any]) -> list[str]:
    """The story in the order in which it happened."""
    started, *stopped = owner_sentences(story["notifier"], story["port"], "ioeventfd is off (R1)")
    return [
        machine_sentence(story, "booted to DRIVER_OK"),
        started,
        *synthetic_sentences(story["kicks"]),
        read_sentence(story["sector"], bytes.fromhex(story["data"])),
        *stopped,
        kick_sentence(story["kicks"]),
        "Closed.",
    ]


def machine_sentence(story: dict[str, Any], how_far: str) -> str:
    """What was booted, how far, and how long that took."""
    disk = story["disk"] or "a RAM disk"
    machine = f"{story['machine']}: {story['vcpus']} vCPU on {story['cpu']}, {story['memory_mib']} MiB, {disk}"
    took = f"{story['boot_ms']:.1f} ms"
    if story["cpu"] == views.EMULATED:
        took += f" ({views.cpu_note(story['cpu'])})"
    return f"{machine}, rules {story['revision']}; {how_far} in {took}."


def _run_kernel(plan: dict[str, Any], as_json: bool) -> int:
    """Run it to its end. Returns its exit code."""
    import labkit

    with labkit.boot("blk", **plan) as vm:
        console = Console(vm, quiet=as_json)
        code = console.follow()
        assert code is not None
        if as_json:
            print_json({"machine": vm.name, "cpu": vm.cpu, "exit_code": code, "console": console.text})
    return code
