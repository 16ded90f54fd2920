"""Take the pictures of docs/images: the output of a cell, in JupyterLab, in both themes. `make screenshots`.

Each comes of a notebook that is run from top to bottom in a browser, as the tests of tests/browser do it, and in which
some buttons are then clicked.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from browser.lab import THEMES, JupyterLab
from browser.page import INSTALL, Notebook, chromium, installed
from browser.screen import Screen

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
NOTEBOOKS = ROOT / "notebooks"
SHARPNESS = 2  # pixels of the picture for one of the page
COLOURS = 256  # in a picture of a screen, which is text on few of them: a third of the size
TALL = 2400  # all of a picture is in the window

PAIR = """
import labkit
vm = labkit.boot()
vm.dashboard()
"""
RACE = """
import labkit
labkit.races.stepper("lost-kick-at-deassign", mutations=["lost-kick-at-deassign"])
"""


class Picture(NamedTuple):
    """What it shows: a cell of a notebook, or the output of some code, after some clicks, each the name of a button."""

    notebook: str
    cell: str | int
    clicks: tuple[str, ...] = ()
    code: str = ""
    width: int = 1280
    sharpness: float = SHARPNESS


PICTURES = {
    "timeline": Picture("00_start_here.ipynb", "00-timeline"),
    "dashboard": Picture(
        "00_start_here.ipynb", "00-live", ("Kick", "Read sector", "Pause", "Resume", "Hold", "Kick"), sharpness=1.5
    ),
    "pair": Picture("pair.ipynb", 0, ("Read sector", "Migrate"), PAIR, width=2120, sharpness=1),
    "stepper": Picture("race.ipynb", 0, ("let vcpu0 go", "let vcpu0 go", "Run the rest"), RACE, sharpness=1.5),
}


def take(name: str, theme: str, lab: JupyterLab, browser: Browser) -> None:
    """Run the notebook of one picture, click, and store what its cell shows."""
    picture = PICTURES[name]
    view = {"width": picture.width, "height": TALL}
    context = browser.new_context(viewport=view, device_scale_factor=picture.sharpness)
    notebook = Notebook(context.new_page(), lab)
    write = lab.write(picture.notebook, picture.code) if picture.code else lab.copy(NOTEBOOKS / picture.notebook)
    notebook.open(write, theme)
    notebook.run_all()
    output = notebook.output(picture.cell)
    screen = Screen(notebook, picture.cell)
    for button in picture.clicks:
        screen.press(output.get_by_role("button", name=button, exact=True))
    notebook.page.mouse.move(0, 0)
    path = IMAGES / f"{name}-{theme}.png"
    shown = output.locator(".labkit-screen") if picture.clicks else output.locator(".jp-OutputArea-output")
    shown.first.screenshot(path=path)  # without the cell's prompt
    if picture.clicks:
        of_few_colours(path)
    notebook.close()
    context.close()
    print(f"stored {path.relative_to(ROOT)}")


def of_few_colours(path: Path) -> None:
    """Store the picture with a palette."""
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def main(names: list[str]) -> None:
    """Take those pictures, or all."""
    path = installed()
    if path is None:
        sys.exit(INSTALL)
    IMAGES.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="labkit-screenshots-"))
    lab = JupyterLab(folder)
    try:
        with sync_playwright() as playwright, chromium(playwright, path) as browser:
            for name in names or PICTURES:
                for theme in THEMES:
                    take(name, theme, lab, browser)
    finally:
        lab.close()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
