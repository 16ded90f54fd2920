"""How does a stored notebook become a page? As it is, but for its solutions, and for what only a kernel can show."""

from __future__ import annotations

import json
import re
from typing import Any

SOLUTION = re.compile(r"### BEGIN SOLUTION\n.*?### END SOLUTION", re.DOTALL)
HIDDEN_TESTS = re.compile(r"\n*### BEGIN HIDDEN TESTS\n.*?### END HIDDEN TESTS", re.DOTALL)
LIVE = "application/vnd.jupyter.widget-view+json"
MERMAID = "text/vnd.mermaid"


def page(text: str, number: str, as_table: Any) -> str:
    """The JSON of the page. `number` comes before its title; `as_table` turns a Mermaid diagram into Markdown."""
    notebook = json.loads(text)
    first = notebook["cells"][0]
    first["source"] = "".join(first["source"]).replace("# ", f"# {number} · ", 1)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            _hide(cell)
            for output in cell["outputs"]:
                _still(output.get("data", {}), as_table)
    return json.dumps(notebook)


def _hide(cell: dict[str, Any]) -> None:
    """A student's page has no solutions and no hidden tests; what a solution was told is left out with it."""
    source = "".join(cell["source"])
    hidden = HIDDEN_TESTS.sub("", SOLUTION.sub("# your answer", source))
    if hidden != source:
        cell["source"], cell["outputs"] = hidden, []


def _still(data: dict[str, Any], as_table: Any) -> None:
    """Of an output that has several forms, those that need no kernel and no program to draw them."""
    data.pop(LIVE, None)
    if MERMAID in data:
        data["text/markdown"] = as_table("".join(data.pop(MERMAID)))
