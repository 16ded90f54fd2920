"""Write the tables of docs/fidelity.md and docs/rules.md: `make fidelity`, after the tests they name have passed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

import pages
from oracle.report import recorded_results, scenario_table


def write() -> None:
    """Every section, made anew."""
    found = pages.collect("test_rules_*.py")
    consequences = [test for test in found if test.file.endswith("consequences.py")]
    page = pages.with_section(pages.FIDELITY.read_text(), "rules", pages.rule_table(found))
    page = pages.with_section(page, "consequences", pages.consequence_table(consequences))
    page = pages.with_section(page, "checklist", pages.checklist_table(pages.collect(*pages.CHECKLIST)))
    page = pages.with_section(page, "scenarios", scenario_table(recorded_results()))
    pages.FIDELITY.write_text(page)
    pages.RULES.write_text(pages.with_section(pages.RULES.read_text(), "rules", pages.rule_pages()))
    print("wrote docs/fidelity.md and docs/rules.md")


if __name__ == "__main__":
    write()
