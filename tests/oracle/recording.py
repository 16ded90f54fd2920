"""What did QEMU do? Its lines of every scenario, kept in qemu-7.2.txt, so that labkit is held against them everywhere.

`make fidelity` writes the file. Where QEMU is installed, the tests hold QEMU itself against it.
"""

from __future__ import annotations

from pathlib import Path

from oracle.scenarios import Scenario

FILE = Path(__file__).parent / "qemu-7.2.txt"
TITLE = "# "

Lines = list[str]


def to_text(played: dict[Scenario, Lines]) -> str:
    """The file's text: a title line `# name: what it is about` for each scenario, and what came of it."""
    blocks = [[f"{TITLE}{scenario.name}: {scenario.title}", *lines] for scenario, lines in played.items()]
    return "\n".join("".join(f"{line}\n" for line in block) for block in blocks)


def of_text(text: str) -> dict[str, Lines]:
    """Scenario name -> lines."""
    found: dict[str, Lines] = {}
    for line in text.splitlines():
        if line.startswith(TITLE):
            lines = found.setdefault(line.removeprefix(TITLE).partition(":")[0], [])
        elif line:
            lines.append(line)
    return found


def read() -> dict[str, Lines]:
    """What the file holds."""
    return of_text(FILE.read_text())


def without_kvm(lines: Lines) -> Lines:
    """Without the lines that only KVM's ioeventfds give."""
    return [line for line in lines if line.split()[1:2] not in (["assign"], ["deassign"])]
