"""What has a page of the site that its file has not? Contents, docstrings, the shell's help, diagrams as tables.

All of it is put in while Sphinx reads a page, so that the file stays what the repository's web view can show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click
import stored

from labkit import rules
from labkit.cli import main

# The contents of the site: a caption, and the pages under it. A `*` takes what is there, in the order of its names.
CONTENTS = {
    "Tutorial": ["tutorial", "/notebooks/*"],
    "How to": [
        "howto/boot_your_disk",
        "howto/hold_a_thread",
        "howto/search_a_scenario",
        "howto/migrate_between_hosts",
        "howto/write_a_device",
        "howto/export_to_perfetto",
        "howto/bring_your_own_guest",
        "howto/test_with_pytest",
        "howto/run_in_ci",
    ],
    "Reference": [
        "reference/labkit",
        "reference/machine",
        "reference/guest",
        "reference/device",
        "reference/rules",
        "reference/trace",
        "reference/migration",
        "reference/races",
        "reference/museum",
        "reference/widgets",
        "reference/course",
        "reference/numbers",
        "reference/shell",
    ],
    "Explanation": [
        "/ARCHITECTURE",
        "rules",
        "races",
        "museum",
        "migration",
        "trace",
        "screen",
        "ipython",
        "pytest",
        "fidelity",
        "performance",
        "/guests/README",
    ],
    "Teaching": ["course", "teaching", "glossary"],
    "The project": ["/README", "install", "/CONTRIBUTING", "/CHANGELOG"],
}
ROOT_PAGE = "docs/index"
REFERENCE = "docs/reference/"
SHELL_PAGE = REFERENCE + "shell"
PYTHON_LINK = re.compile(r"\]\((?:\.\./)+(labkit/[\w/]+)\.py\)")
MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MOVE = re.compile(r"^ +(\w+) --> (\w+) : (.*)$", re.MULTILINE)


def contents() -> str:
    """The toctrees of the root page. They are hidden: the page says in its own words what there is."""
    trees = []
    for caption, names in CONTENTS.items():
        trees.append("\n".join(["```{toctree}", ":hidden:", ":glob:", f":caption: {caption}", "", *names, "```"]))
    return "\n\n".join(trees)


def docstrings(text: str) -> str:
    """For each module of labkit that a reference page links: what its docstrings say."""
    modules = dict.fromkeys(path.replace("/", ".").removesuffix(".__init__") for path in PYTHON_LINK.findall(text))
    return "\n".join(f"## `{module}`\n\n{documented(module)}" for module in modules)


def documented(module: str) -> str:
    """The directive for one module; at the front door stand the names that it brings together, elsewhere its own."""
    option = {
        "labkit": ":imported-members:",
        "labkit.races.stepper": ":no-index:",  # a function of labkit.races has the name, too
    }.get(module, ":ignore-module-all:")
    return "\n".join(["```{eval-rst}", f".. automodule:: {module}", f"    {option}", "```", ""])


def shell() -> str:
    """`--help` of labkit and of each of its verbs."""
    return "\n".join(f"## `{name}`\n\n```text\n{text}\n```\n" for name, text in helps(main, "labkit", None))


def helps(command: click.Command, name: str, parent: click.Context | None) -> Iterator[tuple[str, str]]:
    """(how it is called, its help) of a command and of what is under it."""
    context = click.Context(command, info_name=name.rsplit(" ", 1)[-1], parent=parent, max_content_width=100)
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for verb in command.list_commands(context):
            inner = command.get_command(context, verb)
            if inner is not None:
                yield from helps(inner, f"{name} {verb}", context)


def as_table(diagram: str) -> str:
    """A state diagram of the rules as a table: the site needs no program to draw it, in the browser or before."""
    rows = [(f"*{a}*&nbsp;→&nbsp;*{b}*", why.replace("<br/>", ", ")) for a, b, why in MOVE.findall(diagram)]
    return rules.Listing("", ("owner", "by"), tuple(rows)).markdown()


def add(_app: object, page: str, source: list[str]) -> None:
    """Put it in, while Sphinx reads a page."""
    if page == ROOT_PAGE:
        source[0] += "\n\n" + contents()
    elif page == SHELL_PAGE:
        source[0] += "\n\n" + shell()
    elif page.startswith(REFERENCE):
        source[0] += "\n\n" + docstrings(source[0])
    elif page.startswith("notebooks/"):
        number = page.removeprefix("notebooks/").split("_")[0]
        source[0] = stored.page(source[0], number, as_table)
    else:
        source[0] = MERMAID.sub(lambda fence: as_table(fence[1]), source[0])


def setup(app: Any) -> None:
    """Called by conf.py."""
    app.connect("source-read", add)
