"""Do `labkit lab` and `labkit new-lab` give somebody notebooks of his own, and never take his work?"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from classroom import NOTEBOOKS
from click.testing import CliRunner, Result
from nbclient import NotebookClient

from labkit import UsageError, cli
from labkit.cli.lab import DISPLAYS
from labkit.course import copies, skeleton, student
from labkit.course.copies import BESIDE, MANIFEST, RENEWED, SAME, WRITTEN, YOURS, copy_course

FIRST, SECOND = "00_first.ipynb", "01_second.ipynb"
Course = dict[str, bytes]


def run(*arguments: str | Path) -> Result:
    """Run `labkit` with these arguments, in this process."""
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def fails(result: Result) -> str:
    """A fault of the caller's: one line on stderr, which is returned."""
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("labkit: ") and result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture
def course(monkeypatch: pytest.MonkeyPatch) -> Course:
    """What there is to copy; a test writes a newer one into it."""
    content = {FIRST: b"first, version 1", SECOND: b"second, version 1"}
    monkeypatch.setattr(copies, "notebooks", lambda: content)
    return content


def states(folder: Path) -> list[str]:
    """Copy, and return what became of each notebook."""
    return [copy.state for copy in copy_course(folder)]


# -- no work is lost ---------------------------------------------------------------------------------------------------


def test_the_course_is_copied(course: Course, tmp_path: Path) -> None:
    """Every notebook, into a folder that is made; a second time nothing is done."""
    folder = tmp_path / "my" / "course"
    assert states(folder) == [WRITTEN, WRITTEN]
    assert {path.name: path.read_bytes() for path in folder.glob("*.ipynb")} == course
    assert states(folder) == [SAME, SAME]
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, FIRST, SECOND]


@pytest.mark.usefixtures("course")
def test_what_was_changed_stays(tmp_path: Path) -> None:
    """A notebook that somebody worked in is his, however often the course is copied."""
    copy_course(tmp_path)
    (tmp_path / FIRST).write_bytes(b"mine")
    for _ in range(2):
        assert states(tmp_path) == [YOURS, SAME]
        assert (tmp_path / FIRST).read_bytes() == b"mine"
    assert not list(tmp_path.glob("*.new.ipynb"))


def test_a_newer_version_replaces_what_nobody_changed(course: Course, tmp_path: Path) -> None:
    """And stands beside what somebody did."""
    copy_course(tmp_path)
    (tmp_path / FIRST).write_bytes(b"mine")
    for version in (b"2", b"3"):
        course |= dict.fromkeys(course, b"version " + version)
        assert states(tmp_path) == [BESIDE, RENEWED]
        assert (tmp_path / FIRST).read_bytes() == b"mine"
        assert (tmp_path / "00_first.new.ipynb").read_bytes() == course[FIRST]
        assert (tmp_path / SECOND).read_bytes() == course[SECOND]
        assert states(tmp_path) == [BESIDE, SAME]


def test_work_in_the_newer_version_stays_too(course: Course, tmp_path: Path) -> None:
    """Who works in NAME.new.ipynb keeps that as well, and one of that name that was never ours."""
    copy_course(tmp_path)
    (tmp_path / FIRST).write_bytes(b"mine")
    (tmp_path / "01_second.new.ipynb").write_bytes(b"mine from the start")
    (tmp_path / SECOND).write_bytes(b"mine")
    course |= dict.fromkeys(course, b"version 2")
    assert states(tmp_path) == [BESIDE, YOURS]
    (tmp_path / "00_first.new.ipynb").write_bytes(b"mine")
    course |= dict.fromkeys(course, b"version 3")
    assert states(tmp_path) == [YOURS, YOURS]
    assert {path.read_bytes()[:4] for path in tmp_path.glob("*.ipynb")} == {b"mine"}


def test_who_takes_over_the_newer_version_gets_the_next(course: Course, tmp_path: Path) -> None:
    """Moved over one's own it is ours again."""
    copy_course(tmp_path)
    (tmp_path / FIRST).write_bytes(b"mine")
    course[FIRST] = b"version 2"
    copy_course(tmp_path)
    (tmp_path / "00_first.new.ipynb").replace(tmp_path / FIRST)
    assert states(tmp_path) == [SAME, SAME]
    course[FIRST] = b"version 3"
    assert states(tmp_path) == [RENEWED, SAME]


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"00_first.ipynb": 1}', "[" * 100_000, "\x00\xff"])
def test_a_list_of_copies_that_is_none(course: Course, tmp_path: Path, text: str) -> None:
    """Whatever it says: what is there and is not the newest stays."""
    copy_course(tmp_path)
    (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
    course[FIRST] = b"version 2"
    assert states(tmp_path) == [BESIDE, SAME]
    assert (tmp_path / FIRST).read_bytes() == b"first, version 1"


def test_what_is_no_plain_file_stays(course: Course, tmp_path: Path) -> None:
    """A folder, and a link, even one that leads to our own content or nowhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(course[FIRST])
    folder = tmp_path / "course"
    folder.mkdir()
    (folder / FIRST).symlink_to(elsewhere)
    (folder / SECOND).mkdir()
    assert states(folder) == [BESIDE, BESIDE]
    (folder / FIRST).unlink()
    (folder / FIRST).symlink_to("nowhere")
    assert states(folder) == [BESIDE, BESIDE]
    assert (folder / FIRST).is_symlink()
    assert elsewhere.read_bytes() == course[FIRST]


def test_a_folder_that_cannot_be(course: Course, tmp_path: Path) -> None:
    """A file in the way, and a course without notebooks, are told of."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="folder"):
        copy_course(tmp_path / "file" / "below")
    course.clear()
    with pytest.raises(UsageError, match="without its notebooks"):
        copy_course(tmp_path / "course")


def test_no_link_leads_out_of_the_folder(tmp_path: Path) -> None:
    """There is no labkit above it: what is there is named by its path in labkit, and the notebooks are linked."""
    assert copies.alone(b"see [rings](../docs/a.md), [`docs/b.md`](../docs/b.md), [01](01_one.ipynb)") == (
        b"see rings (`docs/a.md`), `docs/b.md`, [01](01_one.ipynb)"
    )
    copy_course(tmp_path)
    texts = {path.name: path.read_text() for path in tmp_path.glob("*.ipynb")}
    assert [name for name, text in texts.items() if "](../" in text] == []
    assert "`docs/screen.md`" in texts[NOTEBOOKS[0].name] and "](01_one_kick.ipynb)" in texts[NOTEBOOKS[0].name]


# -- labkit lab --------------------------------------------------------------------------------------------------------


def test_lab_says_what_it_copied(tmp_path: Path) -> None:
    """Each notebook of the course by name, and what stays because it was changed."""
    result = run("lab", tmp_path, "--no-serve")
    assert result.exit_code == 0, result.output
    assert [notebook.name for notebook in NOTEBOOKS if notebook.name not in result.stdout] == []
    assert run("lab", tmp_path, "--no-serve").stdout.endswith(", as they were.\n")
    (tmp_path / NOTEBOOKS[0].name).write_text("mine")
    assert f"{NOTEBOOKS[0].name}: was there and is yours" in run("lab", tmp_path, "--no-serve").stdout
    assert student.notebooks().keys() == {path.name for path in tmp_path.glob("*.ipynb")}


def test_lab_as_json(tmp_path: Path) -> None:
    """The same as data, and nothing else."""
    told = json.loads(run("lab", tmp_path, "--no-serve", "--json").stdout)
    assert (told["folder"], told["serves"]) == (str(tmp_path), None)
    assert told["notebooks"][0] == {"name": NOTEBOOKS[0].name, "state": WRITTEN, "beside": None}
    assert "file" in fails_by_click(run("lab", Path(__file__), "--no-serve"))


def fails_by_click(result: Result) -> str:
    """An argument that click itself refuses."""
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_lab_becomes_jupyterlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    """On 127.0.0.1, in that folder, at the first notebook, with this Python; what JSON tells is what is executed."""
    became: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: became.append(arguments))
    for name in DISPLAYS:
        monkeypatch.delenv(name, raising=False)
    result = run("lab", tmp_path, "--port", "9001", *(["--json"] if as_json else []))
    ((program, command, environment),) = became
    assert program == sys.executable
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert {f"--ServerApp.root_dir={tmp_path}", "--ServerApp.port=9001", "--ServerApp.ip=127.0.0.1"} <= set(command)
    assert f"--LabApp.default_url=/lab/tree/{NOTEBOOKS[0].name}" in command
    assert "--no-browser" in command
    assert environment["JUPYTER_PREFER_ENV_PATH"] == "1"
    if as_json:
        assert json.loads(result.stdout)["serves"] == command


def test_a_browser_is_opened_where_there_is_a_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless --no-browser says otherwise."""
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _program, command, _environment: became.append(command))
    monkeypatch.setenv(DISPLAYS[0], ":0")
    run("lab", tmp_path)
    run("lab", tmp_path, "--no-browser")
    assert ["--no-browser" in command for command in became] == [False, True]


# -- labkit new-lab ----------------------------------------------------------------------------------------------------


def test_a_new_lab_overwrites_nothing(tmp_path: Path) -> None:
    """It is written once, under its name with or without the ending; then the name is taken."""
    result = run("new-lab", tmp_path / "my_lab", "--json")
    path = Path(json.loads(result.stdout)["notebook"])
    assert path == tmp_path / "my_lab.ipynb"
    content = path.read_bytes()
    for name in ("my_lab", "my_lab.ipynb"):
        assert "is there already" in fails(run("new-lab", tmp_path / name))
    assert path.read_bytes() == content
    assert "v1.2.ipynb" in run("new-lab", tmp_path / "v1.2").stdout
    (tmp_path / "link.ipynb").symlink_to("nowhere")
    fails(run("new-lab", tmp_path / "link"))


@pytest.mark.parametrize("name", ["", ".", "..", "/", "nowhere/lab", "x" * 300])
def test_a_new_lab_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No name, a folder, a folder that is not there, a name too long."""
    monkeypatch.chdir(tmp_path)
    fails(run("new-lab", name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.guest
def test_a_new_lab_runs_as_it_is(tmp_path: Path, cpu: str) -> None:  # noqa: ARG001
    """Every cell, from top to bottom, without an error, and its ids and form are those of a notebook."""
    path = skeleton.new_lab(tmp_path / "first_look")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# first look\n")
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    assert "kick_eventfd" in "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
