"""How does a test get another version of ipykernel? As a folder before all others on a kernel's path.

Everything else in that kernel is of the environment that runs the tests. The versions, with their hashes and with what
else they need, are in requirements/; the folders are kept in build/, so each is fetched once.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
KEPT = Path(__file__).parents[2] / "build" / "ipykernel"
VERSIONS = tuple(sorted(path.stem.removeprefix("ipykernel-") for path in REQUIREMENTS.glob("ipykernel-*.txt")))
PIP_INSTALL = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes")
IMPATIENT = ("--timeout=20", "--retries=1")  # where no registry is reached that is soon known


class NotToBeHad(Exception):
    """A version could not be fetched; says what pip said."""


def install(version: str) -> Path:
    """Where this version of ipykernel is; fetch it if it is not there yet."""
    folder = KEPT / version
    if not folder.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(dir=KEPT))
        try:
            fetch(version, half)
            half.rename(folder)
        except OSError:
            if not folder.exists():  # else another run was quicker
                raise
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return folder


def fetch(version: str, folder: Path) -> None:
    """Let pip put it there."""
    requirements = REQUIREMENTS / f"ipykernel-{version}.txt"
    command = [sys.executable, *PIP_INSTALL, *IMPATIENT, f"--target={folder}", f"--requirement={requirements}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise NotToBeHad(f"no ipykernel {version}: {result.stderr.strip().splitlines()[-1]}")
