"""Does a dashboard do in JupyterLab what its buttons say, and does it say so when it cannot?"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

from browser import kernels
from browser.lab import JupyterLab
from browser.page import Notebook, expect
from browser.screen import Screen

START = Path(__file__).parents[2] / "notebooks" / "00_start_here.ipynb"
LIVE = "00-live"  # the cell that shows the dashboard
BOOT = "import labkit; vm = labkit.boot()\nvm.dashboard()"
CRASH = """
import contextlib
from labkit.abi import Fault
with contextlib.suppress(labkit.GuestError):
    vm.guest.fault(Fault.TRIPLE)
"""
GONE = "The kernel has gone: run the cell again."
CLICKS = 100

pytestmark = pytest.mark.guest


def test_every_button_of_the_start_notebook(lab: JupyterLab, notebook: Notebook) -> None:
    """Run all, then click from left to right, and read the owner from the page after each."""
    notebook.open(lab.copy(START))
    notebook.run_all()
    screen = Screen(notebook, LIVE)
    screen.see_state("running")
    screen.see_owner("vmm")

    kicks(screen)
    pauses(screen)
    holds(screen)
    lends(screen)
    properties(screen)
    fails(screen)
    storms(screen)
    migrates(screen)


def kicks(screen: Screen) -> None:
    """One, a hundred, and a request: all by eventfd."""
    screen.click("Kick")
    screen.see_path("The last kick of queue 0 went through its eventfd to the iothread.")
    screen.click("Kick × n")
    screen.click("Read sector")
    expect(screen.asked).to_contain_text("512 bytes: b'this is sector 0")
    expect(screen.cell("signalled")).to_have_text("102")
    screen.see_owner("vmm")


def pauses(screen: Screen) -> None:
    """The owner goes and comes back; it is announced, and the rule can be read."""
    screen.click("Pause")
    screen.see_state("paused")
    screen.see_owner("none")
    expect(screen.status).to_have_text("queue 0: vmm → none because PAUSE (R10)")
    expect(screen.button("Kick")).to_have_accessible_description(re.compile("Not now: the machine is paused."))

    screen.machine().get_by_role("link", name="R10").first.click()
    expect(screen.rule).to_contain_text("Otherwise, and when it is paused: STOP")
    screen.rule.get_by_role("button", name="Close").click()
    expect(screen.rule).to_be_hidden()

    screen.click("Resume")
    screen.see_owner("vmm")
    expect(screen.status).to_have_text("queue 0: none → vmm because RESUME (R10)")


def holds(screen: Screen) -> None:
    """While the iothread is held a kick stays pending."""
    held = screen.machine().get_by_role("list", name="held threads").get_by_role("listitem")
    screen.click("Hold")
    screen.click("Kick")
    expect(held).to_contain_text("iothread is held behind woken")
    expect(screen.cell("pending")).to_have_text("1")
    screen.click("Step")
    expect(held).to_contain_text("iothread is held behind wants-lock")
    screen.see_owner("vmm")
    screen.click("Release")
    expect(held).to_have_count(0)
    expect(screen.cell("pending")).to_have_text("0")
    screen.see_owner("vmm")


def lends(screen: Screen) -> None:
    """A backend serves a kick; after it nobody has the notifier (R9 of v6)."""
    screen.click("Hand over")
    screen.see_owner("backend")
    screen.click("Kick")
    screen.see_path("to the backend.")
    screen.click("Take back")
    screen.see_owner("none")
    expect(screen.status).to_have_text("queue 0: backend → none because BACKEND_GIVES (R9)")


def properties(screen: Screen) -> None:
    """The property of R1 decides for the device that is plugged in."""
    screen.click("ioeventfd on")
    screen.see_owner("vmm")
    screen.click("ioeventfd off")
    screen.see_owner("none")
    screen.click("Kick")
    screen.see_path("The last kick of queue 0 trapped")
    screen.click("ioeventfd on")
    screen.see_owner("vmm")


def fails(screen: Screen) -> None:
    """KVM refuses the next assign: the guest notices nothing, and the page says why nobody has the notifier."""
    screen.click("Fault")
    expect(screen.asked).to_contain_text("the next assign of queue 0 will fail: ENOSPC")
    screen.click("Reset")
    screen.see_owner("none")
    screen.click("Bring up")
    expect(screen.status).to_have_text("the notifiers did not start: ENOSPC (R4)")
    screen.see_owner("none")
    screen.click("ioeventfd on")
    screen.see_owner("vmm")


def storms(screen: Screen) -> None:
    """It tells how far it is, and stops when told to."""
    requests = screen.machine().get_by_role("spinbutton", name="requests")
    requests.fill("1000000")
    screen.button("Storm").click()
    expect(screen.asked).to_contain_text("of 1000000 requests")
    screen.button("Stop").click()
    expect(screen.asked).to_contain_text(re.compile(r"\d of 1000000 requests, stopped"))
    screen.see_done(int(re.findall(r"(\d+) carried out", screen.asked.inner_text())[0]))
    screen.see_owner("vmm")


def migrates(screen: Screen) -> None:
    """A second machine stands beside the first, and is the one that runs."""
    screen.click("Migrate")
    screen.see_state("migrated")
    screen.see_owner("none")
    screen.see_state("running", at=1)
    screen.see_owner("vmm", at=1)
    screen.click("Kick", at=1)
    screen.see_path("went through its eventfd to the iothread.", at=1)
    expect(screen.button("Kick", at=0)).to_be_disabled()


@pytest.mark.parametrize("version", kernels.VERSIONS)
def test_a_click_is_heard_by_each_ipykernel(
    lab: JupyterLab, notebook: Notebook, ipykernel: Callable[[str], str], version: str
) -> None:
    """Each has another thread for it. Between cells it is answered; what a cell does is seen while that cell runs."""
    pipe = lab.notebooks / f"busy-{version}"
    os.mkfifo(pipe)
    busy = f"vm.pause()\nwith open({str(pipe)!r}) as pipe: pipe.read()  # until the test writes"
    cells = ["import ipykernel; ipykernel.__version__", BOOT, busy]
    notebook.open(lab.write(f"heard-{version}.ipynb", *cells, kernel=ipykernel(version)))
    notebook.run(0)
    assert notebook.outputs(0) == [f"'{version}'"]
    notebook.run(1)
    screen = Screen(notebook, 1)
    for button, owner in (("Kick", "vmm"), ("Pause", "none"), ("Resume", "vmm")):
        screen.click(button)
        screen.see_owner(owner)

    notebook.start(2)
    with pipe.open("w"):
        screen.see_owner("none")
        assert "*" in notebook.cell(2).inner_text()
        screen.button("Resume").click()  # heard now, or when the cell has ended
    notebook.wait(2)
    screen.see_owner("vmm")
    screen.see_done(4)


def test_two_tabs_many_clicks_and_every_bad_end(lab: JupyterLab, notebook: Notebook) -> None:
    """All of a hundred clicks are done, two pages show the same; a crash, a machine closed, a kernel gone are said."""
    name = lab.write("ends.ipynb", BOOT, "vm.state, vm.proxy.queues[0].notifier.signalled", CRASH, "vm.close()")
    notebook.open(name)
    notebook.run(0)
    first = Screen(notebook, 0)
    first.press(first.button("Kick"), CLICKS)
    notebook.run(1)
    assert notebook.outputs(1) == [f"('running', {CLICKS})"]

    notebook.save()
    other = notebook.again(name)
    second = Screen(other, 0)
    second.see_owner("vmm")
    second.see_done(CLICKS)
    second.click("Pause")
    first.see_owner("none")
    first.see_done(CLICKS + 1)
    first.click("Resume")
    second.see_owner("vmm")

    notebook.run(2)
    for screen in (first, second):
        screen.see_state("crashed")
        screen.see_owner("none")
        expect(screen.alert).to_contain_text(["crashed: vCPU 0 crashed at"])
        expect(screen.button("Kick")).to_have_accessible_description(re.compile("Not now: the machine is crashed."))
    second.see_done(CLICKS + 2)
    second.click("Reset")
    first.see_state("running")

    notebook.run(3)
    for screen in (first, second):
        screen.see_state("closed")
        expect(screen.button("Reset")).to_be_disabled()

    notebook.run(0)
    notebook.restart_kernel()
    expect(first.alert.first).to_have_text(GONE)
    expect(first.button("Kick")).to_have_accessible_description(re.compile("the kernel has gone"))
    second.button("Stop").click()  # JupyterLab tells only the tab that has restarted the kernel
    expect(second.alert.first).to_contain_text("The kernel has not answered for 3 s")
    assert [error for error in other.errors if "Comm not found" not in error] == []
    other.page.close()
