"""How is the screen's own module tried without a kernel? A page, a model that is made up, and scenes from files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator

from labkit.widgets.screen import for_a_page

SCENES = Path(__file__).parent / "scenes"
NAMES = tuple(sorted(path.stem for path in SCENES.glob("*.json")))
MODEL = (Path(__file__).parent / "fake_model.js").read_text()
PAGE = '<!doctype html><meta charset="utf-8"><title>screen</title><style>{css}</style><body>'
HOW = """async ([module, state, views, look]) => {
  const url = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
  const screen = (await import(url)).default;
  window.model = (MODEL)(state);
  window.ends = [];
  for (let view = 0; view < views; view += 1) {
    const el = document.body.appendChild(document.createElement("div"));
    el.className = look;
    window.ends.push(screen.render({ model: window.model, el }));
  }
}""".replace("MODEL", MODEL.strip())


class Drawn:
    """A page that shows one scene, in one view or several of one model."""

    def __init__(self, browser: Browser, width: int = 1100, theme: str = "light", still: bool = False) -> None:
        motion = "reduce" if still else "no-preference"
        self._context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion=motion
        )
        self.page = self._context.new_page()
        self.errors: list[str] = []
        self.scene: dict[str, Any] = {}
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text))

    def show(self, name: str, views: int = 1, about: dict[str, Any] | None = None, look: str = "") -> Drawn:
        """Draw a scene of a file. look: the class of what it is drawn in."""
        state = json.loads((SCENES / f"{name}.json").read_text())
        state["about"] |= about or {}
        self.scene = state["scene"]
        self.page.set_content(PAGE.replace("{css}", for_a_page("screen.css")))
        self.page.evaluate(HOW, [for_a_page("screen.js"), state, views, look])
        return self

    @property
    def machine(self) -> dict[str, Any]:
        """The first machine of the scene, to be changed before `frame`."""
        machine: dict[str, Any] = self.scene["machines"][0]
        return machine

    def frame(self, times: int = 1) -> None:
        """The scene as it is now goes to the page, as the model does: a new value each time."""
        scenes = [copy.deepcopy(self.scene)] * times
        self.page.evaluate("(scenes) => scenes.forEach((scene) => model.frame(scene))", scenes)

    def sent(self) -> list[dict[str, Any]]:
        """What the page has sent so far."""
        sent: list[dict[str, Any]] = self.page.evaluate("model.sent")
        return sent

    def tell(self, name: str, *what: object) -> None:
        """An event of the model."""
        self.page.evaluate("([name, what]) => model.tell(name, ...what)", [name, list(what)])

    def button(self, name: str) -> Locator:
        """The button of that very name."""
        return self.page.get_by_role("button", name=name, exact=True)

    def watch(self) -> None:
        """Count from now on what is changed in the page."""
        self.page.evaluate(
            """() => {
              window.changes = [];
              window.watcher = new MutationObserver((records) => changes.push(...records));
              watcher.observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
            }"""
        )

    def changes(self, kind: str | None = None) -> int:
        """How many changes there were, of one kind: childList, attributes, characterData."""
        count: int = self.page.evaluate(
            """(kind) => {
              changes.push(...watcher.takeRecords());
              return changes.filter((one) => !kind || one.type === kind).length;
            }""",
            kind,
        )
        return count

    def close(self) -> None:
        """The page goes."""
        self._context.close()
