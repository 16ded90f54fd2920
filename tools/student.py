"""Write the student's version of the notebooks, as nbgrader's own converter makes it: `make student`.

    python tools/student.py FOLDER NOTEBOOK ...

labkit/course/student.py makes the same without nbgrader, but for the checksums by which nbgrader sees a changed test.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from nbgrader.apps import NbGraderAPI
from traitlets.config import Config

ASSIGNMENT = "labkit"


def generate(notebooks: list[Path], folder: Path) -> None:
    """Replace the notebooks in `folder` by the student's version of these."""
    with tempfile.TemporaryDirectory() as root:
        source = Path(root, "source", ASSIGNMENT)
        source.mkdir(parents=True)
        for notebook in notebooks:
            shutil.copy(notebook, source)
        config = Config()
        config.CourseDirectory.root = root
        config.GenerateAssignment.no_database = True  # who grades makes one, by generating the assignment there
        config.SaveCells.enabled = False
        result = NbGraderAPI(config=config).generate_assignment(ASSIGNMENT)
        if not result["success"]:
            sys.exit(result["log"] + result.get("error", ""))
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(Path(root, "release", ASSIGNMENT).glob("*.ipynb")):
            shutil.copyfile(path, folder / path.name)


if __name__ == "__main__":
    into, *names = map(Path, sys.argv[1:])
    generate(names, into)
    print(f"the student's version of {len(names)} notebooks is in {into}")
