"""What does a host notifier ask of the host, and how can each of these calls be made to fail? `vm.fault`.

A fault is planned, and comes when the call is made next: the rules then do what they do when the host itself refuses.
"""

from __future__ import annotations

import errno as errno_names
import os
from typing import NamedTuple, Protocol

from labkit.abi import QUEUE_MAX
from labkit.errors import HostError, UsageError
from labkit.trace.events import BIRTH_COUNT, FaultCall, Kind
from labkit.trace.feed import Feed

CALLS = {FaultCall.EVENTFD: "eventfd", FaultCall.ASSIGN: "KVM_IOEVENTFD", FaultCall.DEASSIGN: "KVM_IOEVENTFD"}


class Ioeventfds(Protocol):
    """What a CPU back end does for the notifiers."""

    def assign(self, port: int, length: int, value: int, fd: int) -> None:
        """The exact write signals `fd`."""

    def deassign(self, port: int, length: int, value: int, fd: int) -> None:
        """Undo it."""


class Plan(NamedTuple):
    """A fault to come: which call, of which queue (None: any), how it fails, how often (None: always)."""

    call: FaultCall
    queue: int | None
    errno: int
    times: int | None


class Faults:
    """Faults on demand, and the calls they stand in front of. A fault is an event; it replaces the call."""

    def __init__(self, cpu: Ioeventfds, feed: Feed) -> None:
        self._cpu, self._feed = cpu, feed
        self.planned: list[Plan] = []

    # -- what a user plans ---------------------------------------------------------------------------------------------

    def fail_eventfd(self, queue: int | None = None, error: str = "EMFILE", times: int | None = 1) -> None:
        """Let the next `times` (None: all) creations of an eventfd for `queue` (None: any) fail with `error`."""
        self._plan(FaultCall.EVENTFD, queue, error, times)

    def fail_assign(self, queue: int | None = None, error: str = "ENOSPC", times: int | None = 1) -> None:
        """The same for KVM's assign (R4). `error` is a name of errno: "ENOSPC", "EEXIST" ..."""
        self._plan(FaultCall.ASSIGN, queue, error, times)

    def fail_deassign(self, queue: int | None = None, error: str = "ENOENT", times: int | None = 1) -> None:
        """The same for KVM's deassign (R15): KVM is not asked, so the registration stays until it is."""
        self._plan(FaultCall.DEASSIGN, queue, error, times)

    def clear(self) -> None:
        """Plan nothing any more."""
        self.planned = []

    def _plan(self, call: FaultCall, queue: int | None, error: str, times: int | None) -> None:
        number = getattr(errno_names, error, None) if error.startswith("E") else None
        if not isinstance(number, int):
            raise UsageError(f"error={error!r}: the name of an errno, such as 'ENOSPC'")
        if queue is not None and not 0 <= queue < QUEUE_MAX:
            raise UsageError(f"queue={queue!r}: 0 to {QUEUE_MAX - 1}, or None for any")
        if times is not None and times < 1:
            raise UsageError(f"times={times!r}: at least 1, or None for always")
        self.planned = [*self.planned, Plan(call, queue, number, times)]

    def __repr__(self) -> str:
        plans = ", ".join(
            f"{p.call.name.lower()} of queue {p.queue}: {errno_names.errorcode[p.errno]}" for p in self.planned
        )
        return f"<faults planned: {plans or 'none'}>"

    # -- the calls, each beside its undoing ----------------------------------------------------------------------------

    def eventfd(self, queue: int) -> int:
        """A new eventfd with count 1. HostError if there is none to be had."""
        self._may_fail(FaultCall.EVENTFD, queue)
        try:
            return os.eventfd(BIRTH_COUNT, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            raise HostError("eventfd", error.errno or 0) from error

    def assign(self, queue: int, port: int, width: int, fd: int) -> None:
        """Let a kick of `queue` signal `fd`. HostError if KVM refuses."""
        self._may_fail(FaultCall.ASSIGN, queue)
        self._cpu.assign(port, width, queue, fd)

    def deassign(self, queue: int, port: int, width: int, fd: int) -> None:
        """Undo it. HostError if KVM refuses."""
        self._may_fail(FaultCall.DEASSIGN, queue)
        self._cpu.deassign(port, width, queue, fd)

    def _may_fail(self, call: FaultCall, queue: int) -> None:
        for plan in self.planned:
            if plan.call is call and plan.queue in (None, queue):
                self._use_up(plan)
                self._feed.emit(Kind.FAULT, queue, call, plan.errno)
                raise HostError(CALLS[call], plan.errno, "a fault on demand")

    def _use_up(self, plan: Plan) -> None:
        left = [other for other in self.planned if other is not plan]
        if plan.times is None or plan.times > 1:
            left.insert(0, plan._replace(times=None if plan.times is None else plan.times - 1))
        self.planned = left
