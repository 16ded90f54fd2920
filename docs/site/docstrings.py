"""How does a docstring of the house become a page? Names with what they mean become lists, indented lines code."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

CODE = "    "
NAMES = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): +(?=\S)")  # `disk: a raw image ...`
WORDS = re.compile(r"(\S+) {2,}(?=\S)")  # `R2   STATUS written with ...`

# Type names that two modules have: (module that writes one, name) → the one it means.
MEANT = {
    ("labkit", "Difference"): "labkit.snapshot.Difference",
    ("labkit.snapshot", "Difference"): "labkit.snapshot.Difference",
    ("labkit.recording", "Difference"): "labkit.recording.moments.Difference",
    ("labkit.races.stepper", "Moment"): "labkit.races.moment.Moment",
}


def rewrite(what: str, text: str) -> str:
    """A docstring of a "module", "class" ... as reStructuredText."""
    written = []
    for is_code, paragraphs in groupby(re.split(r"\n{2,}", text), lambda one: one.startswith(CODE)):
        if is_code:
            written.append(".. code-block:: python\n\n" + "\n\n".join(paragraphs))
        else:
            written += [_paragraph(what, one) for one in paragraphs]
    return "\n\n".join(written)


def _paragraph(what: str, text: str) -> str:
    if WORDS.match(text):
        return _list(text, WORDS)
    return _list(text, NAMES) if NAMES.match(text) and what != "module" else text


def _list(text: str, item: re.Pattern[str]) -> str:
    """A bullet for each line that begins an item; the others go on with the one before."""
    bullets: list[str] = []
    for line in text.split("\n"):
        begins = item.match(line)
        if begins:
            bullets.append(f"- **{begins[1]}**: {line[begins.end() :]}")
        else:
            bullets.append(f"  {line.strip()}")
    return "\n".join(bullets)


def process(_app: object, what: str, _name: str, _thing: object, _options: object, lines: list[str]) -> None:
    """Told by Sphinx of each docstring."""
    lines[:] = rewrite(what, "\n".join(lines).strip("\n")).split("\n")


def say_which(_app: object, doctree: Any) -> None:
    """Say which type is meant where two have the name, so that no link leads to the other."""
    for node in doctree.findall(lambda node: node.tagname == "pending_xref"):
        meant = MEANT.get((node.get("py:module"), node.get("reftarget")))
        if meant:
            node["reftarget"] = meant


def setup(app: Any) -> None:
    """Called by conf.py."""
    app.connect("autodoc-process-docstring", process)
    app.connect("doctree-read", say_which)
