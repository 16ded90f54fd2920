"""Who carries out what is clicked? Threads that come and go with the requests; whoever asks never waits.

Requests start in the order they came. A command of the host waits a moment for a step of the guest that is under way,
and then goes past it: a step that waits for who is held, or for a guest that hangs, keeps no pause and no reset away.
What holds and releases threads is done at once, and so is a stop.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from labkit.errors import LabkitError, UsageError
from labkit.threads import Thread
from labkit.widgets import actions
from labkit.widgets.actions import Action, Case

LINGER_S = 2.0  # how long the outcome of a request is not replaced by another's progress
GRACE_S = 0.25  # how long a command of the host waits for a step of the guest that is under way
WAITING_MOST = 1000  # more clicks than anybody makes: those beyond are refused, and told so
PAGE_MOST = 40


class Lane:
    """Work done one after the other, in a thread that is there only while there is some."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._busy = False

    def put(self, work: Callable[[], None]) -> None:
        """Do it after what was put before."""
        with self._changed:
            self._work.append(work)
            if not self._busy:
                self._busy = True
                Thread(self._run, self._name)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._work:
                    self._busy = False
                    self._changed.notify_all()
                    return
                work = self._work.popleft()
            work()
            del work

    def idle(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing is left to do; False: not within the time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, timeout_s)


class Request(NamedTuple):
    """One click that was found in order."""

    action: Action
    values: actions.Values
    machine: Any  # the machine, as it was when somebody clicked
    seq: int
    page: str

    @property
    def code(self) -> str:
        """The Python that is carried out."""
        return self.action.said(self.values)


class Asked(NamedTuple):
    """How the requests stand: counts, and the one that something happened to last."""

    done: int = 0
    waiting: int = 0
    seq: int = 0
    page: str = ""
    code: str = ""
    outcome: str = ""
    text: str = ""
    failed: int = 0
    failure: str = ""  # the last that failed, whatever came after it


class Hand:
    """Takes requests for some machines. `changed` is called, in whatever thread, when `asked` is another."""

    def __init__(
        self,
        machines: Callable[[], list[Any]],
        known: list[Action],
        fields: dict[str, dict[str, Any]],
        arrives: Callable[[Any], None],
        changed: Callable[[], None],
    ) -> None:
        self._machines, self._fields, self._arrives, self._changed = machines, fields, arrives, changed
        self._known = {action.id: action for action in known}
        self._lock = threading.Lock()
        self._order, self._guest, self._threads = Lane("labkit-hand"), Lane("labkit-steps"), Lane("labkit-holds")
        self._stops, self._told_at = 0, 0.0
        self.asked = Asked()

    # -- what is asked -------------------------------------------------------------------------------------------------

    def take(self, message: object) -> dict[str, Any] | None:
        """A message of a page; it can be anything. Returns what to answer at once, if it was a request at all."""
        if not isinstance(message, dict) or "ask" not in message:
            return None
        seq = message.get("seq")
        seq = seq if isinstance(seq, int) and not isinstance(seq, bool) else 0
        page = str(message.get("page", ""))[:PAGE_MOST]
        try:
            self._take(self._request(message, seq, page))
        except UsageError as error:
            self._tell(seq=seq, page=page, done=1, code="", outcome="failed", text=f"UsageError: {error}")
        return {"taken": seq, "page": page}

    def _request(self, message: dict[str, Any], seq: int, page: str) -> Request:
        ask, index = message["ask"], message.get("machine", 0)
        action = self._known.get(ask) if isinstance(ask, str) else None
        if action is None:
            raise UsageError(f"nothing is called {str(ask)[:PAGE_MOST]!r} here")
        machines = self._machines()
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(machines):
            raise UsageError(f"machine {str(index)[:PAGE_MOST]}: there are {len(machines)}")
        values = actions.checked(action, message.get("with", {}), self._fields)
        return Request(action, values, machines[index], seq, page)

    def _take(self, request: Request) -> None:
        if request.action.turn == "stop":
            return self.stop(request)
        if self.asked.waiting >= WAITING_MOST:
            raise UsageError(f"{WAITING_MOST} requests wait already: this one is not done")
        self._tell(waiting=1)
        work = partial(self._carry_out, request, self._stops)
        if request.action.turn == "threads":
            self._threads.put(work)
        elif request.action.turn == "guest":
            self._order.put(partial(self._to_the_guest, work))
        else:
            self._order.put(partial(self._past_the_guest, work))
        return None

    def _to_the_guest(self, work: Callable[[], None]) -> None:
        self._guest.idle()
        self._guest.put(work)

    def _past_the_guest(self, work: Callable[[], None]) -> None:
        self._guest.idle(GRACE_S)
        work()

    def stop(self, request: Request | None = None) -> None:
        """What is under way ends as soon as it can; what waits is not done."""
        with self._lock:
            self._stops += 1
        if request is not None:
            self._tell(seq=request.seq, page=request.page, done=1, code=request.code, outcome="done", text="")

    def idle(self, timeout_s: float | None = None) -> bool:
        """Wait until everything asked so far is done; False: not within the time."""
        return all(lane.idle(timeout_s) for lane in (self._order, self._guest, self._threads))

    # -- carrying it out -----------------------------------------------------------------------------------------------

    def _carry_out(self, request: Request, stops: int) -> None:
        def stopped() -> bool:
            return self._stops != stops

        whose: dict[str, Any] = {"seq": request.seq, "page": request.page, "code": request.code}
        if stopped():
            self._tell(**whose, waiting=-1, done=1, outcome="failed", text="not done: somebody said stop")
            return
        self._tell(**whose, waiting=-1, outcome="running", text="")
        outcome, text = "done", ""
        try:
            if request.machine is None:
                raise UsageError("there is no machine: it was closed, or has not come yet")
            tell = partial(self._progress, whose)
            text = actions.result(
                request.action.carry_out(Case(request.machine, request.values, tell, stopped, self._arrives))
            )
        except LabkitError as error:
            outcome, text = "failed", f"{type(error).__name__}: {error}"
        except BaseException as error:  # noqa: BLE001 - it is told where it was asked for; nobody else would hear it
            outcome, text = "failed", f"{type(error).__name__}: {error}"
        self._tell(**whose, done=1, outcome=outcome, text=text)

    def _progress(self, whose: dict[str, Any], text: str) -> None:
        """What came of another request meanwhile stands long enough to be read."""
        mine = all(getattr(self.asked, name) == value for name, value in whose.items())
        if mine or time.monotonic() > self._told_at + LINGER_S:
            self._tell(**whose, outcome="running", text=text)

    def _tell(self, *, waiting: int = 0, done: int = 0, **more: Any) -> None:
        with self._lock:
            now = self.asked
            if more.get("outcome") == "failed":
                more |= {"failed": now.failed + 1, "failure": f"{more['code']} failed: {more['text']}".lstrip()}
            self.asked = now._replace(waiting=now.waiting + waiting, done=now.done + done, **more)
            self._told_at = time.monotonic()
        self._changed()
