"""What does a student get? The notebooks without what stands between markers, and without outputs.

The same as nbgrader makes, for machines that have none; `tests/test_student.py` holds the two against each other.
setup.py loads this file by its path, so it imports nothing of labkit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOLUTION, HIDDEN = "SOLUTION", "HIDDEN TESTS"  # as in ### BEGIN SOLUTION
STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")
FOLDER = Path(__file__).parent / "notebooks"  # in a wheel
OF_THE_TREE = Path(__file__).parents[2] / "notebooks"  # with solutions; where labkit runs from its source


def notebooks() -> dict[str, bytes]:
    """File's name → content of each notebook of the course, in order; empty if they are neither here nor there."""
    if FOLDER.is_dir():
        return {path.name: path.read_bytes() for path in sorted(FOLDER.glob("*.ipynb"))}
    return made_from(OF_THE_TREE)


def made_from(folder: Path) -> dict[str, bytes]:
    """The same from the notebooks with solutions."""
    return {path.name: _for_students(path.read_text("utf-8")) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}


def _for_students(text: str) -> bytes:
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
        if "nbgrader" in cell["metadata"]:
            _open(cell)
    return (json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _open(cell: dict[str, Any]) -> None:
    """An exercise's cell: one may not delete it, nor change its test."""
    cell["metadata"]["deletable"] = False
    if cell["metadata"]["nbgrader"]["grade"]:
        cell["metadata"]["editable"] = False
    lines = without("".join(cell["source"]).split("\n"), SOLUTION, STUB)
    text = "\n".join(without(lines, HIDDEN))
    cell["source"] = text.splitlines(keepends=True)


def without(lines: list[str] | Iterator[str], region: str, instead: tuple[str, ...] = ()) -> Iterator[str]:
    """The lines outside a region, with `instead` in its place, as far to the right. One without an end has no end."""
    inside = False
    for line in lines:
        if f"BEGIN {region}" in line:
            inside = True
            yield from (indent(line) + other for other in instead)
        elif f"END {region}" in line:
            inside = False
        elif not inside:
            yield line


def indent(line: str) -> str:
    """The blanks at its beginning."""
    return line[: len(line) - len(line.lstrip())]
