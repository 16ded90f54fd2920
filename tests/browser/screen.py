"""A screen in a notebook's output, as who clicks on it sees it: buttons by their names, and what they have done."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, expect

from browser.page import Notebook, Which

A_MACHINE = re.compile(r"^vm\d+$")


class Screen:
    """What one cell shows. Everything is found by role and name; `click` waits until it has been carried out."""

    def __init__(self, notebook: Notebook, which: Which) -> None:
        self.all = notebook.output(which)
        self.asked = self.all.get_by_label("last request")
        self.status = self.all.get_by_role("status")
        self.alert = self.all.get_by_role("alert")
        self.rule = self.all.get_by_role("complementary", name="rule")
        self._clicked = 0

    def machine(self, at: int = 0) -> Locator:
        """One of the machines, from the left."""
        return self.all.get_by_role("region", name=A_MACHINE).nth(at)

    def button(self, name: str, at: int = 0) -> Locator:
        """The button of that very name, of one machine."""
        return self.machine(at).get_by_role("button", name=name, exact=True)

    def click(self, name: str, at: int = 0) -> None:
        """Click it, and wait for the page to say that this was done, too."""
        self.press(self.button(name, at))

    def press(self, button: Locator, times: int = 1) -> None:
        """The same with any button; `times` in one turn of the page's loop, faster than anybody."""
        if times == 1:
            button.click()
        else:
            button.evaluate("(button, times) => { while (times--) button.click(); }", times)
        self._clicked += times
        self.see_done(self._clicked)

    def see_done(self, count: int) -> None:
        """So many requests have been carried out, and the last of them well."""
        self._clicked = count
        expect(self.asked).to_contain_text(f"{count} carried out")
        expect(self.asked).to_contain_text("done")

    def see_owner(self, owner: str, at: int = 0) -> None:
        """Wait until that machine shows it as the owner of queue 0: in its head, and in the table."""
        owners = self.machine(at).get_by_role("list", name="owners of the notifiers")
        expect(owners.get_by_role("listitem")).to_have_text([f"queue 0{owner}"])
        expect(self.cell("owner", at)).to_have_text(owner)

    def see_state(self, state: str, at: int = 0) -> None:
        """Wait until that machine says it is in this state."""
        expect(self.machine(at).get_by_text(state, exact=True).first).to_be_visible()

    def cell(self, column: str, at: int = 0) -> Locator:
        """What the table of queues says of queue 0 in that column."""
        table = self.machine(at).get_by_role("table", name="queues and their notifiers")
        columns = table.get_by_role("columnheader").all_inner_texts()
        return table.get_by_role("row").nth(1).get_by_role("cell").nth(columns.index(column) - 1)

    def see_path(self, text: str, at: int = 0) -> None:
        """Wait until it says this of the last kick."""
        expect(self.machine(at).get_by_role("region", name="datapath")).to_contain_text(text)
