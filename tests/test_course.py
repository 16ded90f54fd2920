"""Does every exercise of the notebooks answer whatever it is told, and do the notebooks hold them as nbgrader reads?"""

from __future__ import annotations

from pathlib import Path

import pytest
from classroom import HOSTILE, NOTEBOOKS, answered, arities, cells, checked_in, fails, graded, wrong
from rulebook import Boot

import labkit
from labkit import course
from labkit.course.exercise import Exercise
from labkit.course.verdict import AT_MOST, Verdict, not_yet, right, shown

ALL = [one.name for one in course.exercises()]
NO_NAMES = ("", "x", "99.who", "00", "00.", "00.nobody-asked", "00_start_here", None, 0, ["00"], ())
WITH_EXERCISES = [notebook for notebook in NOTEBOOKS if graded(notebook)]
MARKERS = ("### BEGIN SOLUTION", "### END SOLUTION", "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS")
COMMON = {"schema_version": 3, "task": False, "cell_type": "code"}
SOLUTION = {**COMMON, "locked": False, "solution": True, "grade": False}
TEST = {**COMMON, "locked": True, "solution": False, "grade": True}

notebooks = pytest.mark.parametrize("notebook", WITH_EXERCISES, ids=lambda path: path.stem)


# -- verdicts and names ------------------------------------------------------------------------------------------------


def test_a_verdict_is_true_where_the_answer_is_right() -> None:
    """A verdict can be asserted, and says in words what its colour says."""
    yes, no = right("it is"), not_yet("<3 kicks", "count again")
    assert yes
    assert not no
    assert repr(yes) == "right: it is"
    assert repr(no) == "not yet: <3 kicks\nhint: count again"
    assert "<b>right</b>: it is" in yes._repr_html_()
    assert "<b>not yet</b>: &lt;3 kicks<br><b>hint</b>: count again" in no._repr_html_()


def test_an_answer_is_shown_shortened() -> None:
    """What somebody answered is quoted, however long it is, and whatever its repr does."""
    assert shown("iothread") == "'iothread'"
    assert len(shown("x" * 10_000)) < AT_MOST + 10
    for hostile in HOSTILE:
        assert shown(hostile)


@pytest.mark.parametrize("name", NO_NAMES)
def test_an_unknown_name_is_told_which_there_are(name: object) -> None:
    """No exercise has this name: a UsageError names those that are there."""
    with pytest.raises(labkit.UsageError, match=r"\d\d"):
        course.check(name, "answer")  # type: ignore[arg-type]


def test_exercises_are_listed_by_notebook() -> None:
    """All of them, or those of a notebook by its digits or its file's name, in the order of the path."""
    assert course.exercises("01") == course.exercises("01_one_kick.ipynb")
    digits = sorted({name[:2] for name in ALL})
    assert course.exercises() == tuple(one for notebook in digits for one in course.exercises(notebook))
    assert len(set(ALL)) == len(ALL)
    assert all(name[:2].isdigit() and name[2] == "." for name in ALL)
    assert all(" at 0x" not in repr(one) for one in course.exercises())


def test_wrong_arguments_are_a_verdict() -> None:
    """Too few, too many or unknown arguments are told of, with those that it takes."""

    def judge(answer: object, vm: object, *, since: int = 0) -> Verdict:
        return right(f"{answer} {vm} {since}")

    exercise = Exercise("99.example", "what is it?", judge)
    assert exercise.takes == 'course.check("99.example", answer, vm, since=)'
    assert exercise.verdict("a", "b", since=3).says == "a b 3"
    for arguments, options in [((), {}), (("a",), {}), (("a", "b", "c"), {}), (("a", "b"), {"until": 1})]:
        verdict = exercise.verdict(*arguments, **options)
        wrong(verdict)
        assert exercise.takes in verdict.hint


def test_what_a_students_function_raises_is_told() -> None:
    """A judge that calls a function of the student's tells what that raised, and it goes no further."""
    exercise = Exercise("99.example", "what is it?", lambda function: function())
    verdict = exercise.verdict(lambda: 1 // 0)
    wrong(verdict)
    assert "ZeroDivisionError" in verdict.says
    wrong(exercise.verdict(fails))


def test_an_answer_that_is_not_written_yet() -> None:
    """A function with nothing in it but what students' cells begin with: its question is said again."""

    def unwritten() -> Verdict:
        raise NotImplementedError()

    exercise = Exercise("99.example", "what is it?", lambda function: function())
    assert exercise.verdict(unwritten) == not_yet("nothing stands there yet", "what is it?")


# -- answers that nobody expects ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_nonsense_is_not_right(name: str) -> None:
    """Whatever is given for answer and evidence, the verdict is no, in words."""
    for hostile in HOSTILE:
        for count in arities(name):
            wrong(answered(name, [hostile] * count))


@pytest.mark.parametrize("name", ALL)
def test_nonsense_about_a_closed_machine_is_not_right(boot: Boot, name: str) -> None:
    """A machine that is closed, or its trace, is no evidence for nonsense, and no answer either."""
    vm = boot()
    vm.close()
    for evidence in (vm, vm.trace):
        wrong(answered(name, [evidence]))
        for count in arities(name)[1:-1]:
            for answer in (*HOSTILE, evidence):
                wrong(answered(name, [answer, *[evidence] * count]))


# -- the notebooks -----------------------------------------------------------------------------------------------------


def test_each_exercise_stands_in_its_notebook() -> None:
    """What a notebook checks exists and is of that notebook, and no exercise is without one."""
    sources = [(notebook.name[:2], cell["source"]) for notebook in NOTEBOOKS for cell in cells(notebook)]
    asked = {(name, digits) for digits, source in sources for name in checked_in(source)}
    assert asked == {(name, name[:2]) for name in ALL}


@notebooks
def test_each_exercise_has_a_solution_and_a_test(notebook: Path) -> None:
    """A cell with the solution between markers, which ends with the check, then a locked cell that asserts the same."""
    names = []
    found = graded(notebook)
    for solution, test in zip(found[::2], found[1::2], strict=True):
        (name,) = checked_in(solution["source"].splitlines()[-1])
        grade_id = name.replace(".", "-")
        points = test["metadata"]["nbgrader"].get("points")
        assert solution["metadata"]["nbgrader"] == {**SOLUTION, "grade_id": grade_id}
        assert test["metadata"]["nbgrader"] == {**TEST, "grade_id": f"{grade_id}-test", "points": points}
        assert isinstance(points, int)
        assert points > 0
        assert test["source"].startswith("assert ")
        assert set(checked_in(test["source"])) == {name}
        names.append(name)
    assert names == [one.name for one in course.exercises(notebook.name)]


def marked(source: str) -> list[str]:
    """Lines that are a marker, in order."""
    return [line.strip() for line in source.splitlines() if line.strip().startswith("### ")]


@notebooks
def test_markers_are_balanced(notebook: Path) -> None:
    """A solution begins and ends once in its cell, hidden tests at most once in theirs, and no other cell has any."""
    for cell in cells(notebook):
        lines = marked(cell["source"])
        nbgrader = cell["metadata"].get("nbgrader")
        if nbgrader is None:
            assert lines == []
        elif nbgrader["solution"]:
            assert lines == list(MARKERS[:2])
        else:
            assert lines in ([], list(MARKERS[2:]))


@notebooks
def test_the_instructors_version_shows_that_its_solutions_are_right(notebook: Path) -> None:
    """What is stored below each solution is the verdict, and it is right."""
    for cell in graded(notebook)[::2]:
        (output,) = [one for one in cell["outputs"] if one["output_type"] == "execute_result"]
        assert "".join(output["data"]["text/plain"]).startswith("right: ")
