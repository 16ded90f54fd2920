"""What does a shell say of a machine, and hear of one? The options of `labkit boot`, and the story in plain words."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labkit import abi, rules
from labkit.cpu import BACK_ENDS
from labkit.errors import UsageError
from labkit.trace.events import Flag

if TYPE_CHECKING:
    from labkit import Machine

WAIT_S = 0.05  # how often the console of a running kernel is looked at
SHOWN_BYTES = 16

Verb = Callable[..., Any]
Changes = list[dict[str, Any]]


# -- options -----------------------------------------------------------------------------------------------------------


def cpu_option(verb: Verb) -> Verb:
    """--cpu."""
    choice = click.Choice(BACK_ENDS)
    return click.option("--cpu", type=choice, default="auto", show_default=True, help="Who executes the guest.")(verb)


def sector_option(verb: Verb) -> Verb:
    """--sector."""
    said = "The sector to read through the guest. Default: 0."
    return click.option("--sector", type=click.IntRange(min=0), help=said)(verb)


MACHINE = (
    click.option("--disk", type=click.Path(path_type=Path), help="A raw image or block device. Default: a RAM disk."),
    click.option("--writable", is_flag=True, help="Let the guest write to the disk."),
    click.option("--ioeventfd", type=click.Choice(["on", "off"]), help="Default: the device's own (rule R1)."),
    click.option("--revision", type=click.Choice(rules.names()), default="v6", show_default=True, help="Whose rules."),
    click.option("--vcpus", type=int, default=1, show_default=True, help=f"1 to {abi.VCPUS_MAX}."),
    click.option(
        "--memory-mib",
        type=int,
        default=abi.MEMORY_MIN_MIB,
        show_default=True,
        help=f"{abi.MEMORY_MIN_MIB} to {abi.MEMORY_MAX_MIB}.",
    ),
    click.option(
        "--irq",
        type=click.Choice(["msix", "intx", "poll"]),
        default="msix",
        show_default=True,
        help="What the lab's driver uses. Only intx gives a machine an I/O APIC, for a kernel too; that takes longer.",
    ),
    sector_option,
    cpu_option,
    click.option("--kernel", type=click.Path(path_type=Path), help="A multiboot 1 ELF instead of the lab's guest."),
    click.option("--cmdline", help="The kernel's command line."),
)


def machine_options(verb: Verb) -> Verb:
    """All that says what machine it is; `plan_of` reads them."""
    for option in reversed(MACHINE):
        verb = option(verb)
    return verb


def plan_of(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """What `labkit.boot` takes, and the sector to read. UsageError: options that do not go together."""
    plan = dict(options)
    ioeventfd, sector, cmdline = plan.pop("ioeventfd"), plan.pop("sector"), plan.pop("cmdline")
    if ioeventfd is not None:
        plan["ioeventfd"] = ioeventfd == "on"
    if plan["kernel"] is not None and sector is not None:
        raise UsageError("--sector is read by the lab's own guest: leave out --kernel")
    if plan["kernel"] is None and cmdline is not None:
        raise UsageError("--cmdline is for a --kernel of your own")
    return plan | {"cmdline": cmdline or ""}, sector or 0


# -- the story ---------------------------------------------------------------------------------------------------------

WHY = {
    "DRIVER_OK": "because the guest wrote DRIVER_OK",
    "DRIVER_NOT_OK": "because the guest cleared DRIVER_OK",
    "RESUME": "because the machine was resumed",
    "PAUSE": "because the machine was paused",
}


def changes(vm: Machine) -> Changes:
    """Each change of owner of queue 0's notifier, in order."""
    events = vm.trace.events("owner", queue=0)
    return [{"thread": e.actor, **{k: e[k] for k in ("before", "after", "rule", "cause")}} for e in events]


def kicks(vm: Machine) -> dict[str, int]:
    """How those of queue 0 came."""
    notifier = vm.proxy.queues[0].notifier
    return {path: getattr(notifier, path) for path in ("trapped", "signalled", "drained", "synthetic")}


def why_none(vm: Machine) -> str:
    """Why nobody ever had that notifier, if nobody had."""
    return "its driver was not up" if vm.proxy.flags & Flag.USE_IOEVENTFD else "ioeventfd is off (R1)"


def owner_sentences(found: Changes, port: int | None, why: str) -> list[str]:
    """A sentence for each change; `why` not, if there was none."""
    if not found:
        return [f"Queue 0: its notifier stays with nobody, for {why}: every kick traps."]
    return [_owner_sentence(change, port) for change in found]


def _owner_sentence(change: dict[str, Any], port: int | None) -> str:
    why = WHY.get(change["cause"], f"by {change['cause']}")
    if change["after"] == "vmm":
        so = f": kicks{'' if port is None else f' of port {port:#x}'} signal an eventfd."
    else:
        so = "." if change["cause"] == "PAUSE" else ": kicks trap again."
    return f"Queue 0: notifier {change['before']} -> {change['after']}, {why} ({change['rule']}){so}"


def synthetic_sentences(count: dict[str, int]) -> list[str]:
    """None if there was none."""
    if not count["synthetic"]:
        return []
    return [f"Queue 0: {count['synthetic']} synthetic kick, made by the start itself, not by the guest (R3)."]


def kick_sentence(count: dict[str, int]) -> str:
    """By which way."""
    drained = f"{count['drained']} of them found when the notifier stopped"
    return f"Queue 0: kicks of the guest: {count['trapped']} by trap, {count['signalled']} by eventfd ({drained})."


def read_sentence(sector: int, data: bytes) -> str:
    """What the guest's driver got."""
    shown = "all zero" if not any(data) else f"beginning {data[:SHOWN_BYTES].hex(' ')}"
    return f"The guest read sector {sector}: {len(data)} bytes, {shown}."


# -- a kernel of the user's own ----------------------------------------------------------------------------------------


class Console:
    """Shows what a kernel prints, as it comes; a quiet one only keeps it."""

    def __init__(self, vm: Machine, *, quiet: bool) -> None:
        self._vm, self._quiet, self.text = vm, quiet, ""

    def show(self) -> None:
        """What is new."""
        before, self.text = self.text, self._vm.console
        if not self._quiet:
            click.echo(self.text[len(before) :], nl=False)

    def follow(self, seconds: float | None = None) -> int | None:
        """Until the kernel ends: its exit code. None: the time was over first. GuestError: it crashed."""
        for wait_s in _slices(seconds):
            try:
                code = self._vm.wait(timeout_s=wait_s)
            finally:
                self.show()
            if code is not None:
                return code
        return None


def _slices(seconds: float | None) -> Iterator[float]:
    """Waits that are `seconds` together; None: for ever."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while deadline is None or (left_s := deadline - time.monotonic()) > 0:
        yield WAIT_S if deadline is None else min(WAIT_S, left_s)


# -- a machine that moves ----------------------------------------------------------------------------------------------

MOVING = (
    click.option("--tls", type=click.Path(path_type=Path), help="A folder with ca.pem, cert.pem and key.pem."),
    click.option(
        "--timeout",
        "timeout_s",
        type=float,
        default=10.0,
        show_default=True,
        help="How many seconds the other side may be silent.",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Progress on stderr also where that is no terminal."),
)


def moving_options(verb: Verb) -> Verb:
    """What both sides of a migration take."""
    for option in reversed(MOVING):
        verb = option(verb)
    return verb


def telling(verbose: bool) -> Callable[[object], None]:
    """Says on stderr how far it is, where somebody looks."""
    shown = verbose or sys.stderr.isatty()
    return lambda said: click.echo(str(said), err=True) if shown else None
