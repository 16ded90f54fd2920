"""What a test in a browser can ask for: a JupyterLab, a page with a notebook in it, kernels of other versions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from browser import kernels
from browser.lab import JupyterLab
from browser.page import INSTALL, VIEW, Notebook, chromium, installed

REQUIRED = os.environ.get("LABKIT_REQUIRE_BROWSER") == "1"
TEST_S = 240  # a page takes seconds to load, and more where the machine has other work


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker of pytest-xdist, for runs without it: markers are strict."""
    config.addinivalue_line("markers", "xdist_group: tests that one worker does")


def pytest_itemcollected(item: pytest.Item) -> None:
    """One worker has the server and the browser, and each test has the time that a page takes."""
    item.add_marker(pytest.mark.xdist_group("browser"))
    item.add_marker(pytest.mark.timeout(TEST_S))
    item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A test that failed shows what its page looked like, and what browser and kernels have said."""
    report = yield
    notebook = getattr(item, "funcargs", {}).get("notebook")
    if report.failed and call.when == "call" and notebook is not None:
        report.sections.append(("browser", notebook.tell(item.funcargs["tmp_path"] / "page.png")))
    return report


def lacking(why: str) -> None:
    """Skip, but where a browser was to be there its lack is a failure."""
    (pytest.fail if REQUIRED else pytest.skip)(why)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The Chromium of this machine."""
    path = installed()
    if path is None:
        lacking(INSTALL)
    with sync_playwright() as playwright, chromium(playwright, path) as browser:
        yield browser


@pytest.fixture(scope="package")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:  # noqa: ARG001 - first
    """One server for all the tests; each brings a notebook, which gets a kernel of its own."""
    lab = JupyterLab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture
def notebook(lab: JupyterLab, browser: Browser, tmp_path: Path) -> Iterator[Notebook]:  # noqa: ARG001 - for the picture
    """A page that no other test has seen; whatever the browser counts as an error is one."""
    context = browser.new_context(viewport=VIEW)
    notebook = Notebook(context.new_page(), lab)
    yield notebook
    notebook.close()
    context.close()
    assert notebook.errors == []


@pytest.fixture
def ipykernel(lab: JupyterLab) -> Callable[[str], str]:
    """Give it a version of ipykernel, and get the name of a kernel that runs it."""

    def provide(version: str) -> str:
        try:
            folder = kernels.install(version)
        except kernels.NotToBeHad as why:
            lacking(str(why))
        name = f"ipykernel-{version}"
        lab.kernel(name, PYTHONPATH=str(folder))
        return name

    return provide
