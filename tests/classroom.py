"""What do the tests of the course share? The cells of the notebooks' exercises, and answers that nobody expects."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit import course
from labkit.course import Verdict

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
CHECK = re.compile(r"course\.check\(\s*\"([^\"]+)\"")


class Unspeakable:
    """Has no repr, equals nothing, and is not to be asked for anything."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]


def fails(*_: object, **__: object) -> None:
    """A function of a student's that raises what is no Exception."""
    raise SystemExit("a student's function that ends the program")


HOSTILE: tuple[Any, ...] = (
    *(
        None,
        ...,
        "",
        "right",
        b"",
        0,
        -1,
        1 << 70,
        float("nan"),
        True,
        [],
        [None],
        (),
        {},
        {None: None},
        set(),
        object(),
    ),
    *(Unspeakable(), fails, lambda: None, lambda *_: None, int, course),
)


def cells(notebook: Path, kind: str = "code") -> list[dict[str, Any]]:
    """Cells of one kind, each with its source as one text."""
    found = json.loads(notebook.read_text())["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in found if cell["cell_type"] == kind]


def graded(notebook: Path) -> list[dict[str, Any]]:
    """The cells that nbgrader is to know, solutions and tests."""
    return [cell for cell in cells(notebook) if "nbgrader" in cell["metadata"]]


def checked_in(source: str) -> list[str]:
    """Names of the exercises that a cell checks."""
    return CHECK.findall(source)


def arities(name: str) -> range:
    """With how many arguments might somebody call its check? From none to one too many."""
    return range(course.find(name).takes.count(",") + 2)


def wrong(verdict: Verdict, *never_said: str) -> None:
    """It is not right, says so and where to look, and gives nothing away."""
    assert isinstance(verdict, Verdict)
    assert not verdict
    assert verdict.says
    assert verdict.hint
    for text in never_said:
        assert text not in repr(verdict)


def answered(name: str, answers: Sequence[object]) -> Verdict:
    """Check an exercise, and look at how its verdict is shown."""
    verdict = course.check(name, *answers)
    assert repr(verdict).startswith(("right: ", "not yet: "))
    assert verdict._repr_html_().startswith("<div ")
    return verdict
