"""Grade a course's folder with nbgrader, and tell the points: `python tests/grading.py FOLDER` (see test_student.py).

In a process of its own: nbgrader and what it stands on warn of much that is not ours.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from nbgrader.apps import NbGraderAPI
from traitlets.config import Config

from labkit.cpu import CHOSEN_BY

ASSIGNMENT = "labkit"


def done(result: dict[str, Any]) -> None:
    """A step of nbgrader's worked."""
    if not result["success"]:
        sys.exit(result["log"] + str(result.get("error")))


def points(root: Path) -> dict[str, dict[str, float]]:
    """Student → test cell → points; each one's submission is graded, on the CPU that the student is named after."""
    config = Config()
    config.CourseDirectory.root = str(root)
    api = NbGraderAPI(config=config)
    done(api.generate_assignment(ASSIGNMENT))
    told = {}
    for student in sorted(folder.name for folder in (root / "submitted").iterdir()):
        os.environ[CHOSEN_BY] = student.split("-")[0]
        done(api.autograde(ASSIGNMENT, student))
        with api.gradebook as gradebook:
            (notebook,) = gradebook.find_submission(ASSIGNMENT, student).notebooks
            told[student] = {grade.name: grade.auto_score for grade in notebook.grades}
    return told


if __name__ == "__main__":
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader runs alembic
    sys.stdout.write(json.dumps(points(Path(sys.argv[1]))))
