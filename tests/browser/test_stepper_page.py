"""Can a race be decided by clicks in JupyterLab, to the point where an invariant breaks, and back?"""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

from browser.lab import JupyterLab
from browser.page import Notebook, expect
from browser.screen import Screen

RACE = """
import labkit
race = labkit.races.stepper("lost-kick-at-deassign", mutations=["lost-kick-at-deassign"])
race
"""

pytestmark = pytest.mark.guest


def test_a_race_is_lost_by_clicks_and_taken_back(lab: JupyterLab, notebook: Notebook) -> None:
    """The schedule grows with each click; at its end the broken invariant says what that means, until one goes back."""
    notebook.open(lab.write("race.ipynb", RACE, "race.schedule"))
    notebook.run(0)
    screen = Screen(notebook, 0)
    schedule = screen.all.get_by_label("schedule", exact=True)
    invariant = screen.all.get_by_role("table", name="invariants").get_by_role("row", name=re.compile("every-kick"))
    vcpu, iothread, back, rest = (
        screen.all.get_by_role("button", name=name, exact=True)
        for name in ("let vcpu0 go", "let iothread go", "Back", "Run the rest")
    )
    expect(schedule).to_have_text(re.compile(":$"))
    expect(invariant).to_contain_text("open")
    expect(iothread).to_be_disabled()

    screen.press(vcpu)
    expect(schedule).to_have_text(re.compile(":v$"))
    expect(screen.status).to_have_text("vcpu0 went: publish(0)")
    screen.press(vcpu)
    expect(schedule).to_have_text(re.compile(":v v$|:vx2$"))
    expect(iothread).to_be_enabled()
    screen.press(rest)
    expect(invariant).to_contain_text("broken")
    expect(invariant).to_contain_text("The guest waits for ever for a request that the device was told of.")
    expect(screen.status).to_contain_text("every-kick-is-served is broken")
    expect(vcpu).to_have_accessible_description(re.compile("the schedule has ended"))
    lost = schedule.inner_text()
    notebook.run(1)
    assert notebook.outputs(1) == [repr(lost)]

    screen.press(back)
    expect(invariant).to_contain_text("open")
    expect(vcpu).to_be_enabled()
    assert schedule.inner_text() != lost
