"""What can be done from a shell? `labkit doctor | boot | replay | bench | museum`, each with --json for programs."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labkit import __version__, abi, rules, views
from labkit.cli_museum import museum
from labkit.cpu import BACK_ENDS
from labkit.errors import GuestError, HostError, LabkitError, UsageError

if TYPE_CHECKING:
    from labkit import Machine
    from labkit.bench import Report
    from labkit.doctor import Check
    from labkit.recording import Recording

EXIT_CODES = {UsageError: 2, HostError: 3, GuestError: 4}  # 2 is also click's own
WAIT_S = 0.05  # how often the console of a running kernel is looked at
SHOWN_BYTES = 16


class Verbs(click.Group):
    """A group whose verbs may raise LabkitError: one line on stderr, and an exit code that says whose fault it was."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; no traceback for an error raised on purpose."""
        try:
            return super().invoke(ctx)
        except LabkitError as error:
            click.echo("labkit: " + " ".join(str(error).split()), err=True)
            ctx.exit(next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind)))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="labkit")
def main() -> None:
    """Boot tiny KVM guests and watch who handles each virtqueue kick."""


main.add_command(museum)
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable, and nothing else, on stdout.")


# -- doctor -----------------------------------------------------------------------------------------------------------


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine has, what it lacks, and how to mend that. Exit code 0 if a guest can be booted."""
    from labkit.doctor import examine

    report = examine()
    if as_json:
        checks = [asdict(check) for check in report.checks]
        _print_json({"back_end": report.back_end, "usable": report.usable, "checks": checks})
    else:
        for check in report.checks:
            _print_check(check)
        chosen = f"back end: {report.back_end}" if report.usable else "back end: none; what is marked missing is needed"
        click.echo(f"\n{chosen}")
    sys.exit(0 if report.usable else 1)


def _print_check(check: Check) -> None:
    if check.ok:
        mark, colour = "ok", "green"
    else:
        mark, colour = ("missing", "red") if check.needed else ("absent", "yellow")
    click.echo(f"{click.style(f'{mark:<8}', fg=colour)} {check.name}: {check.detail}")
    if not check.ok and check.mend:
        click.echo(f"{'':<8}   {check.mend}")


# -- boot -------------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--disk", type=click.Path(path_type=Path), help="A raw image or block device. Default: a RAM disk.")
@click.option("--writable", is_flag=True, help="Let the guest write to the disk.")
@click.option("--ioeventfd", type=click.Choice(["on", "off"]), help="Default: the device's own (rule R1).")
@click.option("--revision", type=click.Choice(rules.names()), default="v6", show_default=True, help="Whose rules.")
@click.option("--vcpus", type=int, default=1, show_default=True, help=f"1 to {abi.VCPUS_MAX}.")
@click.option(
    "--memory-mib",
    type=int,
    default=abi.MEMORY_MIN_MIB,
    show_default=True,
    help=f"{abi.MEMORY_MIN_MIB} to {abi.MEMORY_MAX_MIB}.",
)
@click.option(
    "--irq",
    type=click.Choice(["msix", "intx", "poll"]),
    default="msix",
    show_default=True,
    help="What the lab's driver uses. Only intx gives the machine an I/O APIC, for a kernel too; that takes longer.",
)
@click.option("--sector", type=click.IntRange(min=0), help="The sector to read through the guest. Default: 0.")
@click.option("--cpu", type=click.Choice(BACK_ENDS), default="auto", show_default=True, help="Who executes the guest.")
@click.option("--kernel", type=click.Path(path_type=Path), help="A multiboot 1 ELF to run instead of the lab's guest.")
@click.option("--cmdline", help="The kernel's command line.")
@json_option
def boot(
    as_json: bool, ioeventfd: str | None, sector: int | None, kernel: Path | None, cmdline: str | None, **plan: Any
) -> None:
    """Boot a guest with a disk, read a sector through its own driver, and say what happened to the notifier of queue 0.

    With --kernel: show what that kernel prints on port 0xe9, and exit as it does by port 0xf4.
    """
    if ioeventfd is not None:
        plan["ioeventfd"] = ioeventfd == "on"
    if kernel is not None:
        if sector is not None:
            raise UsageError("--sector is read by the lab's own guest: leave out --kernel")
        sys.exit(_run_kernel(kernel, cmdline or "", plan, as_json))
    if cmdline is not None:
        raise UsageError("--cmdline is for a --kernel of your own")
    story = _boot_and_read(sector or 0, plan)
    if as_json:
        _print_json(story)
    else:
        click.echo("\n".join(_sentences(story)))


def _boot_and_read(sector: int, plan: dict[str, Any]) -> dict[str, Any]:
    """Up, one read, DRIVER_OK cleared, closed; what the feed says of it."""
    import labkit

    start = time.perf_counter()
    with labkit.boot("blk", **plan) as vm:
        boot_ms = (time.perf_counter() - start) * 1000
        port = vm.proxy.queues[0].notifier.port
        data = vm.guest.read(sector)
        vm.guest.clear_driver_ok()
        return {
            "machine": vm.name,
            "cpu": vm.cpu,
            **{name: plan[name] for name in ("vcpus", "memory_mib", "irq", "revision")},
            "disk": str(plan["disk"]) if plan["disk"] else None,
            "boot_ms": boot_ms,
            "sector": sector,
            "data": data.hex(),
            "port": port,
            "notifier": _changes(vm),
            "kicks": _kicks(vm),
        }


def _changes(vm: Machine) -> list[dict[str, Any]]:
    """Each change of owner of queue 0's notifier, in order."""
    events = vm.trace.events("owner", queue=0)
    return [{"thread": e.actor, **{k: e[k] for k in ("before", "after", "rule", "cause")}} for e in events]


def _kicks(vm: Machine) -> dict[str, int]:
    notifier = vm.proxy.queues[0].notifier
    return {path: getattr(notifier, path) for path in ("trapped", "signalled", "drained", "synthetic")}


WHY = {"DRIVER_OK": "because the guest wrote DRIVER_OK", "DRIVER_NOT_OK": "because the guest cleared DRIVER_OK"}


def _sentences(story: dict[str, Any]) -> list[str]:
    """The story in the order in which it happened."""
    disk = story["disk"] or "a RAM disk"
    data = bytes.fromhex(story["data"])
    shown = "all zero" if not any(data) else f"beginning {data[:SHOWN_BYTES].hex(' ')}"
    machine = f"{story['machine']}: {story['vcpus']} vCPU on {story['cpu']}, {story['memory_mib']} MiB, {disk}"
    machine += f", rules {story['revision']}"
    took = f"{story['boot_ms']:.1f} ms"
    if story["cpu"] == views.EMULATED:
        took += f" ({views.cpu_note(story['cpu'])})"
    started, *stopped = _owner_sentences(story)
    return [
        f"{machine}; booted to DRIVER_OK in {took}.",
        started,
        *_synthetic_sentences(story["kicks"]),
        f"The guest read sector {story['sector']}: {len(data)} bytes, {shown}.",
        *stopped,
        _kick_sentence(story["kicks"]),
        "Closed.",
    ]


def _owner_sentences(story: dict[str, Any]) -> list[str]:
    if not story["notifier"]:
        return ["Queue 0: its notifier stays with nobody, for ioeventfd is off (R1): every kick traps."]
    return [
        f"Queue 0: notifier {c['before']} -> {c['after']}, {WHY.get(c['cause'], 'by ' + c['cause'])} ({c['rule']})"
        + (f": kicks of port {story['port']:#x} signal an eventfd." if c["after"] == "vmm" else ": kicks trap again.")
        for c in story["notifier"]
    ]


def _synthetic_sentences(kicks: dict[str, int]) -> list[str]:
    if not kicks["synthetic"]:
        return []
    return [f"Queue 0: {kicks['synthetic']} synthetic kick, made by the start itself, not by the guest (R3)."]


def _kick_sentence(kicks: dict[str, int]) -> str:
    drained = f"{kicks['drained']} of them found when the notifier stopped"
    return f"Queue 0: kicks of the guest: {kicks['trapped']} by trap, {kicks['signalled']} by eventfd ({drained})."


def _run_kernel(kernel: Path, cmdline: str, plan: dict[str, Any], as_json: bool) -> int:
    """Run it to its end. Returns its exit code."""
    import labkit

    with labkit.boot("blk", kernel=kernel, cmdline=cmdline, **plan) as vm:
        shown, code = "", None
        while code is None:
            try:
                code = vm.wait(timeout_s=WAIT_S)
            finally:
                if not as_json:
                    click.echo(vm.console[len(shown) :], nl=False)
                shown = vm.console
        if as_json:
            _print_json({"machine": vm.name, "cpu": vm.cpu, "exit_code": code, "console": shown})
    return code


# -- replay -----------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--at", "at_s", type=float, help="Seconds since the first event. Default: the end.")
@json_option
def replay(file: Path, at_s: float | None, as_json: bool) -> None:
    """Show a recording that `vm.trace.save` has made: the machine, its state, and who owned its notifiers.

    No CPU is needed, and no /dev/kvm.
    """
    import labkit

    recording = labkit.replay(file)
    if at_s is not None:
        recording.at(at_s)
    if as_json:
        _print_json(_replayed(recording))
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


# -- bench ------------------------------------------------------------------------------------------------------------


@main.command()
@click.option(
    "--cpu",
    type=click.Choice(BACK_ENDS),
    default="auto",
    show_default=True,
    help="Whose costs: each has its own floors.",
)
@click.option("--peer", type=click.Choice(["qemu"]), help="Run the same guest binary there too, and compare.")
@click.option("--quick", is_flag=True, help="Few repetitions: shows that it works, not how fast.")
@click.option("--rows", help="Only these rows, with commas between.")
@click.option("--markdown", "as_markdown", is_flag=True, help="The table of docs/performance.md.")
@json_option
def bench(as_json: bool, cpu: str, peer: str | None, quick: bool, rows: str | None, as_markdown: bool) -> None:
    """Measure what the lab costs, from a kick to a boot, each figure beside its raw floor on this machine."""
    from labkit.bench import run
    from labkit.bench.row import FULL, QUICK

    if as_json and as_markdown:
        raise UsageError("--json or --markdown, not both")
    names = None if rows is None else [name.strip() for name in rows.split(",") if name.strip()]
    report = run(names, QUICK if quick else FULL, peer, _progress, cpu)
    if as_json:
        _print_json(report.as_json())
    else:
        _print_table(report, as_markdown)


def _progress(row: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"measuring {row} ...", err=True)


def _print_table(report: Report, as_markdown: bool) -> None:
    from labkit.bench.table import HEADINGS, cells, legend, markdown, title

    if as_markdown:
        click.echo(markdown(report), nl=False)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADINGS, title=title(report))
    for column in table.columns:
        column.no_wrap, column.justify = True, "left" if column is table.columns[0] else "right"
    for row in report.rows:
        table.add_row(*cells(row))
    console = Console()
    console.print(table)
    for line in legend(report):
        console.print(line, highlight=False)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, allow_nan=False))
