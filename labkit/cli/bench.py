"""`labkit bench`: what does the lab cost here, beside its floors?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from labkit.cli.common import json_option, print_json
from labkit.cpu import BACK_ENDS
from labkit.errors import UsageError

if TYPE_CHECKING:
    from labkit.bench import Report


@click.command()
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
        print_json(report.as_json())
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
