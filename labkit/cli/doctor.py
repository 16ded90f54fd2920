"""`labkit doctor`: can this machine boot a guest, and if not, what would mend that?"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from labkit.cli.common import json_option, print_json

if TYPE_CHECKING:
    from labkit.doctor import Check


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine has, what it lacks, and how to mend that. Exit code 0 if a guest can be booted."""
    from labkit.doctor import examine

    report = examine()
    if as_json:
        checks = [asdict(check) for check in report.checks]
        print_json({"back_end": report.back_end, "usable": report.usable, "checks": checks})
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
