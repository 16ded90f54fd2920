"""Do the pages keep their promises? Links that lead somewhere, recipes that run, a site that comes out whole."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "guests" / "README.md",
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]
RECIPES = sorted((ROOT / "docs" / "howto").glob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
DISK_BYTES = 1 << 20


def prose(page: Path) -> str:
    """What a page says in Markdown, without its code."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the repository's web view and the site make them."""
    text = FENCE.sub("", page.read_text())
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in HEADING.findall(text)}


def dead_links(page: Path) -> Iterator[str]:
    """The relative links of a page that lead to no file, or to no heading of it."""
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_there = target.is_relative_to(ROOT) and target.exists()
        if not is_there or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """A link to a file of the repository has that file, and its heading if it names one."""
    assert list(dead_links(page)) == []


def test_a_dead_link_is_noticed(tmp_path: Path) -> None:
    """The check above finds a file and a heading that are not there, and looks at no code."""
    page = tmp_path / "page.md"
    page.write_text("[a](no.md) [b](#here) [c](#there) `[d](no.md)`\n\n# Here\n\n```\n[e](no.md)\n```\n")
    assert sorted(set(LINK.findall(prose(page)))) == ["#here", "#there", "no.md"]
    assert anchors(page) == {"here"}


# -- recipes -----------------------------------------------------------------------------------------------------------


def fences(page: Path, language: str) -> list[str]:
    """The blocks of one language on a page, in order."""
    return [text for _, name, text in FENCE.findall(page.read_text()) if name == language]


@pytest.mark.guest
@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("page", RECIPES, ids=lambda page: page.stem)
def test_a_recipe_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of a recipe runs from top to bottom, in a folder that has a disk, and a kernel if it builds one."""
    blocks = fences(page, "python")
    if not blocks:
        pytest.skip("no Python in it")
    monkeypatch.chdir(tmp_path)
    Path("disk.img").write_bytes(bytes(DISK_BYTES))
    for assembly in fences(page, "gas"):
        Path("hello.S").write_text(assembly)
        subprocess.run(shlex.split(fences(page, "sh")[0].splitlines()[0]), check=True)
    names: dict[str, object] = {}
    exec(compile("\n".join(blocks), page.name, "exec"), names)
    if "hello.S" in page.read_text():
        assert (names["text"], names["code"]) == ("hello from a guest\n", 1)


@pytest.mark.guest
@pytest.mark.usefixtures("cpu")
@pytest.mark.slow
def test_the_tests_of_a_recipe_pass(tmp_path: Path) -> None:
    """What the page on pytest shows is a test file that passes."""
    page = ROOT / "docs" / "howto" / "test_with_pytest.md"
    (tmp_path / "test_page.py").write_text("\n".join(fences(page, "python")))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout


# -- the site ----------------------------------------------------------------------------------------------------------


def site_tool() -> ModuleType:
    """tools/site.py, which is no package."""
    spec = importlib.util.spec_from_file_location("labkit_site", ROOT / "tools" / "site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_site_is_whole(tmp_path: Path) -> None:
    """No warning, no dead link inside, nothing that comes from elsewhere, and no solution."""
    pytest.importorskip("sphinx", reason="the site needs the extra `docs`")
    site, tool = tmp_path / "site", site_tool()
    assert tool.build(site) == ""
    assert [str(one) for one in tool.wrong(site)] == []
    pages = {str(path.relative_to(site)): path.read_text() for path in site.rglob("*.html")}
    assert not [name for name, text in pages.items() if "BEGIN SOLUTION" in text or "BEGIN HIDDEN TESTS" in text]
    assert 'id="labkit.boot"' in pages["docs/reference/labkit.html"]
    assert "--ioeventfd" in pages["docs/reference/shell.html"]
    assert "Start here" in pages["notebooks/00_start_here.html"]


def test_a_page_that_is_not_whole_is_noticed(tmp_path: Path) -> None:
    """The look at the site finds dead links and anchors, and what would be fetched."""
    (tmp_path / "there.html").write_text('<p id="yes">')
    (tmp_path / "page.html").write_text(
        '<a href="there.html#yes"></a><a href="there.html#no"></a><a href="gone.html"></a>'
        '<a href="https://example.org/"></a><script src="https://example.org/x.js"></script>'
    )
    assert [(one.to, one.why) for one in site_tool().wrong(tmp_path)] == [
        ("there.html#no", "no such anchor"),
        ("gone.html", "no such file"),
        ("https://example.org/x.js", "is loaded from elsewhere"),
    ]
