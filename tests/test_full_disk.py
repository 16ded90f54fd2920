"""What if the file system is full? A clear error, nothing left by halves, and the machine goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import errno, os, sys
import labkit

folder = sys.argv[1]
with labkit.boot() as vm:
    snapshot = vm.snapshot()
    for save in (snapshot.save, vm.trace.save):
        with open(f"{folder}/filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC
        try:
            save(f"{folder}/saved")
        except labkit.HostError as error:
            assert error.errno == errno.ENOSPC, error
        else:
            raise AssertionError(f"{save} found room")
        assert os.listdir(folder) == ["filler"], os.listdir(folder)
        os.unlink(f"{folder}/filler")
    assert vm.guest.read(0).startswith(b"labkit")
"""


@pytest.mark.guest
@pytest.mark.usefixtures("cpu")
def test_what_does_not_fit_is_not_saved_by_halves(tmp_path: Path) -> None:
    """A snapshot and a recording, on a file system of 64 KiB that a process of its own has mounted for itself."""
    inside = f'mount -t tmpfs -o size=64k none "{tmp_path}" && echo mounted && exec "$0" -c "$1" "{tmp_path}"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", inside, sys.executable, SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("mounted"):
        pytest.skip(f"no mount namespace of our own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
