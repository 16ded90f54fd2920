"""When does a page hear of something new? One thread looks at every screen of the process, and only it tells them."""

from __future__ import annotations

import threading
import time
import weakref
from typing import Protocol

from labkit.threads import Thread

PERIOD_S = 0.05
CALM_PERIOD_S = 0.5  # between two looks when nothing has changed for a while
CALM_AFTER_S = 60.0
LOOK_SHARE = 0.04  # of a core, at most: a look that took long is not soon followed by another


class Shown(Protocol):
    """A screen."""

    def frame(self, *, at_once: bool) -> bool:
        """Look, and tell the page if something is new, or soon. Was there?"""

    @property
    def over(self) -> bool:
        """Nothing will ever change again."""


class Publisher:
    """Its thread is there as long as there is a screen to look after, and holds none of them alive."""

    def __init__(self) -> None:
        self._screens: list[weakref.ref[Shown]] = []
        self._lock = threading.Lock()
        self._nudged = threading.Event()
        self._thread: Thread | None = None
        self.cpu_s = 0.0  # how much of a CPU its threads have used

    def add(self, screen: Shown) -> None:
        """Look after it from now on."""
        with self._lock:
            self._screens.append(weakref.ref(screen))
            if self._thread is None:
                self._thread = Thread(self._run, "labkit-screen")
        self.nudge()

    def remove(self, screen: Shown) -> None:
        """Not any more."""
        with self._lock:
            self._screens = [ref for ref in self._screens if ref() is not screen]
        self.nudge()

    def nudge(self) -> None:
        """Something was clicked: look soon, however calm it was."""
        self._nudged.set()

    def wait_for_end(self, timeout_s: float) -> bool:
        """Until there is nobody to look after and the thread is gone; False: not within the time."""
        thread = self._thread
        return thread is None or thread.join(timeout_s)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        busy_at, counted = time.monotonic(), 0.0
        while self._any():
            start, cpu = time.monotonic(), time.thread_time()
            if self._frames():
                busy_at = start
            used = time.thread_time() - cpu
            self.cpu_s, counted = self.cpu_s + cpu + used - counted, cpu + used
            calm = start - busy_at > CALM_AFTER_S
            if self._nudged.wait(CALM_PERIOD_S if calm else max(PERIOD_S, used / LOOK_SHARE)):
                self._nudged.clear()
                busy_at = time.monotonic()
                time.sleep(PERIOD_S / 5)  # a hundred clicks are not a hundred frames

    def _any(self) -> bool:
        """Is there somebody to look after? If not, the thread ends, and the next screen gets a new one."""
        with self._lock:
            self._screens = [ref for ref in self._screens if (screen := ref()) is not None and not screen.over]
            if not self._screens:
                self._thread = None
            return bool(self._screens)

    def _frames(self) -> bool:
        with self._lock:
            refs = list(self._screens)
        new = [_frame(screen) for ref in refs if (screen := ref()) is not None]
        return any(new)


def _frame(screen: Shown) -> bool:
    """A page that cannot be told (its kernel is about to end) must not keep the others from it; it is tried again."""
    try:
        return screen.frame(at_once=False)
    except Exception:  # noqa: BLE001
        return False


PUBLISHER = Publisher()
