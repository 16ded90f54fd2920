"""Is the machine running, and who wants to know when that changes? One state, and listeners called in order."""

from __future__ import annotations

from collections.abc import Callable

from labkit.trace.events import Kind, State
from labkit.trace.feed import Feed

Listener = Callable[[bool], None]


class RunState:
    """Run state of one machine. Changed by the owner thread under the big lock, with the vCPUs out of the guest."""

    def __init__(self, feed: Feed) -> None:
        self.state = State.PAUSED
        self._feed = feed
        self._listeners: list[Listener] = []
        self.witness: Listener | None = None  # hears of a stop after all listeners, of a start before them

    @property
    def running(self) -> bool:
        """May the vCPUs be in the guest?"""
        return self.state is State.RUNNING

    def listen(self, listener: Listener) -> None:
        """Call `listener(running)` at each change between running and not running, in order of registration (R10)."""
        self._listeners.append(listener)

    def forget(self, listener: Listener) -> None:
        """Undo `listen`; before the listener's device goes (R11)."""
        self._listeners.remove(listener)

    def close(self) -> None:
        """The machine goes. The listeners do not hear of it: their devices go by a rule of their own (R11)."""
        self._feed.emit(Kind.RUNSTATE, -1, self.state, State.CLOSED)
        self.state = State.CLOSED

    def change(self, state: State) -> None:
        """Go to `state`; the listeners hear of it if running begins or ends."""
        if state is self.state:
            return
        was_running, before = self.running, self.state
        self.state = state
        changed, witness = self.running != was_running, self.witness
        if changed and self.running and witness:
            witness(True)
        self._feed.emit(Kind.RUNSTATE, -1, before, state)
        for listener in self._listeners if changed else ():
            listener(self.running)
        if changed and not self.running and witness:
            witness(False)
