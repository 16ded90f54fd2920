"""`labkit lab`, `labkit new-lab`: how do I open the notebooks? Copies of one's own, in JupyterLab."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from labkit.cli.common import json_option, print_json
from labkit.errors import HostError

FOLDER = "labkit-course"
PORT = 8888
ADDRESS = "127.0.0.1"  # this machine only
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=FOLDER)
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="Where JupyterLab serves.")
@click.option("--no-browser", is_flag=True, help="Print the link, and open nothing.")
@click.option("--no-serve", is_flag=True, help="Copy the notebooks, and no more.")
@json_option
def lab(folder: Path, port: int, no_browser: bool, no_serve: bool, as_json: bool) -> None:
    """Copy the course into FOLDER (labkit-course), and open JupyterLab there, on 127.0.0.1 only.

    Nothing of yours is overwritten: a notebook that you changed stays, and a newer version of it is put beside it.
    """
    from labkit.course.copies import SAME, copy_course

    copies = copy_course(folder)
    command = jupyter(folder, copies[0].name, port, browser=not no_browser and any(map(os.environ.get, DISPLAYS)))
    if as_json:
        told = [{"name": one.name, "state": one.state, "beside": one.beside or None} for one in copies]
        print_json({"folder": str(folder), "notebooks": told, "serves": None if no_serve else command})
    else:
        news = [str(one) for one in copies if one.state != SAME]
        click.echo(f"{len(copies)} notebooks are in {folder}" + (":" if news else ", as they were."))
        click.echo("".join(f"  {line}\n" for line in news), nl=False)
    if not no_serve:
        serve(command, quiet=as_json)


def jupyter(folder: Path, first: str, port: int, *, browser: bool) -> list[str]:
    """The command that serves the folder, with this Python's JupyterLab and kernels."""
    return [
        *(sys.executable, "-m", "jupyterlab", "--log-level=ERROR"),
        *(f"--ServerApp.ip={ADDRESS}", f"--ServerApp.port={port}"),
        *(f"--ServerApp.root_dir={folder.resolve()}", f"--LabApp.default_url=/lab/tree/{first}"),
        *(() if browser else ("--no-browser",)),
        *(("--allow-root",) if os.geteuid() == 0 else ()),
    ]


def serve(command: list[str], *, quiet: bool) -> None:
    """Become JupyterLab."""
    if not quiet:
        click.echo(f"JupyterLab serves it on {ADDRESS} only. Open the link with the token below; Ctrl-C twice ends it.")
    sys.stdout.flush()
    try:
        os.execve(command[0], command, os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"})
    except OSError as error:
        raise HostError("execve", error.errno or 0, command[0]) from error


@click.command("new-lab")
@click.argument("name")
@json_option
def new_lab(name: str, as_json: bool) -> None:
    """Write NAME.ipynb, a notebook to begin with: boot, look, kick, watch, close. It overwrites nothing."""
    from labkit.course.skeleton import new_lab as write

    path = write(name)
    if as_json:
        print_json({"notebook": str(path)})
    else:
        click.echo(f"{path} is there; each of its cells runs as it is.")
