"""What does a cell hold that shows a machine? A widget with one trait that a page draws, and a form without a page."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from labkit.widgets import still
from labkit.widgets.actions import Action
from labkit.widgets.coming import Look
from labkit.widgets.hand import Asked, Hand
from labkit.widgets.publisher import PUBLISHER
from labkit.widgets.scene import Looker, Scene

STATIC = Path(__file__).parent / "static"
MACHINES_MOST = 2
FRAME_S = 0.1  # between two scenes of a machine that does something all the time
COMMENTS = ("//", "/*")  # each is a line of its own, and none begins behind code


def for_a_page(name: str) -> str:
    """A file of `static` without comments and indentation: a notebook that is saved with its widgets keeps it."""
    lines = (line.strip() for line in (STATIC / name).read_text().splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(COMMENTS))


class Screen(anywidget.AnyWidget):
    """A live view; made by `vm.dashboard()`, `labkit.widgets.pair` or a part's `view()`. `close()` ends it.

    It keeps no machine alive, but those that came by its own button; `machines` has them.
    """

    _esm = for_a_page("screen.js")
    _css = for_a_page("screen.css")
    scene = traitlets.Dict().tag(sync=True)
    about = traitlets.Dict().tag(sync=True)

    def __init__(
        self, looks: Sequence[Look], about: dict[str, Any], known: list[Action], fields: dict[str, dict[str, Any]]
    ) -> None:
        self._looks, self._framing = list(looks), threading.Lock()
        self._mark: tuple[list[object], object] = ([], None)
        self._next = 0.0
        self._arrived: list[Any] = []
        self._hand = Hand(lambda: self.machines, known, fields, self._arrives, PUBLISHER.nudge)
        super().__init__(about=about, scene=self._built([look.look() for look in looks]))
        self.on_msg(self._told)
        PUBLISHER.add(self)

    @property
    def machines(self) -> list[Any]:
        """The machines that are shown; None for one that is gone, or has not come yet."""
        return [look.machine for look in self._looks]

    @property
    def asked(self) -> Asked:
        """How the requests of its buttons stand."""
        return self._hand.asked

    def stop(self) -> None:
        """End what a button began, as soon as it can be, and forget the clicks that wait."""
        self._hand.stop()

    def close(self) -> None:
        """Look at nothing any more, and go from the page."""
        self.stop()
        PUBLISHER.remove(self)
        super().close()
        self._arrived.clear()

    # -- what the page says --------------------------------------------------------------------------------------------

    def _told(self, _: object, content: object, __: object) -> None:
        """Takes it, says so, and does nothing else: this thread may be the one in which cells run."""
        if (answer := self._hand.take(content)) is not None:
            self.send(answer)

    def _arrives(self, machine: Any) -> None:
        """A machine has come by the button: shown beside the one it was."""
        self._arrived.append(machine)
        self._looks = [*self._looks, Looker(machine._board)][-MACHINES_MOST:]
        PUBLISHER.nudge()

    # -- what the page is told -----------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Nothing will change any more: the machines are closed, or the widget is."""
        return self.comm is None or all(look.over for look in self._looks)

    def frame(self, *, at_once: bool = True) -> bool:
        """Look, and tell the page if something is new. Was there? Not `at_once`: it may be told a little later."""
        with self._framing:
            looks, asked, now = self._looks, self._hand.asked, time.monotonic()
            mark = [self._mark_of(look) for look in looks], asked
            if mark == self._mark:
                return False
            if not at_once and asked == self._mark[1] and now < self._next:
                return True
            self.scene = self._built([self._of(look) for look in looks])
            self._mark, self._next = mark, now + FRAME_S
            return True

    def _mark_of(self, look: Look) -> object:
        try:
            return look.mark()
        except Exception as error:  # noqa: BLE001 - the look that follows tells of it
            return repr(error)

    def _of(self, look: Look) -> Scene:
        """A look that fails is told where it can be seen, and what was seen last stays."""
        try:
            return look.look()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not look like a machine that stands still
            return {**look.scene, "note": f"the screen itself failed: {error!r}"}

    def _built(self, machines: list[Scene]) -> Scene:
        asked = self._hand.asked._asdict()
        told = [(*look.announced, one.get("name", "")) for look, one in zip(self._looks, machines, strict=True)]
        _, newest, name = max(told, default=(0, "", ""))
        whose = f"{name}, " if newest and len(told) > 1 else ""
        return {"machines": machines, "asked": asked, "announce": f"{whose}{newest}"}

    # -- without a page ------------------------------------------------------------------------------------------------

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if self.comm is not None:
            self.frame()
        bundle = super()._repr_mimebundle_(**kwargs)
        data, *more = bundle if isinstance(bundle, tuple) else (bundle or {},)
        data = {**data, "text/html": still.html(self.scene), "text/plain": repr(self)}
        return (data, *more) if more else data

    def __repr__(self) -> str:
        return still.plain(self.scene)
