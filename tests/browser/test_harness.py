"""Would a test in the browser see what goes wrong, and does nothing run on after the last of them?"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from browser.lab import JupyterLab
from browser.page import Notebook

RAISES = "raise ValueError('on purpose')"
WARNS = "import warnings; warnings.warn('on purpose')"
COMPLAINS = "from IPython.display import Javascript; Javascript('console.error(\"from the page\")')"
BREAKS = "Javascript('setTimeout(() => { throw new Error(\"broken page\") })')"


def test_what_goes_wrong_is_seen(lab: JupyterLab, notebook: Notebook) -> None:
    """A cell that raises or warns, a script that complains, an error in the page: each would fail the test."""
    notebook.open(lab.write("wrong.ipynb", COMPLAINS, BREAKS, RAISES, WARNS))
    notebook.run(0)
    with notebook.page.expect_event("pageerror"):
        notebook.run(1)
    assert "from the page" in notebook.errors[0]
    assert "broken page" in notebook.errors[1]
    notebook.errors.clear()

    with pytest.raises(AssertionError, match="ValueError: on purpose"):
        notebook.run(2)
    with pytest.raises(AssertionError, match="UserWarning: on purpose"):
        notebook.run(3)


def test_nothing_runs_on_after_the_server(tmp_path: Path) -> None:
    """Even a server that is killed, and so ends none of its kernels, leaves nothing behind."""
    lab = JupyterLab(tmp_path)
    try:
        lab.ask("POST", "kernels")
        assert set(lab.processes()) > {lab.pid}
        os.kill(lab.pid, signal.SIGKILL)
    finally:
        lab.close()
    assert list(lab.processes()) == []
