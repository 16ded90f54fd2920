"""What do all verbs share? --json, and exit codes that say whose fault it was."""

from __future__ import annotations

import json
from typing import Any

import click

from labkit.errors import GuestError, HostError, LabkitError, UsageError

EXIT_CODES = {UsageError: 2, HostError: 3, GuestError: 4}  # 2 is also click's own

json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable, and nothing else, on stdout.")


class Verbs(click.Group):
    """A group whose verbs may raise LabkitError: one line on stderr, and an exit code that says whose fault it was."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; no traceback for an error raised on purpose."""
        try:
            return super().invoke(ctx)
        except LabkitError as error:
            click.echo("labkit: " + " ".join(str(error).split()), err=True)
            ctx.exit(next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind)))


def print_json(value: Any) -> None:
    """On stdout."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))
