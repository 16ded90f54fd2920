"""What does the screen's module do in a page? Real Chromium, no kernel: the scenes are files, the model is made up."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

from playwright.sync_api import Browser, expect

from browser.drawn import NAMES, Drawn
from browser.drawn import SCENES as FOLDER

CONTRAST = (FOLDER.parent / "contrast.js").read_text()
READABLE = 4.5  # WCAG 2, level AA
LATE_MS, BREATH_MS = 3000, 1000
FROZEN_S = 1000  # where a clock is stopped that a test moves by hand
HOSTILE = '<img src=x onerror="window.broken = true"><script>window.broken = true</script>'
DISCONNECTED = "jupyter-widgets-disconnected"  # the class that ipywidgets gives a view whose comm is not live

Open = Callable[..., Drawn]


@pytest.fixture
def drawn(browser: Browser) -> Iterator[Open]:
    """Make pages; what a browser counts as an error fails the test."""
    pages: list[Drawn] = []

    def make(**options: Any) -> Drawn:
        pages.append(Drawn(browser, **options))
        return pages[-1]

    yield make
    for page in pages:
        page.close()
        assert page.errors == []


def overflow(screen: Drawn) -> int:
    """How many pixels the page is wider than its window."""
    wider: int = screen.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return wider


# -- what is to be seen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "theme"), [(360, "dark"), (1100, "light"), (1600, "dark")])
@pytest.mark.parametrize("name", NAMES)
def test_every_scene_fits_and_can_be_read(drawn: Open, name: str, width: int, theme: str) -> None:
    """No page is wider than its window, and no text has too little contrast, in either theme."""
    screen = drawn(width=width, theme=theme).show(name)
    assert overflow(screen) <= 0
    assert screen.page.evaluate(CONTRAST, READABLE) == []


@pytest.mark.parametrize(("light", "system"), [("true", "dark"), ("false", "light")])
def test_the_theme_of_the_notebook_goes_before_that_of_the_system(drawn: Open, light: str, system: str) -> None:
    """JupyterLab says on the body which theme it has."""
    screen = drawn(theme=system).show("idle")
    screen.page.evaluate("(light) => (document.body.dataset.jpThemeLight = light)", light)
    scheme = screen.page.locator(".labkit-screen").evaluate("(node) => getComputedStyle(node).colorScheme")
    assert scheme == ("light" if light == "true" else "dark")
    assert screen.page.evaluate(CONTRAST, READABLE) == []


def test_every_part_has_its_role_and_name(drawn: Open) -> None:
    """Groups, tables with captions and row headings, the state and the owner in words."""
    page = drawn().show("idle").page
    for group in ("guest", "machine", "notifiers", "threads"):
        expect(page.get_by_role("group", name=group, exact=True)).to_be_visible()
    for table in ("proxy registers", "queues and their notifiers", "rings", "timeline", "events, newest first"):
        expect(page.get_by_role("table", name=re.compile(table))).to_be_visible()
    for part in ("vm0", "controls", "datapath", "proxy registers", "queues", "rings", "timeline", "events"):
        expect(page.get_by_role("region", name=part, exact=True).first).to_be_visible()
    expect(page.get_by_role("rowheader", name="STATUS", exact=True)).to_be_visible()
    expect(page.get_by_role("columnheader", name="signalled")).to_be_visible()
    expect(page.get_by_role("list", name="owners of the notifiers")).to_have_text("queue 0vmm")
    expect(page.get_by_role("spinbutton", name="times")).to_have_value("100")
    expect(page.get_by_role("combobox", name="thread")).to_have_value("iothread")
    expect(page.get_by_text("running", exact=True)).to_be_visible()


def test_the_path_in_use_is_lit_and_said(drawn: Open) -> None:
    """A trap goes by the proxy, whoever was lit before."""
    screen = drawn().show("idle")
    lit = screen.page.locator("svg.labkit-across .labkit-box.labkit-lit")
    expect(lit).to_contain_text(["guest", "CPU", "eventfd 17", "iothread", "queue 0", "blk", "RAM disk"])
    screen.machine["datapath"] |= {"path": "trap", "would": "nobody", "text": "The last kick trapped."}
    screen.frame()
    expect(lit).to_contain_text(["guest", "CPU", "proxy", "queue 0", "blk", "RAM disk"])
    told = "The last kick trapped. The next one would be served by nobody."
    expect(screen.page.get_by_text(told)).to_be_visible()


def test_what_is_forwarded_goes_to_the_owner(drawn: Open) -> None:
    """A kick that trapped and was written to the eventfd is served by the backend that owns it."""
    screen = drawn().show("idle")
    screen.machine["datapath"]["path"] = "forwarded"
    screen.machine["queues"][0]["owner"] = "backend"
    screen.frame()
    lit = screen.page.locator("svg.labkit-across .labkit-box.labkit-lit")
    expect(lit).to_contain_text(["guest", "CPU", "eventfd 17", "proxy", "backend", "queue 0", "blk", "RAM disk"])


def test_what_is_not_known_is_a_dash(drawn: Open) -> None:
    """None in a scene, as the indices of a ring that is lent."""
    row = drawn().show("storm").page.get_by_role("table", name="rings").get_by_role("row").nth(2)
    expect(row.get_by_role("cell")).to_have_text(["", "– of 128", "44", "41", "–"])


def test_two_machines_stand_beside_each_other_or_below(drawn: Open) -> None:
    """By the room there is."""
    for width, beside in ((1600, True), (360, False)):
        page = drawn(width=width).show("pair").page
        left, right = (page.get_by_role("region", name=name, exact=True).bounding_box() for name in ("vm0", "vm1"))
        assert left and right
        assert (left["y"] == right["y"]) is beside


def test_hostile_text_stays_text(drawn: Open) -> None:
    """Whatever a scene says, nothing of it becomes a part of the page."""
    screen = drawn().show("held")
    parts = screen.page.locator("img, script").count()

    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spoil(one) for key, one in value.items()}
        if isinstance(value, list):
            return [spoil(one) for one in value]
        return HOSTILE if isinstance(value, str) else value

    screen.scene.update(spoil(screen.scene))
    screen.frame()
    assert screen.page.locator("img, script").count() == parts
    assert screen.page.evaluate("window.broken") is None
    assert screen.page.get_by_text(HOSTILE).count() > 20


def test_a_part_that_is_not_there_is_not_missed(drawn: Open) -> None:
    """A view without some parts, and a scene without any."""
    screen = drawn().show("idle", about={"views": ["queues", "nonsense"], "actions": []})
    expect(screen.page.get_by_role("table")).to_have_count(1)
    screen.scene["machines"] = [{"name": "vm0", "state": "closed"}]
    screen.frame()
    expect(screen.page.get_by_text("closed", exact=True)).to_be_visible()
    expect(screen.page.get_by_role("alert")).to_have_count(0)


def test_a_frame_that_cannot_be_drawn_is_said_and_the_next_one_is(drawn: Open) -> None:
    """Nonsense does not end the screen."""
    screen = drawn().show("idle")
    queues, screen.machine["queues"] = screen.machine["queues"], 7
    screen.frame()
    expect(screen.page.get_by_role("alert")).to_contain_text("This frame could not be drawn")
    screen.machine["queues"] = [queues[0] | {"owner": "backend"}]
    screen.frame()
    expect(screen.page.get_by_role("alert")).to_have_count(0)
    expect(screen.page.get_by_role("list", name="owners of the notifiers")).to_have_text("queue 0backend")


# -- what a frame leaves alone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_that_says_nothing_new_changes_nothing(drawn: Open, name: str) -> None:
    """Not one node, attribute or text."""
    screen = drawn().show(name)
    screen.watch()
    screen.frame(times=50)
    assert screen.changes() == 0


def test_new_numbers_are_written_into_what_is_there(drawn: Open) -> None:
    """Texts and attributes change, and no node comes or goes."""
    screen = drawn().show("storm")
    screen.watch()
    for turn in range(50):
        for queue in screen.machine["queues"]:
            queue["signalled"] += 977
            queue["pending"] = turn % 3
        screen.machine["datapath"]["pending"] = turn % 3
        screen.machine["timeline"]["lanes"][1]["cells"][turn] += 1
        screen.frame()
    assert screen.changes("childList") == 0
    assert screen.changes("characterData") > 50


def test_focus_selection_scroll_and_what_is_open_survive(drawn: Open) -> None:
    """Fifty frames, each with a new event, while somebody reads."""
    screen = drawn().show("storm")
    page = screen.page
    page.get_by_role("link", name="R10").first.click()
    page.get_by_role("spinbutton", name="sector").fill("42")
    page.get_by_role("combobox", name="event").select_option("woken")
    page.evaluate(
        """() => {
          const events = document.querySelector(".labkit-high");
          events.scrollTop = 200;
          getSelection().selectAllChildren(document.querySelector(".labkit-proxy code, .labkit-proxy tbody th"));
          window.kept = [getSelection().toString(), events.querySelectorAll("tr")[12]];
          window.top0 = kept[1].getBoundingClientRect().top;
        }"""
    )
    screen.button("Kick").focus()
    for turn in range(50):
        newest = screen.machine["events"][0]
        screen.machine["events"] = [newest | {"seq": newest["seq"] + 1}, *screen.machine["events"][:-1]]
        screen.machine["queues"][0]["signalled"] = turn
        screen.frame()
    expect(screen.button("Kick")).to_be_focused()
    expect(page.get_by_role("spinbutton", name="sector")).to_have_value("42")
    expect(page.get_by_role("combobox", name="event")).to_have_value("woken")
    expect(page.get_by_role("complementary", name="rule")).to_contain_text("DRIVER_OK is set: START")
    assert page.evaluate("getSelection().toString() === kept[0] && kept[0] !== ''")


def test_a_new_event_is_one_new_row(drawn: Open) -> None:
    """And the rows of before are the same nodes; the oldest goes."""
    screen = drawn().show("idle")
    rows = screen.page.get_by_role("table", name="events, newest first").locator("tbody tr")
    second = rows.nth(1).element_handle()
    screen.watch()
    events = screen.machine["events"]
    screen.machine["events"] = [events[0] | {"seq": 999, "name": "brand-new"}, *events[:-1]]
    screen.frame()
    assert screen.changes("childList") == 2
    expect(rows.first).to_contain_text("brand-new")
    assert second is not None and second.evaluate("(node) => node.isConnected")


def test_nothing_runs_while_no_frame_comes(drawn: Open) -> None:
    """No interval, no animation frame, and no timer that is set anew."""
    screen = drawn()
    screen.page.clock.install(time=0)
    screen.page.evaluate(
        """() => {
          window.started = [];
          for (const name of ["setInterval", "requestAnimationFrame", "setTimeout", "requestIdleCallback"]) {
            const real = window[name];
            window[name] = (...rest) => {
              if (new Error().stack.includes("blob:")) started.push(name); // by the module, not by what drives the page
              return real(...rest);
            };
          }
        }"""
    )
    screen.show("idle")
    screen.frame(times=5)
    screen.page.clock.run_for(60_000)
    assert screen.page.evaluate("started") == ["setTimeout"]  # the breath after an announcement


@pytest.mark.parametrize("name", ["storm", "pair"])
def test_what_a_frame_costs(drawn: Open, name: str) -> None:
    """Printed, not asserted: times belong to the machine they were measured on."""
    screen = drawn().show(name)
    cost_ms = screen.page.evaluate(
        """(scene) => {
          const frames = Array.from({ length: 200 }, (_, turn) => {
            const one = structuredClone(scene);
            for (const machine of one.machines) {
              machine.queues.forEach((queue) => (queue.signalled += turn * 91, queue.avail += turn));
              machine.events.forEach((event) => (event.seq += turn));
              machine.timeline?.lanes.forEach((lane) => lane.cells.unshift(...lane.cells.splice(-turn % 50)));
            }
            return one;
          });
          const start = performance.now();
          for (const frame of frames) model.frame(frame), document.body.offsetHeight;
          return (performance.now() - start) / frames.length;
        }""",
        screen.scene,
    )
    sys.stdout.write(f"{name}: {cost_ms:.2f} ms a frame, its layout with it\n")


def test_a_view_that_goes_leaves_nothing(drawn: Open) -> None:
    """No listener at the model, no node in the page."""
    screen = drawn().show("idle", views=2)
    screen.page.evaluate("ends.forEach((end) => end())")
    assert screen.page.evaluate("model.listeners()") == 0
    expect(screen.page.locator(".labkit-screen")).to_have_count(0)


# -- keyboard and ear --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["idle", "held", "stepper-open"])
def test_the_keyboard_reaches_every_control(drawn: Open, name: str) -> None:
    """Tab by Tab, disabled ones too, for they say why; and whoever has the focus shows it."""
    page = drawn().show(name).page
    wanted = page.locator(":is(button, input, select, a, .labkit-schedule):visible").count()
    reached = set()
    for _ in range(wanted + 20):
        page.keyboard.press("Tab")
        mark = """() => {
          const node = document.activeElement;
          if (!node.matches("button, input, select, a, .labkit-schedule")) return null;
          return [[...document.querySelectorAll("*")].indexOf(node), getComputedStyle(node).outlineStyle];
        }"""
        if at := page.evaluate(mark):
            assert at[1] != "none"
            reached.add(at[0])
    assert len(reached) == wanted


def test_a_key_is_no_shortcut_of_the_notebook(drawn: Open) -> None:
    """B on a button makes no cell, an arrow in a list stays there; what is pressed with Ctrl passes."""
    page = (screen := drawn().show("idle")).page
    page.evaluate("() => { window.heard = []; addEventListener('keydown', (event) => heard.push(event.key)); }")
    choice = page.get_by_role("combobox", name="event")
    choice.focus()
    for key in ("ArrowDown", "b", "Control+y"):
        page.keyboard.press(key)
    screen.button("Kick").focus()
    for key in ("b", "Enter", "Space"):
        page.keyboard.press(key)
    assert set(page.evaluate("heard")) == {"Control", "y"}
    assert [message["ask"] for message in screen.sent()] == ["kick", "kick"]


def test_a_button_shows_the_call_it_stands_for(drawn: Open) -> None:
    """When it is pointed at or has the focus, with what is filled in; a screen reader reads it as the description."""
    page = (screen := drawn().show("idle")).page
    page.get_by_role("spinbutton", name="times").fill("7")
    screen.button("Kick × n").hover()
    expect(page.get_by_text("vm.guest.kick(queue=0, times=7)")).to_be_visible()
    expect(screen.button("Kick × n")).to_have_accessible_description(
        "vm.guest.kick(queue=0, times=7) The same, n times in a row."
    )
    screen.button("Hold").focus()
    page.mouse.move(0, 0)
    expect(page.get_by_text('vm.hold("iothread")', exact=True)).to_be_visible()
    expect(page.get_by_text("vm.guest.kick(queue=0, times=7)")).to_be_hidden()


def test_a_change_is_announced_once(drawn: Open) -> None:
    """Not again with each frame, and of a flood the first and the newest."""
    screen = drawn()
    screen.page.clock.install(time=0)
    screen.show("idle")
    screen.page.clock.pause_at(FROZEN_S)
    status = screen.page.get_by_role("status")
    expect(status).to_have_text("queue 0: none → vmm because RESUME (R10)")
    screen.page.clock.run_for(BREATH_MS)
    screen.watch()
    for turn in range(30):
        screen.scene["announce"] = f"queue 0: change {turn}"
        screen.frame()
    expect(status).to_have_text("queue 0: change 0")
    screen.page.clock.run_for(BREATH_MS)
    expect(status).to_have_text("queue 0: change 29")
    assert screen.changes("characterData") == 2


def test_a_rule_opens_beside_its_event_and_closes_again(drawn: Open) -> None:
    """By Enter on its link; Escape closes it, and the focus is where it was."""
    page = drawn().show("idle").page
    link = page.get_by_role("link", name="R5", exact=True)
    link.focus()
    page.keyboard.press("Enter")
    rule = page.get_by_role("complementary", name="rule")
    expect(rule).to_be_focused()
    expect(rule).to_contain_text("R5, v6")
    expect(rule).to_contain_text("Without the test that kick would be lost.")
    assert page.evaluate("location.hash") == ""
    page.keyboard.press("Escape")
    expect(rule).to_be_hidden()
    expect(link).to_be_focused()


def test_the_timeline_is_read_column_by_column(drawn: Open) -> None:
    """By the arrow keys, and by pointing at it."""
    page = (screen := drawn().show("idle")).page
    cursor = page.get_by_role("slider", name="moment of the timeline")
    cursor.focus()
    page.keyboard.press("ArrowLeft")
    texts = screen.machine["timeline"]["columns"]
    expect(cursor).to_have_attribute("aria-valuetext", f"column {len(texts) - 1}: {texts[-2]}")
    expect(page.get_by_text(texts[-2])).to_be_visible()
    page.keyboard.press("Tab")
    page.get_by_role("row", name="vcpu0").locator("svg").hover(position={"x": 1, "y": 5})
    expect(page.get_by_text(texts[0], exact=False).last).to_be_visible()


def test_who_wants_no_motion_gets_none(drawn: Open) -> None:
    """An owner that changes moves only where that is welcome."""
    for still, moving in ((True, 0), (False, 1)):
        screen = drawn(still=still).show("idle")
        screen.machine["queues"][0]["owner"] = "none"
        screen.frame()
        assert screen.page.evaluate("document.getAnimations().length") == moving


# -- what is clicked ---------------------------------------------------------------------------------------------------


def test_a_click_is_a_message(drawn: Open) -> None:
    """With a number, the page's own name, the machine and the fields of the action, and no others."""
    screen = drawn().show("pair")
    screen.page.get_by_role("region", name="vm1").get_by_role("spinbutton", name="times").fill("5")
    screen.page.get_by_role("region", name="vm1").get_by_role("button", name="Kick × n").click()
    screen.page.get_by_role("region", name="vm1").get_by_role("button", name="Pause").press("Enter")
    first, second = screen.sent()
    page = first.pop("page")
    assert first == {"ask": "kicks", "seq": 1, "machine": 1, "with": {"queue": 0, "times": 5}}
    assert second == {"ask": "pause", "seq": 2, "machine": 1, "with": {}, "page": page}
    assert re.fullmatch(r"[\w-]+", page)


def test_a_button_that_is_of_no_use_now_says_why(drawn: Open) -> None:
    """It is not sent, and the reason is in words."""
    screen = drawn().show("crashed")
    expect(screen.button("Kick")).to_be_disabled()
    expect(screen.button("Kick")).to_have_accessible_description(re.compile("Not now: the machine is crashed."))
    screen.button("Kick").click(force=True)
    expect(screen.page.get_by_role("alert").first).to_have_text("Not now: the machine is crashed.")
    expect(screen.button("Reset")).to_be_enabled()
    assert screen.sent() == []


@pytest.mark.parametrize("text", ["0", "10001", "", "1.5"])
def test_a_number_out_of_its_bounds_is_not_sent(drawn: Open, text: str) -> None:
    """The field is marked, and it is said what it takes."""
    screen = drawn().show("idle")
    times = screen.page.get_by_role("spinbutton", name="times")
    times.fill(text)
    screen.button("Kick × n").click()
    expect(screen.page.get_by_role("alert")).to_have_text("times: a whole number from 1 to 10000")
    expect(times).to_have_attribute("aria-invalid", "true")
    times.fill("3")
    screen.button("Kick × n").click()
    expect(screen.page.get_by_role("alert")).to_have_count(0)
    assert [message["with"]["times"] for message in screen.sent()] == [3]


def test_a_request_that_failed_is_an_alert(drawn: Open) -> None:
    """With the call and what it raised; a machine that crashed says so too."""
    alerts = drawn().show("crashed").page.get_by_role("alert")
    expect(alerts.first).to_have_text(re.compile(r"vm\.pause\(\) failed: UsageError: the machine is crashed"))
    expect(alerts.last).to_have_text(re.compile("triple fault"))


def test_a_hundred_clicks_are_a_hundred_messages(drawn: Open) -> None:
    """None is lost, and it is counted how many wait for the kernel and how many for the machine."""
    screen = drawn().show("idle")
    screen.button("Kick").evaluate("(button) => { for (let turn = 0; turn < 100; turn += 1) button.click(); }")
    sent = screen.sent()
    assert [message["seq"] for message in sent] == list(range(1, 101))
    line = screen.page.get_by_label("last request")
    expect(line).to_contain_text("100 wait for the kernel")
    for message in sent[:98]:
        screen.tell("msg:custom", {"taken": message["seq"], "page": message["page"]})
    screen.scene["asked"]["waiting"] = 98
    screen.frame()
    expect(line).to_contain_text("98 wait for the machine, 2 wait for the kernel")


def test_a_kernel_that_does_not_answer_is_complained_about(drawn: Open) -> None:
    """After three seconds, and no longer than until it has answered."""
    screen = drawn()
    screen.page.clock.install(time=0)
    screen.show("idle")
    screen.page.clock.pause_at(FROZEN_S)
    screen.button("Kick").click()
    screen.page.clock.run_for(LATE_MS - 100)
    alert = screen.page.get_by_role("alert")
    expect(alert).to_have_count(0)
    screen.page.clock.run_for(200)
    expect(alert).to_contain_text("The kernel has not answered for 3 s")
    screen.tell("msg:custom", {"taken": 1, "page": "another"})
    expect(alert).to_have_count(1)
    screen.tell("msg:custom", {"taken": 1, "page": screen.sent()[0]["page"]})
    expect(alert).to_have_count(0)


def test_a_view_hears_only_the_answers_to_its_own(drawn: Open) -> None:
    """Two views of one model count for themselves, and their ids are their own."""
    screen = drawn().show("idle", views=2)
    for view in (0, 1):
        screen.page.get_by_role("button", name="Kick", exact=True).nth(view).click()
    (one, two), lines = screen.sent(), screen.page.get_by_label("last request")
    assert one["seq"] == two["seq"] == 1 and one["page"] != two["page"]
    screen.tell("msg:custom", {"taken": 1, "page": two["page"]})
    expect(lines.nth(0)).to_contain_text("1 wait for the kernel")
    expect(lines.nth(1)).not_to_contain_text("wait for the kernel")
    ids = screen.page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids)) > 0


GONE = "The kernel has gone: run the cell again."
WAYS_TO_GO = {
    "restart": "model.view.model.comm_live = false; model.tell('comm_live_update')",
    "comm": "model.tell('comm:close')",
    "model": "model.tell('destroy')",
    "dead": "model.dead = true; document.querySelector('[data-ask=kick]').click()",
}


@pytest.mark.parametrize("how", WAYS_TO_GO)
def test_a_kernel_that_has_gone_is_said_and_the_buttons_with_it(drawn: Open, how: str) -> None:
    """However it went, as far as a page hears of it."""
    screen = drawn().show("idle")
    screen.page.evaluate(WAYS_TO_GO[how])
    expect(screen.page.get_by_role("alert")).to_have_text(GONE)
    expect(screen.button("Kick")).to_be_disabled()
    expect(screen.button("Kick")).to_have_accessible_description(re.compile("the kernel has gone"))
    screen.button("Kick").click(force=True)
    assert screen.sent() == []


def test_a_comm_that_lives_again_is_no_loss(drawn: Open) -> None:
    """A page that was cut off and has found its kernel again."""
    screen = drawn().show("idle")
    screen.page.evaluate(WAYS_TO_GO["restart"])
    screen.page.evaluate(WAYS_TO_GO["restart"].replace("false", "true"))
    expect(screen.page.get_by_role("alert")).to_have_count(0)
    screen.button("Kick").click()
    assert [message["ask"] for message in screen.sent()] == ["kick"]


def test_a_page_without_a_kernel_shows_what_was_stored(drawn: Open) -> None:
    """The picture is there, and no button is of use."""
    screen = drawn().show("idle", look=DISCONNECTED)
    expect(screen.page.get_by_role("alert")).to_have_text(GONE)
    expect(screen.page.get_by_role("list", name="owners of the notifiers")).to_have_text("queue 0vmm")
    expect(screen.button("Kick")).to_be_disabled()


def test_who_is_held_can_be_stepped_where_it_is_said(drawn: Open) -> None:
    """Held now and held soon, in words."""
    screen = drawn().show("held")
    held = screen.page.get_by_role("list", name="held threads").get_by_role("listitem")
    expect(held).to_contain_text(["iothread is held behind woken", "vcpu0 will be held"])
    screen.button("Step iothread").click()
    assert [(one["ask"], one["with"]) for one in screen.sent()] == [("step", {"actor": "iothread"})]


# -- a race ------------------------------------------------------------------------------------------------------------


def test_a_lane_is_clicked_to_let_its_actor_go(drawn: Open) -> None:
    """Who cannot go says why; each decision is a column."""
    screen = drawn().show("stepper-open")
    screen.button("let vcpu0 go").click()
    assert [(one["ask"], one["with"]) for one in screen.sent()] == [("go", {"actor": "vcpu0"})]
    expect(screen.button("let iothread go")).to_have_accessible_description(re.compile("waiting for the big lock"))
    expect(screen.button("let iothread go")).to_be_disabled()
    race = screen.scene["stepper"]
    race["decisions"].append({"actor": "vcpu0", "did": ["queue-notify"], "stood": "behind kick-eventfd"})
    screen.watch()
    screen.frame()
    row = screen.page.get_by_role("table", name="decisions").get_by_role("row", name=re.compile("vcpu0"))
    expect(row.get_by_role("cell")).to_have_text(["kick-eventfd", "", "", "queue-notify"])
    assert screen.changes("childList") == 4  # a heading, and a cell in each of three lanes
    race["decisions"].pop()
    screen.frame()
    expect(row.get_by_role("cell")).to_have_text(["kick-eventfd", "", ""])


def test_the_newest_decision_is_in_sight(drawn: Open) -> None:
    """Until somebody looks back: then the lanes stay where they are."""
    screen = drawn(width=360).show("stepper-broken")
    lanes = screen.page.get_by_role("region", name="decisions")
    right = "(node) => node.scrollWidth - node.clientWidth - node.scrollLeft"
    assert lanes.evaluate(right) < 2
    lanes.evaluate("(node) => (node.scrollLeft = 40)")
    screen.scene["stepper"]["decisions"].append({"actor": "main", "did": ["close-fd"], "stood": "behind deassign"})
    screen.frame()
    assert lanes.evaluate("(node) => node.scrollLeft") == 40


def test_the_whole_schedule_can_be_sent(drawn: Open) -> None:
    """Back, anew, to its end, a search, and a text to play."""
    screen = drawn().show("stepper-open")
    for name in ("Back", "Again", "Run the rest", "Search"):
        screen.button(name).click()
    screen.page.get_by_role("textbox", name="schedule to play").fill("kick-and-stop:ff81:v v")
    screen.button("Play").click()
    asked = [(one["ask"], one["with"]) for one in screen.sent()]
    assert asked[:4] == [("back", {}), ("again", {}), ("rest", {}), ("search", {})]
    assert asked[4:] == [("play", {"schedule": "kick-and-stop:ff81:v v"})]
    screen.button("Copy").click()
    assert screen.page.evaluate("getSelection().toString()") == "kick-and-stop:ff81:v i m"


def test_a_broken_invariant_is_said_with_its_sentence(drawn: Open) -> None:
    """In words and a shape, beside those that hold; the schedule is over, and nobody can go."""
    screen = drawn().show("stepper-broken")
    table = screen.page.get_by_role("table", name="invariants")
    row = table.get_by_role("row", name=re.compile("no kick is lost"))
    expect(row).to_contain_text("broken")
    expect(row).to_contain_text("the guest waits for ever")
    expect(row).to_contain_text("nobody has served it")
    expect(table.get_by_role("row", name=re.compile("one owner"))).to_contain_text("holds")
    expect(screen.page.get_by_text("ended: done, 1 broken")).to_be_visible()
    expect(screen.button("let main go")).to_have_accessible_description(re.compile("the schedule has ended"))
