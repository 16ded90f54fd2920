"""Does a screen read well without a kernel, and alike in every run?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

import labkit
from labkit import UsageError, views
from labkit.widgets.screen import STATIC, for_a_page

Boot = Callable[..., labkit.Machine]


class Tables(HTMLParser):
    """Counts what tables are made of; fails where a heading has no scope."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag."""
        self.tags.append(tag)
        assert tag != "th" or dict(attrs).get("scope") in ("col", "row")


def bundle(vm: labkit.Machine) -> dict[str, str]:
    """What a notebook stores of a dashboard."""
    screen = vm.dashboard()
    data, _ = screen._repr_mimebundle_()
    screen.close()
    return data


def test_text_html_and_widget_are_stored_together(boot: Boot) -> None:
    """A page with a kernel draws the widget, any other the tables."""
    data = bundle(boot())
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}


def test_the_text_says_what_matters(boot: Boot, cpu: str) -> None:
    """State, device, registers in words, and who owns the notifiers."""
    vm = boot(revision="today")
    vm.pause()
    lines = bundle(vm)["text/plain"].splitlines()
    assert lines[0] == f"screen of {vm.name}"
    assert [line.split(None, 1) for line in lines[1:3]] == [
        ["state", "paused"],
        ["device", f"virtio-blk, rules today, {views.cpu_note(cpu)}"],
    ]
    assert lines[-1].endswith("notifier owned by none")


def test_nothing_in_it_changes_from_run_to_run(boot: Boot) -> None:
    """Two machines that did the same have the same tables and text, but for their names: no fd, no time, no id."""
    found = []
    for fds_taken in (0, 3):
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(fds_taken)]
        vm = boot(irq="poll")
        vm.guest.read(0)
        vm.pause()
        data = bundle(vm)
        found.append([re.sub(r"vm\d+", "vm", data[kind]) for kind in ("text/plain", "text/html")])
        for file in files:
            os.close(file)
    assert found[0] == found[1]


def test_the_tables_have_headings_with_a_scope(boot: Boot) -> None:
    """Registers, queues, and who owned the notifiers with the rule that said so."""
    vm = boot()
    vm.pause()
    html = bundle(vm)["text/html"]
    tables = Tables()
    tables.feed(html)
    assert tables.tags.count("table") == tables.tags.count("caption") == 3
    assert "vmm → none because PAUSE" in html and "R10" in html


def test_a_screen_of_a_closed_machine_can_still_be_stored(boot: Boot) -> None:
    """It says that it is closed."""
    vm = boot()
    vm.close()
    assert re.search(r"state +closed$", bundle(vm)["text/plain"], re.MULTILINE)


def test_without_anywidget_the_mistake_is_said(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install, and no import error from the depths."""
    vm = boot()
    monkeypatch.delitem(sys.modules, "labkit.widgets.screen", raising=False)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(UsageError, match="pip install anywidget"):
        vm.dashboard()


def test_looking_at_a_machine_imports_no_widgets() -> None:
    """`labkit.widgets` and what it needs come when a view is asked for, also through the front door."""
    code = """if True:
        import sys, labkit
        before = [name for name in sys.modules if "widget" in name]
        labkit.widgets
        print(before, "anywidget" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


@pytest.mark.parametrize("name", ["screen.js", "screen.css"])
def test_what_a_page_gets_may_be_read_line_by_line(name: str) -> None:
    """Comments and indentation are left out for it, so no text and no comment goes on in the next line."""
    source = (STATIC / name).read_text().splitlines()
    assert [line for line in source if line.strip().startswith("/*") and not line.endswith("*/")] == []
    assert [line for line in source if line.count("`") % 2] == []
    lines = for_a_page(name).splitlines()
    assert 0 < len(lines) < len(source)
    assert [line for line in lines if line[0] in " /"] == []
