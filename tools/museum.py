"""Play the museum, print what came of it, and write the tables of docs/museum.md and docs/races.md: `make museum`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from collection import HEADINGS, MUSEUM, RACES, SECONDS, invariant_table, page, timed_row
from pages import with_section
from rich.console import Console
from rich.table import Table

from labkit import museum
from labkit.museum import Result

WIDTH = 150  # of the table, for a log that has no width of its own


def show(results: list[Result]) -> None:
    """The page's table, and on which CPU it was."""
    shown = Table(*HEADINGS, SECONDS, "cpu")
    for result in results:
        shown.add_row(*timed_row(result), result.cpu)
    Console(width=max(Console().width, WIDTH)).print(shown)


def main() -> None:
    """A specimen that does not show what it says is an error, and the page stays as it was."""
    results = [museum.run(name) for name in museum.names()]
    show(results)
    wrong = [one.name for one in results if not (one.breaks and one.found and one.holds_without)]
    if wrong:
        sys.exit(f"these do not show what they say: {', '.join(wrong)}")
    MUSEUM.write_text(page(results, MUSEUM.read_text()))
    RACES.write_text(with_section(RACES.read_text(), "invariants", invariant_table(), by="make museum"))
    print("wrote docs/museum.md, and the invariants in docs/races.md")


if __name__ == "__main__":
    main()
