"""Take the pictures of docs/images: the output of a cell, in JupyterLab, in both themes. `make screenshots`.

Each comes of a notebook that is run from top to bottom in a browser, as the tests of tests/browser do it.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from browser.lab import THEMES, JupyterLab
from browser.page import INSTALL, VIEW, Notebook, chromium, installed

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
PICTURES = {  # name of the image: the notebook, and the id of the cell
    "timeline": ("00_start_here", "00-timeline"),
}
SHARPNESS = 2  # pixels of the picture for one of the page


def take(name: str, theme: str, lab: JupyterLab, browser: Browser) -> None:
    """Run the notebook of one picture, and store what its cell shows."""
    source, cell = PICTURES[name]
    context = browser.new_context(viewport=VIEW, device_scale_factor=SHARPNESS)
    notebook = Notebook(context.new_page(), lab)
    notebook.open(lab.copy(ROOT / "notebooks" / f"{source}.ipynb"), theme)
    notebook.run_all()
    path = IMAGES / f"{name}-{theme}.png"
    notebook.output(cell).locator(".jp-OutputArea-output").first.screenshot(path=path)  # without its prompt
    notebook.close()
    context.close()
    print(f"stored {path.relative_to(ROOT)}")


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
