"""How does an object print itself as the last line of a cell? One small HTML table, and the same as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

EMULATED = "emulated"  # Cpu.name of the back end whose times are an emulator's
LEFT = 'style="text-align: left"'  # JupyterLab puts cells to the right, which suits figures, not words


def cpu_note(cpu: str) -> str:
    """Which CPU it was, for a caption above times: nobody shall take those of an emulator for hardware's."""
    return f"cpu: {cpu}" + (", whose times say nothing about hardware" if cpu.endswith(EMULATED) else "")


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table with a caption and column headings; everything is escaped."""
    head = "".join(f'<th scope="col" {LEFT}>{escape(heading)}</th>' for heading in headings)
    body = "".join("<tr>" + "".join(f"<td {LEFT}>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def named(caption: str, values: Mapping[str, object]) -> str:
    """An HTML table of two columns, name and value."""
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{_with_lines(value)}</td></tr>' for name, value in values.items()
    )
    return f"<table><caption>{escape(caption)}</caption><tbody>{body}</tbody></table>"


def _with_lines(value: object) -> str:
    """One of several lines keeps them, and where they begin."""
    said = escape(str(value))
    return f'<pre style="margin: 0; text-align: left">{said}</pre>' if "\n" in said else said


def fields(values: Mapping[str, object]) -> str:
    """`name=value` pairs in one line."""
    return " ".join(f"{name}={value}" for name, value in values.items())


def lines(caption: str, values: Mapping[str, object]) -> str:
    """The plain form of `named`: one aligned line each."""
    width = max(map(len, values), default=0)
    next_line = "\n" + " " * (width + 4)
    said = {name: str(value).replace("\n", next_line) for name, value in values.items()}
    return "\n".join([caption, *(f"  {name:<{width}}  {value}" for name, value in said.items())])
