"""A notebook as a student has it: open in a page, run cell by cell, and what does it show?"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Error, Locator, Page, Playwright, Response, expect

from browser.lab import THEMES, JupyterLab

WAIT_MS = 60_000  # for anything, on a machine that has other work too
BROWSERS = ("chromium", "google-chrome", "chromium-headless-shell")
INSTALL = f"no browser here ({', '.join(BROWSERS)}); on Debian: apt-get install chromium"
VIEW = {"width": 1280, "height": 1000}
NO_SANDBOX = ["--no-sandbox"] if os.getuid() == 0 else []  # Chromium's own does not work for root

expect.set_options(timeout=WAIT_MS)

Which = int | str

KERNEL_IS_IDLE = re.compile(r"^(?!No Kernel).+ \| Idle$")
HAS_RUN = re.compile(r"\[\d+\]")
ERROR = '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'


def installed() -> str | None:
    """The path of a browser that the system has. Those that playwright would fetch are not looked for."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def chromium(playwright: Playwright, path: str) -> Iterator[Browser]:
    """That browser, without a window."""
    browser = playwright.chromium.launch(executable_path=path, args=NO_SANDBOX)
    try:
        yield browser
    finally:
        browser.close()


class Notebook:
    """One page with one notebook of a JupyterLab. Its cells of code are counted from 0, or known by their ids."""

    def __init__(self, page: Page, lab: JupyterLab) -> None:
        self.page = page
        self.lab = lab
        self.cells: list[str] = []
        self.errors: list[str] = []
        self.console: list[str] = []
        self._log_begins = len(lab.log.read_text())
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.errors.append(f"page error: {error.stack or error}"))
        page.on("crash", lambda: self.errors.append("the page crashed"))

    def open(self, name: str, theme: str = "light") -> None:
        """Open a notebook that `lab` has, and wait for its theme, its cells and its kernel."""
        self.lab.theme(theme)
        self.cells = self.lab.cells_of_code(name)
        self.page.goto(self.lab.address(name))
        expect(self.page.locator("body")).to_have_attribute("data-jp-theme-name", THEMES[theme])
        expect(self.page.locator(".jp-Notebook .jp-CodeCell")).to_have_count(len(self.cells))
        expect(self.page.locator("#jp-main-statusbar").get_by_text(KERNEL_IS_IDLE)).to_be_visible()

    def cell(self, which: Which) -> Locator:
        """A cell of code, with its input and its output."""
        index = which if isinstance(which, int) else self.cells.index(which)
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)

    def output(self, which: Which) -> Locator:
        """The output area of a cell, a widget in it too; to look for what is in there."""
        return self.cell(which).locator(".jp-Cell-outputArea")

    def outputs(self, which: Which) -> list[str]:
        """The text of each output of a cell, as it stands in the page."""
        return self.output(which).locator(".jp-OutputArea-output").all_inner_texts()

    def start(self, which: Which) -> None:
        """Run a cell, and do not wait for its end. It is selected by its prompt: a widget may have had the focus."""
        self.cell(which).locator(".jp-InputPrompt").click()
        self.page.keyboard.press("Shift+Enter")

    def run(self, which: Which) -> None:
        """Run a cell to its end; what it raises or warns of is an error here."""
        before = self._prompt(which).inner_text()
        self.start(which)
        expect(self._prompt(which)).not_to_have_text(before)
        self.wait(which)

    def wait(self, which: Which) -> None:
        """Wait for the end of a cell that was started."""
        expect(self._prompt(which)).to_have_text(HAS_RUN)
        self._check(self.output(which).locator(ERROR))

    def run_all(self) -> None:
        """Run every cell from top to bottom, by the menu; what one raises or warns of is an error here."""
        self._choose("Run", "Run All Cells")
        wrong = self.page.locator(".jp-Notebook").locator(ERROR)
        for which in self.cells:
            done = self.cell(which).locator(".jp-InputPrompt", has_text=HAS_RUN)
            expect(done.or_(wrong).first).to_be_visible()  # a cell behind one that failed does not run
            self._check(wrong)

    def save(self) -> None:
        """Store what is shown in the notebook's file."""

        def stored(answer: Response) -> bool:
            return answer.request.method == "PUT" and "/api/contents/" in answer.url

        with self.page.expect_response(stored):
            self._choose("File", "Save Notebook")

    def again(self, name: str) -> Notebook:
        """The same notebook in a second tab, with the same kernel."""
        other = Notebook(self.page.context.new_page(), self.lab)
        other.open(name)
        return other

    def restart_kernel(self) -> None:
        """By the menu, and without a doubt."""
        self._choose("Kernel", "Restart Kernel…")
        self.page.get_by_role("button", name="Confirm Kernel Restart").click()

    def see(self, which: Which, text: str | re.Pattern[str]) -> None:
        """Wait until the output of a cell has this text in it."""
        expect(self.output(which)).to_contain_text(text)

    def tell(self, screenshot: Path) -> str:
        """All that may say why something failed: a picture, and what browser and server have written."""
        try:
            self.page.screenshot(path=screenshot)
            picture = f"screenshot: {screenshot}"
        except Error as why:
            picture = f"no screenshot: {why}"
        log = self.lab.log.read_text()[self._log_begins :]
        return "\n".join([picture, "-- console", *self.console, "-- server and kernels", log])

    def close(self) -> None:
        """Close the page, and end its kernel: the next test gets a new one."""
        self.page.close()
        self.lab.end_kernels()

    def _heard(self, message: ConsoleMessage) -> None:
        line = f"{message.type}: {message.text} ({message.location['url']})"
        self.console.append(line)
        if message.type == "error":
            self.errors.append(line)

    def _choose(self, menu: str, item: str) -> None:
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.locator(".lm-Menu").get_by_text(item, exact=True).click()

    def _prompt(self, which: Which) -> Locator:
        return self.cell(which).locator(".jp-InputPrompt")

    def _check(self, wrong: Locator) -> None:
        if wrong.count():
            expect(wrong.last).not_to_be_empty()
            raise AssertionError("\n".join(wrong.all_inner_texts()))
