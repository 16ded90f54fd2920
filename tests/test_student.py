"""Is the student's version without solutions, the same as nbgrader's, and are answers graded by it?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from backends import back_ends
from classroom import NOTEBOOKS, cells, graded

from labkit.course import student

ROOT = Path(__file__).parent.parent
GRADING = Path(__file__).parent / "grading.py"
GRADED = "01_one_kick.ipynb"
BLUNDER = ("01-three-at-once", "    vm.guest.kick()", "    vm.guest.kick(times=2)")  # cell, what stands there, instead


def tool(*arguments: object) -> str:
    """Run a program with this Python and its kernels; its output."""
    environment = os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-W", "ignore", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def hidden(notebook: Path) -> list[str]:
    """Lines of a notebook's solutions and hidden tests."""
    lines: list[str] = []
    for cell in graded(notebook):
        inside = False
        for line in cell["source"].splitlines():
            if line.strip().startswith("### "):
                inside = "BEGIN" in line
            elif inside:
                lines.append(line)
    return lines


def everything(content: bytes) -> list[str]:
    """Lines of all cells' sources."""
    return [line for cell in json.loads(content)["cells"] for line in "".join(cell["source"]).splitlines()]


def test_a_region_is_left_out() -> None:
    """What stands between the markers goes, and what stands for it is as far to the right."""
    lines = ["def f():", "    ### BEGIN SOLUTION", "    return 1", "    ### END SOLUTION", "f()"]
    assert list(student.without(lines, student.SOLUTION, ("pass",))) == ["def f():", "    pass", "f()"]
    assert list(student.without(lines[:3], student.SOLUTION)) == ["def f():"]  # no end: nothing gets out
    assert list(student.without(lines, student.HIDDEN)) == lines


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_students_get_no_solution(notebook: Path) -> None:
    """No marker, no output, and one stub for each solution; what stood between markers stands nowhere else there."""
    content = student.notebooks()[notebook.name]
    lines = everything(content)
    assert [line for line in lines if "### BEGIN" in line or "### END" in line] == []
    assert sum(line.strip() == student.STUB[0].strip() for line in lines) == len(graded(notebook)) / 2
    assert all(cell.get("outputs", []) == [] for cell in json.loads(content)["cells"])
    for cell, open_cell in zip(
        cells(notebook), [c for c in json.loads(content)["cells"] if "outputs" in c], strict=True
    ):
        assert open_cell["id"] == cell["id"]
        if "nbgrader" not in cell["metadata"]:
            assert "".join(open_cell["source"]) == cell["source"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_students_get_is_python(notebook: Path) -> None:
    """A stub stands where a solution stood, as far to the right: each cell of an exercise can be run as it is."""
    found = [cell for cell in json.loads(student.notebooks()[notebook.name])["cells"] if "nbgrader" in cell["metadata"]]
    for cell in found:
        compile("".join(cell["source"]), cell["id"], "exec")


@pytest.mark.slow
def test_nbgrader_makes_the_same(tmp_path: Path) -> None:
    """`make student` goes by nbgrader's converter, the package has its own: byte for byte, but for the checksums."""
    tool(ROOT / "tools" / "student.py", tmp_path, *NOTEBOOKS)
    ours = student.notebooks()
    assert sorted(ours) == sorted(path.name for path in tmp_path.iterdir())
    for name, content in ours.items():
        theirs: dict[str, Any] = json.loads((tmp_path / name).read_bytes())
        for cell in theirs["cells"]:
            cell["metadata"].get("nbgrader", {}).pop("checksum", None)
        assert json.loads(content) == theirs


def answered(notebook: Path, blunder: tuple[str, str, str] | None = None) -> str:
    """What a student hands in: our notebook for students, with the solutions written in, or one of them wrong."""
    handed_in = json.loads(student.notebooks()[notebook.name])
    solutions = {cell["id"]: cell["source"] for cell in graded(notebook)[::2]}
    for cell in handed_in["cells"]:
        if cell["id"] in solutions:
            written = "\n".join(
                line for line in solutions[cell["id"]].splitlines() if not line.strip().startswith("###")
            )
            if blunder and cell["metadata"]["nbgrader"]["grade_id"] == blunder[0]:
                assert blunder[1] in written
                written = written.replace(*blunder[1:])
            cell["source"] = written
    return json.dumps(handed_in)


@pytest.mark.slow
@pytest.mark.guest
def test_nbgrader_grades_answers(tmp_path: Path) -> None:
    """Right answers get every point, a wrong one loses its own and no other, on each CPU that is here."""
    (notebook,) = [path for path in NOTEBOOKS if path.name == GRADED]
    hand_in(tmp_path / "source", notebook.read_text())
    for cpu in back_ends():
        hand_in(tmp_path / "submitted" / f"{cpu}-right", answered(notebook))
        hand_in(tmp_path / "submitted" / f"{cpu}-wrong", answered(notebook, BLUNDER))
    told = json.loads(tool(GRADING, tmp_path))
    tests = [cell["metadata"]["nbgrader"] for cell in graded(notebook)[1::2]]
    all_points = {test["grade_id"]: test["points"] for test in tests}
    for cpu in back_ends():
        assert told[f"{cpu}-right"] == all_points
        assert told[f"{cpu}-wrong"] == all_points | {f"{BLUNDER[0]}-test": 0}


def hand_in(folder: Path, notebook: str) -> None:
    """Where nbgrader looks for it."""
    (folder / "labkit").mkdir(parents=True)
    (folder / "labkit" / GRADED).write_text(notebook)
