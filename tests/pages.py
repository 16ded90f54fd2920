"""How do tests become a page? Tables of what pytest collects, for docs/fidelity.md and docs/rules.md."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rulebook import ALL

from labkit import rules

ROOT = Path(__file__).resolve().parent.parent
FIDELITY, RULES = ROOT / "docs" / "fidelity.md", ROOT / "docs" / "rules.md"
CHECKLIST = ("test_checklist*.py", "test_ioeventfd.py", "test_fuzz_kicks.py", "test_fuzz_vring.py")
# What others test: the beginning of a test's docstring -> its lines, as far as labkit can have them.
LINES = {
    "basic": (),
    "indirect": (),
    "config": (),
    "msix": (),
    "intx": (),
    "idx": (),
    "nxvirtq": (),
    "hotplug": (),
    "libqos": ("STATUS reads 0 after a reset", "1, 3, 7 read back", "power of two"),
    "scsi": ("avail.idx jumped by 2 * size", "broken until reset", "recovers"),
    "virtio-net": ("send", "receive", "rx while stopped, then cont"),
    "vhost-user": ("reads guest memory by memfd", "multiqueue"),
    "ioeventfd": (
        *("assign:", "duplicate", "wildcard collision", "deassign twice", "wrong fd", "bad length"),
        *("close while assigned", "assign and deassign against a kicking vCPU", "failure at queue k"),
    ),
    "vringh_test": ("transfers between two processes", "--indirect", "--eventidx", "wrapping through 65535"),
}
_NODE = re.compile(r"^(?P<file>[^:\s]+\.py)::(?P<test>\w+)(?:\[(?P<id>.*)\])?$", re.MULTILINE)
_RULE = re.compile(r"test_r(\d+)_")


class Found(NamedTuple):
    """A test function: where it is, what it keeps, and the revisions it is run for."""

    file: str
    name: str
    keeps: str
    revisions: frozenset[str]

    @property
    def rule(self) -> int:
        """The rule in its name; 0: none."""
        match = _RULE.match(self.name)
        return int(match[1]) if match else 0


@cache
def collect(*patterns: str) -> list[Found]:
    """Every test of these files, as pytest finds them."""
    files = sorted(path for pattern in patterns for path in (ROOT / "tests").glob(pattern))
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *map(str, files)]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    seen: dict[tuple[str, str], set[str]] = {}
    for node in _NODE.finditer(listing):
        of = seen.setdefault((node["file"], node["test"]), set())
        of.update(part for part in (node["id"] or "").split("-") if part in ALL)
    said = {str(path.relative_to(ROOT)): _docstrings(path) for path in files}
    return [Found(file, name, said[file][name], frozenset(of)) for (file, name), of in seen.items()]


def _docstrings(path: Path) -> dict[str, str]:
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return {function.name: " ".join((ast.get_docstring(function) or "").split()) for function in functions}


# -- tables -----------------------------------------------------------------------------------------------------------


def markdown(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def rule_table(found: Iterable[Found]) -> str:
    """Rule, test, and a mark for each revision it is run for."""
    by_rule = sorted((test for test in found if test.rule), key=lambda test: test.rule)
    return markdown(
        ["rule", "what the test keeps", *ALL, "test"],
        ([f"R{test.rule}", _without_rule(test.keeps), *_marks(test), _link(test)] for test in by_rule),
    )


def consequence_table(found: Iterable[Found]) -> str:
    """The same for tests that belong to no single rule."""
    return markdown(
        ["what follows from the rules", *ALL, "test"],
        ([test.keeps, *_marks(test), _link(test)] for test in found if not test.rule),
    )


def checklist_table(found: Iterable[Found]) -> str:
    """A line of what others test, and the test here. The lines stand in the order of LINES."""
    return markdown(["line", "test"], ([test.keeps, _link(test)] for test in sorted(found, key=_place)))


def line_of(test: Found) -> str:
    """Which of LINES its docstring begins with; empty: none."""
    return next((line for line in LINES if re.match(rf"{line}\b", test.keeps)), "")


def _place(test: Found) -> int:
    return list(LINES).index(line_of(test))


def _marks(test: Found) -> list[str]:
    return ["✓" if not test.revisions or name in test.revisions else "–" for name in ALL]


def _without_rule(sentence: str) -> str:
    return re.sub(r"^(R\d+(, )?)+: ", "", sentence)


def _link(test: Found) -> str:
    return f"[{test.name}](../{test.file})"


def rule_pages() -> str:
    """docs/rules.md below its marker: the prose, the differences, a diagram and a table for each revision."""
    prose = "\n".join(f"- **R{number}** {rules.text(f'R{number}')}" for number in range(1, 19))
    parts = [f"## The rules of v6\n\n{prose}", f"## Where the revisions differ\n\n{rules.differences().markdown()}"]
    for name in rules.names():
        drawn = f"```mermaid\n{rules.diagram(name).mermaid}\n```"
        parts.append(f"## {name}\n\n{drawn}\n\n{rules.table(name).markdown()}")
    return "\n\n".join(parts)


# -- sections of a page: between two comments, everything is written by `make fidelity` or another such command --------

FIDELITY_BY = "make fidelity"


def section(page: str, name: str, by: str = FIDELITY_BY) -> str:
    """What stands in a section. ValueError if the page has no such section."""
    begin, end = _marks_of(name, by)
    return page[page.index(begin) + len(begin) : page.index(end)].strip()


def with_section(page: str, name: str, text: str, by: str = FIDELITY_BY) -> str:
    """The page with that section written anew."""
    begin, end = _marks_of(name, by)
    return f"{page[: page.index(begin)]}{begin}\n{text}\n{page[page.index(end) :]}"


def _marks_of(name: str, by: str) -> tuple[str, str]:
    return f"<!-- {name}: written by {by} -->", f"<!-- end of {name} -->"
