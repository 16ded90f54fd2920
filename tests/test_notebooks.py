"""Do the notebooks say on which CPU, and may a run differ from what is stored in nothing but that?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nbval.plugin import get_sanitize_patterns
from rulebook import Boot

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SANITIZE = (ROOT / "tools" / "nbval.cfg").read_text()
VARIES = "# NBVAL_IGNORE_OUTPUT"
PICTURE_OF_A_TRACE = ".timeline("  # has the CPU in its title


def cells(notebook: Path) -> Iterator[Any]:
    """Cells of code."""
    return (cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code")


def sanitized(text: str) -> str:
    """As nbval compares it."""
    for regex, replacement in get_sanitize_patterns(SANITIZE):
        text = re.sub(regex, replacement, text)
    return text


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_varies_says_on_which_cpu(notebook: Path) -> None:
    """An output that differs from run to run is a time or comes of one: the cell shows a `cpu_note` with it."""
    sources = ["".join(cell["source"]) for cell in cells(notebook)]
    varying = [source for source in sources if source.startswith(VARIES)]
    assert [source for source in varying if "cpu_note" not in source and PICTURE_OF_A_TRACE not in source] == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_was_made_on_kvm(notebook: Path) -> None:
    """Whoever stores the notebooks, `make notebooks` does it on KVM."""
    assert "emulated" not in json.dumps([cell["outputs"] for cell in cells(notebook)])


def test_only_the_cpu_may_differ(boot: Boot) -> None:
    """A machine and the caption above its times are the same to nbval on both back ends, and nothing else is lost."""
    vm = boot()
    assert sanitized(vm.cpu_note) == "cpu: <cpu>"
    assert sanitized(repr(vm)).splitlines()[1:4] == [
        "  state    running",
        "  cpu      <cpu>, 1 vCPU",
        "  memory   16 MiB",
    ]
    assert sanitized(vm._repr_html_()) == vm._repr_html_().replace(f"<td>{vm.cpu}, ", "<td><cpu>, ")
    assert sanitized(repr(vm.proxy)) == repr(vm.proxy)
