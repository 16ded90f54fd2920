"""Do docs/rules.md and docs/fidelity.md say what the code and the tests say? `make fidelity` writes them."""

from __future__ import annotations

import pages
from oracle.report import recorded_results, scenario_table


def test_the_page_of_rules_is_made_from_the_tables() -> None:
    """docs/rules.md holds the prose, the tables and the diagrams as they are now."""
    assert pages.section(pages.RULES.read_text(), "rules") == pages.rule_pages()


def test_the_page_of_fidelity_names_every_test_of_a_rule() -> None:
    """docs/fidelity.md lists the tests that are there, for the revisions they are run for."""
    page, found = pages.FIDELITY.read_text(), pages.collect("test_rules_*.py")
    assert pages.section(page, "rules") == pages.rule_table(found)
    consequences = [test for test in found if test.file.endswith("consequences.py")]
    assert pages.section(page, "consequences") == pages.consequence_table(consequences)


def test_the_page_of_fidelity_names_every_line_that_others_test() -> None:
    """docs/fidelity.md lists the tests of the checklist; no line is without a test, and no test without a line."""
    found = pages.collect(*pages.CHECKLIST)
    assert [test.name for test in found if not pages.line_of(test)] == []
    for line, parts in pages.LINES.items():
        kept = " ".join(test.keeps for test in found if pages.line_of(test) == line)
        assert kept, line
        assert [part for part in parts if part not in kept] == [], line
    assert pages.section(pages.FIDELITY.read_text(), "checklist") == pages.checklist_table(found)


def test_the_page_of_fidelity_shows_what_qemu_did() -> None:
    """docs/fidelity.md shows the recording of QEMU and the differences of labkit to which tests/oracle holds both."""
    assert pages.section(pages.FIDELITY.read_text(), "scenarios") == scenario_table(recorded_results())


def test_each_rule_has_a_test_for_each_revision() -> None:
    """R1 to R18, four revisions: no cell of the table is empty."""
    found = pages.collect("test_rules_*.py")
    for rule in range(1, 19):
        covered = {name for test in found if test.rule == rule for name in test.revisions}
        assert covered == set(pages.ALL), f"R{rule}"
