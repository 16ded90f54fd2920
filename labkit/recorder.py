"""What does a recording keep of a machine? Its facts, its events so far, and what registers and rings hold now."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from labkit.errors import UsageError
from labkit.installation import VERSION
from labkit.owner import Owner as OwnerThread
from labkit.runstate import RunState
from labkit.trace.events import NO_INDEX, Owner, State
from labkit.trace.feed import Feed
from labkit.trace.fields import DEVICE, INDICES, NONE
from labkit.trace.recorded import FEATURE_BITS, Facts, Recorded, Values, plain
from labkit.virtio.proxy import Proxy
from labkit.virtio.queue import Queue

if TYPE_CHECKING:
    from labkit.errors import GuestCrash, HostError

TRIES = 100


class Machine(Protocol):
    """What is looked at: the board."""

    name: str
    plan: Any
    cpu: Any
    proxy: Proxy
    feed: Feed
    runstate: RunState
    plugged: bool
    exit_code: int | None
    crash: GuestCrash | HostError | None

    owner: OwnerThread

    def is_own_thread(self) -> bool:
        """Is the caller a thread that the machine waits for?"""

    def locked(self) -> AbstractContextManager[object]:
        """The big lock."""


class Recorder:
    """Makes recordings of one machine, also after its end."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._kept: Recorded | None = None

    @cached_property
    def facts(self) -> Facts:
        """What does not change while the machine lives."""
        plan, proxy = self._machine.plan, self._machine.proxy
        names = (plan.model.feature_names(1 << bit) for bit in range(FEATURE_BITS))
        return Facts(
            name=self._machine.name,
            cpu=self._machine.cpu.name,
            guest=plain(plan.image.name),
            device=plain(plan.model.name),
            remark=plain(", ".join(filter(None, (plan.model.remark(), *(f"wrong: {m.name}" for m in plan.mutations))))),
            revision=plan.revision,
            vcpus=plan.vcpus,
            memory_mib=plan.memory_mib,
            ioeventfd=plan.ioeventfd,
            queue_sizes=tuple(plan.model.queue_sizes),
            queue_indices=proxy.notifiers.rules.queue_indices,
            vectors=proxy.msix.count,
            host_features=proxy.host_features,
            feature_names=tuple("" if name.startswith("0x") else plain(name) for name in names),
        )

    def recorded(self) -> Recorded:
        """What there is now, or was when the machine was closed. UsageError: a device's own code asks."""
        machine = self._machine
        if machine.is_own_thread() and not machine.owner.is_current:
            raise UsageError("a device's own code cannot save the machine it runs in")
        if self._kept is not None:
            return self._kept
        found: Recorded = machine.owner.call(self._record)
        return found

    def keep(self) -> None:
        """The machine is about to be gone: what can still be looked at is copied."""
        if self._machine.runstate.state is State.CLOSED:
            self._kept = self._record()
        self._machine.feed.keep()

    def _record(self) -> Recorded:
        """One moment. Under the big lock everything stands still but a backend, which is looked at until it does."""
        machine, feed = self._machine, self._machine.feed
        with machine.locked():
            for _ in range(TRIES):
                position, values = feed.position(), values_of(machine)
                if feed.position() == position:
                    break
            else:
                _forget_what_moves(values)
            records = feed.records(position)
        return Recorded(self.facts, position - len(records), records, values, VERSION)


def _forget_what_moves(values: Values) -> None:
    """A backend was at work all the time: what its rings hold is not told."""
    for name, queue in values:
        if name in INDICES and values["owner", queue] == Owner.BACKEND:
            values[name, queue] = None


def values_of(machine: Machine) -> Values:
    """Every field, as the live views show it."""
    values: Values = {(name, DEVICE): value for name, value in _of_device(machine).items()}
    for queue in machine.proxy.queues:
        values |= {(name, queue.index): value for name, value in _of_queue(queue).items()}
    return values


def _of_device(machine: Machine) -> dict[str, int]:
    proxy, crash = machine.proxy, machine.crash
    return {
        "run_state": machine.runstate.state,
        "exit_code": _known(machine.exit_code),
        "crash_vcpu": getattr(crash, "vcpu", NONE),
        "crash_rip": getattr(crash, "rip", NONE),
        "plugged": int(machine.plugged),
        "broken": int(proxy.device.broken),
        "status": proxy.status,
        "command": int(proxy.command),
        "flags": int(proxy.flags),
        "guest_features": int(proxy.device.guest_features),
        "queue_sel": proxy.queue_sel,
        "isr": int(proxy.device.isr),
        "msix": int(proxy.msix.enabled),
        "config_vector": proxy.config_vector,
    }


def _of_queue(queue: Queue) -> dict[str, int]:
    notifier = queue.notifier
    return {
        "pfn": queue.pfn,
        "vector": queue.vector,
        "avail_idx": _known(queue.avail_idx, NO_INDEX),
        "last_avail": queue.last_avail_idx,
        "used_idx": _known(queue.used_idx, NO_INDEX),
        "in_flight": queue.in_flight,
        "owner": Owner[notifier.owner.upper()],
        "fd": _known(notifier.fd),
        "port": _known(notifier.port),
        "pending": notifier.pending,
        "trapped": notifier.trapped,
        "signalled": notifier.signalled,
        "drained": notifier.drained,
        "synthetic": notifier.synthetic,
    }


def _known(value: int | None, otherwise: int = NONE) -> int:
    return otherwise if value is None else value
