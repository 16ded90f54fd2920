"""Does every page of the site come out, and does every link on it lead somewhere? `make docs`: Sphinx, then a look.

    python tools/site.py build/site

Nothing is executed and nothing fetched. Every warning of Sphinx is an error. Pages are all made anew, for a page whose
links lead nowhere any more need not be one that has changed. What is looked at afterwards: links and anchors inside the
site, and that no page loads anything from elsewhere, so that the site can be read without a network.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
# What a browser fetches by itself: element → attribute.
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """What a page links, what it loads, and the anchors in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors = {"", "top"}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Told by the parser."""
        values = dict(attrs)
        self.anchors.update(filter(None, (values.get("id"), values.get("name"))))
        where = values.get(LOADS.get(tag, "href"))
        if where and values.get("rel") not in ("canonical", "next", "prev"):
            (self.loads if tag in LOADS else self.links).append(where)


class Wrong(NamedTuple):
    """A link or a load that should not be as it is."""

    page: str
    to: str
    why: str

    def __str__(self) -> str:
        return f"{self.page}: {self.to}: {self.why}"


def build(out: Path) -> str:
    """Make the site in `out`; what Sphinx complains of, empty if nothing."""
    command = ["-m", "sphinx", "--quiet", "--fail-on-warning", "--no-color", "--fresh-env", "--builder", "html"]
    where = ["--conf-dir", ROOT / "docs" / "site", "--doctree-dir", f"{out}-pages", ROOT, out]
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run([sys.executable, *command, *where], capture_output=True, text=True, check=False)
    return done.stderr.strip() or ("" if done.returncode == 0 else f"Sphinx ended with {done.returncode}")


def wrong(site: Path) -> list[Wrong]:
    """Links inside the site that lead nowhere, and what is loaded from elsewhere."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    return [found for path, page in pages.items() for found in _wrong(site, pages, path, page)]


def _wrong(site: Path, pages: dict[Path, Page], path: Path, page: Page) -> Iterator[Wrong]:
    name = str(path.relative_to(site))
    for to in dict.fromkeys(page.links + page.loads):
        url = urlsplit(to)
        if url.scheme or url.netloc:
            if to in page.loads and url.scheme != "data":
                yield Wrong(name, to, "is loaded from elsewhere")
            continue
        target = (path.parent / unquote(url.path)).resolve() if url.path else path
        if not target.is_relative_to(site.resolve()) or not target.is_file():
            yield Wrong(name, to, "no such file")
        elif target in pages and url.fragment not in pages[target].anchors:
            yield Wrong(name, to, "no such anchor")


def main() -> int:
    """Make it, look at it, say what is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out.resolve()
    complaints = build(out) or "\n".join(map(str, wrong(out)))
    print(complaints or f"{out.relative_to(ROOT) if out.is_relative_to(ROOT) else out}/index.html")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
