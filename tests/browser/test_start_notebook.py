"""Does the first notebook work in a browser, and can it be read in both themes?"""

from __future__ import annotations

from pathlib import Path

import pytest

from browser.lab import JupyterLab
from browser.page import Notebook

START = Path(__file__).parents[2] / "notebooks" / "00_start_here.ipynb"
BOOT, COMES_UP, KICKS, OWNERS, TIMELINE = "00-04", "00-10", "00-16", "00-20", "00-timeline"  # ids of cells
READABLE = 4.5  # the contrast that WCAG 2 asks for ordinary text (AA)

CONTRAST = """cell => {
    const light = color => color.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255)
        .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
    const opaque = element => {
        const color = getComputedStyle(element).backgroundColor;
        return /^rgb\\(/.test(color) ? color : opaque(element.parentElement);
    };
    const [low, high] = [light(getComputedStyle(cell).color), light(opaque(cell))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
}"""


@pytest.mark.guest
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_start_notebook_runs_in_a_browser(lab: JupyterLab, notebook: Notebook, theme: str) -> None:
    """From top to bottom without an error: owners as values, tables and text that can be read, and a picture."""
    notebook.open(lab.copy(START), theme)
    notebook.run_all()

    assert notebook.outputs(COMES_UP) == ["('none', 'vmm')"]
    notebook.see(OWNERS, "queue 0 owner none -> vmm because DRIVER_OK (R2)")
    row = notebook.output(KICKS).get_by_role("row").filter(has=notebook.page.get_by_role("rowheader", name="owner"))
    assert row.get_by_role("cell").inner_text() == "vmm"
    for cell in [row.get_by_role("cell"), notebook.output(BOOT).get_by_role("rowheader").first]:
        assert cell.evaluate(CONTRAST) >= READABLE
    assert notebook.output(TIMELINE).locator("img").evaluate("image => image.naturalWidth") > 0
