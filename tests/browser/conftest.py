"""What a test in a browser can ask for: the Chromium of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

BROWSERS = ("chromium", "google-chrome", "chromium-headless-shell")


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser ({', '.join(BROWSERS)}); on Debian: apt-get install chromium")
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []  # Chromium's own does not work for root
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        browser.close()
