"""What is a machine like at one moment, as a plain dict that a page can draw? It waits for no lock and no thread."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from enum import IntFlag
from typing import Any

from labkit.abi import PciCommand, Status
from labkit.errors import UsageError
from labkit.trace.events import Event, Flag, Kind, State, command_text, flags_text, status_text
from labkit.trace.tally import Tally
from labkit.views import fields
from labkit.widgets.timeline import Owners, timeline

Scene = dict[str, Any]

PARTS = ("datapath", "proxy", "queues", "rings", "timeline", "events")
EVENTS_MOST, RARE_LEAST = 40, 16  # in the list; so many rare ones stay in it however many others come
CHANGES_MOST = 8  # of owners, for a page that has no kernel
QUEUES_MOST = 8  # of a device with more the others are for nobody's eye
RULES_OF = {Kind.ROLL_BACK: "R4", Kind.DRAIN: "R5", Kind.KICK_IGNORED: "R12"}  # events that belong to one rule
HEARD = (Kind.OWNER, Kind.RUNSTATE, Kind.ROLL_BACK)
CPUS = {"kvm": "KVM", "emulated": "emulated CPU"}


class Looker:
    """Looks at one machine, again and again; what it saw last is `scene`.

    It holds the board, not the Machine: a forgotten machine is closed, and looks like that. `parts` are those to look
    at, `queue` the only one to show (None: all).
    """

    def __init__(self, board: Any, parts: Iterable[str] = PARTS, queue: int | None = None) -> None:
        self._board, self._parts, self._queue = board, tuple(parts), queue
        self._tally: Any = Tally(board.feed)
        self._owners = Owners()
        self.over = False  # the machine is closed, and nothing will change any more
        self._machine = board.machine
        self._origin_ns = board.feed.born_ns
        self.scene: Scene = {}
        self.announced = (0, "")  # the newest change of owner or run state, or why there was none: when, and in words

    @property
    def machine(self) -> Any:
        """What the user holds; None if nobody holds it any more."""
        return self._machine()

    def mark(self) -> object:
        """Something that differs when there is something new to see. Cheap."""
        board, keep = self._board, self.machine  # kept alive: its end would be the end of what is looked at
        if self.over:
            return "closed"
        try:
            with board.visitors:
                self._tally.look()
                pending = tuple(queue.notifier.pending for queue in _shown(board.proxy.queues, self._queue))
                held = tuple(board.gates), tuple(board.gates.armed)
                return board.runstate.state, self._tally.seen, pending, held, keep is None
        except UsageError:
            return "closed" if board.gone else "about to be closed"

    def look(self) -> Scene:
        """A new scene."""
        board, keep = self._board, self.machine
        if self.over:
            return self.scene
        try:
            with board.visitors:
                self.scene = self._look()
        except UsageError:
            if board.gone:  # what is left of it is a copy
                self.scene, self.over = self._look(), True
                self._board = self._tally = None
        del keep
        return self.scene

    def _look(self) -> Scene:
        board, tally = self._board, self._tally
        state, proxy = board.runstate.state, board.proxy
        tally.look()
        self._owners.hear(tally.rare, tally.lost)
        self._hear()
        queues = _shown(proxy.queues, self._queue)
        newest = tally.newest(120)
        scene = head(board, state, self.machine is None)
        made: dict[str, Callable[[], object]] = {
            "datapath": lambda: datapath(board, tally.kick),
            "proxy": lambda: registers(proxy),
            "queues": lambda: [_queue(proxy, queue) for queue in queues],
            "timeline": lambda: timeline(tally, self._owners, newest, [q.index for q in queues], board.plan.vcpus),
            "events": lambda: self._listed(newest),
        }
        for part in dict.fromkeys("queues" if part == "rings" else part for part in self._parts):
            if part in made:
                scene[part] = made[part]()
        new, tally.new = tally.new, 0
        held = [{"actor": one.actor, "gate": one.gate, "queue": one.queue} for one in board.gates]
        return scene | {
            "changes": [self._change(one) for one in reversed(tally.rare) if one.kind is Kind.OWNER][:CHANGES_MOST],
            "skipped": max(0, new - EVENTS_MOST),
            "lost": tally.lost,
            "held": [] if state is State.CLOSED else held,
            "armed": [] if state is State.CLOSED else board.gates.armed,
            "actors": actors(board.plan.vcpus),
        }

    def _hear(self) -> None:
        """The newest change of owner or run state, or a start that was rolled back, in words."""
        for one in reversed(self._tally.rare):
            if one.kind in HEARD:
                self.announced = one.time_ns, heard(one)
                return

    def _change(self, one: Event) -> list[object]:
        return [one.queue, said(one), rule_of(one)]

    def _listed(self, newest: Sequence[Event]) -> list[Scene]:
        """The newest events; rare ones among them are not driven out by a storm."""
        rare = {one.seq: one for one in list(self._tally.rare)[-RARE_LEAST:]}
        others = [one for one in newest if one.seq not in rare and self._concerns(one)]
        shown = [one for one in rare.values() if self._concerns(one)]
        shown += others[-(EVENTS_MOST - len(shown)) :]
        return [self._event(one) for one in sorted(shown, key=lambda one: -one.seq)]

    def _concerns(self, one: Event) -> bool:
        return self._queue is None or one.queue in (None, self._queue)

    def _event(self, one: Event) -> Scene:
        return {
            "seq": one.seq,
            "time": f"+{(one.time_ns - self._origin_ns) / 1e9:.4f} s",
            "actor": one.actor,
            "queue": one.queue,
            "name": one.name,
            "text": said(one),
            "rule": rule_of(one),
        }


def _shown(queues: Sequence[Any], only: int | None) -> list[Any]:
    return [queue for queue in queues if only in (None, queue.index)][:QUEUES_MOST]


# -- one event in words ------------------------------------------------------------------------------------------------


def heard(one: Event) -> str:
    """What is announced of it."""
    if one.kind is Kind.ROLL_BACK:
        return f"the notifiers did not start: {_error(one['errno'])} ({rule_of(one)})"
    where = f"queue {one.queue}" if one.queue is not None else "the machine"
    return f"{where}: {said(one)}" + (f" ({rule_of(one)})" if rule_of(one) else "")


def said(one: Event) -> str:
    """Its fields, in words where there are some."""
    if one.kind is Kind.OWNER:
        return f"{one['before']} → {one['after']} because {one['cause']}"
    if one.kind in (Kind.RUNSTATE, Kind.STATUS, Kind.COMMAND, Kind.FLAGS):
        return f"{one['before']} → {one['after']}"
    values = one.values
    return fields({**values, "errno": _error(values["errno"])} if values.get("errno") else values)


def _error(number: int | str) -> str:
    return errno.errorcode.get(int(number), str(number))


def rule_of(one: Event) -> str:
    """The rule that made it happen, as far as the event tells; else nothing."""
    return str(one["rule"]) if one.kind is Kind.OWNER else RULES_OF.get(one.kind, "")


# -- the parts ---------------------------------------------------------------------------------------------------------


def head(board: Any, state: State, forgotten: bool) -> Scene:
    """Which machine it is, and what is wrong with it."""
    facts = board.recorder.facts
    title = f"virtio-{facts.device} · {CPUS.get(facts.cpu, facts.cpu)} · rules {facts.revision}"
    told = {"device": facts.device, "revision": facts.revision, "cpu": facts.cpu}
    noted = note(board, state, forgotten)
    return {"name": facts.name, "title": title, "facts": told, "state": state.name.lower(), "note": noted}


def note(board: Any, state: State, forgotten: bool) -> str:
    """What has to be known of a machine that does not simply run."""
    if state is State.CLOSED:
        return "closed: nobody held it; keep it in a variable, vm = labkit.boot()" if forgotten else "closed"
    if board.crash is not None:
        return f"crashed: {board.crash}"
    if board.exit_code is not None:
        return f"the guest ended with exit code {board.exit_code}"
    if state is State.MIGRATED:
        return "it has moved away: here it can be looked at and closed"
    if board.migration is not None:
        at = board.migration.progress
        return f"on its way to another place{f': {at}' if at else ''}"
    broken = f"the device is broken: {board.proxy.why_broken}" if board.proxy.broken else ""
    return broken or ("" if board.plugged else "the device is unplugged")


def actors(vcpus: int) -> list[str]:
    """Who can be held."""
    return [*(f"vcpu{index}" for index in range(vcpus)), "iothread", "backend", "main"]


WAYS = {
    Kind.KICK_TRAP: ("trap", "The last kick of queue {0} trapped: the vCPU left the guest, and served it itself."),
    Kind.KICK_IGNORED: ("trap", "The last kick of queue {0} trapped, and nobody served it: {1}."),
    Kind.FORWARD: ("forwarded", "The last kick of queue {0} trapped, and was written to the eventfd for its owner."),
    Kind.DRAIN: ("eventfd", "The last kick of queue {0} was found in the eventfd by STOP, and served there."),
}


def datapath(board: Any, kick: Event | None) -> Scene:
    """Which way the newest kick went, and which way the next one of that queue would go."""
    proxy = board.proxy
    queues = proxy.queues
    index = kick.queue if kick is not None and kick.queue is not None and kick.queue < len(queues) else 0
    path, text = _way(kick, index)
    notifier = queues[index].notifier if queues else None
    image = getattr(board.plan.model, "image", None)
    return {
        "queue": index,
        "path": path,
        "would": would(proxy, index),
        "fd": notifier.fd if notifier else None,
        "pending": notifier.pending if notifier else 0,
        "device": proxy.name,
        "image": "" if image is None else "RAM disk" if image.is_ram else image.name.rsplit("/", 1)[-1],
        "text": text,
    }


def _way(kick: Event | None, index: int) -> tuple[str, str]:
    if kick is None:
        return "none", "The guest has not kicked yet."
    if kick.kind is Kind.KICK_EVENTFD:
        who = "backend" if kick.actor == "backend" else "eventfd"
        served = "the backend" if who == "backend" else "the iothread"
        return who, f"The last kick of queue {index} went through its eventfd to {served}."
    path, text = WAYS[kick.kind]
    return path, text.format(index, str(kick.values.get("why", "")).replace("_", " "))


def would(proxy: Any, index: int) -> str:
    """What the next kick of a queue would do: KVM compares the port where it is written with the one assigned (R16)."""
    port = int(proxy.device.notify_port)
    if not port:
        return "nobody"
    notifier = proxy.queues[index].notifier if index < len(proxy.queues) else None
    if notifier is None or notifier.owner == "none" or notifier.port != port:
        return "trap"
    return "backend" if notifier.owner == "backend" else "eventfd"


def registers(proxy: Any) -> list[Scene]:
    """The registers a guest sees, and the proxy's flags; bits by name."""
    accepted = int(proxy.device.guest_features)
    return [
        _register("STATUS", proxy.status, Status, status_text(proxy.status)),
        _register("COMMAND", int(proxy.command), PciCommand, command_text(int(proxy.command))),
        _register("flags", int(proxy.flags), Flag, flags_text(int(proxy.flags))),
        _features(proxy, accepted),
        _register("QUEUE_SEL", proxy.queue_sel),
        _register("ISR", proxy.isr),
        {"name": "MSI-X", "value": "1" if proxy.msix_enabled else "0", "bits": None}
        | {"text": "on" if proxy.msix_enabled else "off"},
        {"name": "ioeventfd", "value": "1" if proxy.ioeventfd_started else "0", "bits": None}
        | {"text": "started" if proxy.ioeventfd_started else "stopped"},
    ]


def _register(name: str, value: int, bits: type[IntFlag] | None = None, text: str = "") -> Scene:
    named = [{"name": bit.name or hex(bit), "on": bool(value & bit)} for bit in bits] if bits else None
    return {"name": name, "value": hex(value), "bits": named, "text": text or str(value)}


def _features(proxy: Any, accepted: int) -> Scene:
    """Those that the device offers; on: the driver has accepted it."""
    offered = [1 << bit for bit in range(32) if proxy.host_features >> bit & 1]
    named = [{"name": proxy.model.feature_names(bit), "on": bool(accepted & bit)} for bit in offered]
    return {"name": "GUEST_FEATURES", "value": hex(accepted), "bits": named, "text": str(proxy.features)}


def _queue(proxy: Any, queue: Any) -> Scene:
    notifier = queue.notifier
    lent = notifier.owner == "backend"  # its indices are the backend's own meanwhile
    return {
        "index": queue.index,
        "owner": notifier.owner,
        "fd": notifier.fd,
        "port": "-" if notifier.port is None else hex(notifier.port),
        "value": notifier.value,
        "pending": notifier.pending,
        **{name: getattr(notifier, name) for name in ("trapped", "signalled", "drained", "synthetic")},
        "would": would(proxy, queue.index),
        "num": queue.num,
        "avail": queue.avail_idx,
        "used": queue.used_idx,
        "last_avail": None if lent else queue.last_avail_idx,
        "in_flight": None if lent else queue.in_flight,
    }
