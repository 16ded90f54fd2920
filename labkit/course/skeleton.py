"""How does a notebook of one's own begin? Boot, look, kick, watch, close: cells that run as they are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from labkit.errors import UsageError
from labkit.files import write_whole

# name of the cell, markdown or code
CELLS = (
    ("title", "# {title}\n\nWhat do you want to find out? Write the question here, and look for its answer below."),
    (
        "boot",
        'import labkit\n\nvm = labkit.boot("blk", bring_up=False)  # disk=, revision=, vcpus= and more\nvm',
    ),
    ("look", "## Look\n\nThe driver waits. Each step of it can be looked at: registers, ring, notifier."),
    ("up", "vm.guest.negotiate()\nvm.guest.set_driver_ok()\nvm.proxy.queues[0]"),
    ("kick", "## Kick\n\nA request through the guest's own driver, and how its kick came."),
    ("read", "mark = vm.trace.mark()\nvm.guest.read(sector=0)\nvm.proxy.queues[0].notifier"),
    ("log", "for event in vm.trace.events(since=mark):\n    print(event)"),
    ("watch", "## Watch\n\nThe machine as it is now, with buttons for what the cells above did."),
    ("dashboard", "vm.dashboard()"),
    (
        "keep",
        '## Keep, and close\n\n`vm.trace.save("story.labkit")` keeps the events, and `labkit.replay` opens them again.',
    ),
    ("close", "vm.close()"),
)
MARKDOWN = ("title", "look", "kick", "watch", "keep")


def new_lab(name: str | os.PathLike[str]) -> Path:
    """Write a notebook of that name; `.ipynb` may be left out. UsageError: it is there, or cannot be."""
    path = Path(name)
    if not path.name.strip("."):
        raise UsageError(f"{str(name)!r} is no name of a notebook")
    if path.suffix != ".ipynb":
        path = path.with_name(path.name + ".ipynb")
    if os.path.lexists(path):
        raise UsageError(f"notebook {path} is there already: take another name")
    write_whole(path, "notebook", (json.dumps(_notebook(path.stem), indent=1, ensure_ascii=False) + "\n").encode())
    return path


def _notebook(title: str) -> dict[str, Any]:
    return {
        "cells": [_cell(id, source.replace("{title}", title.replace("_", " "))) for id, source in CELLS],
        "metadata": {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(id: str, source: str) -> dict[str, Any]:
    cell = {"id": id, "metadata": {}, "source": source.splitlines(keepends=True)}
    if id in MARKDOWN:
        return {"cell_type": "markdown", **cell}
    return {"cell_type": "code", "execution_count": None, "outputs": [], **cell}
