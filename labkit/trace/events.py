"""What can the feed say? Each kind of event with the names and units of its fields (native/decl/events.h)."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, IntFlag
from pathlib import Path

from labkit.abi import AgentStatus, BlkStatus, BlkType, Command, PciCommand, Register, Status, header_numbers

_N = header_numbers(Path(__file__).parent.parent / "native" / "decl" / "events.h")

NO_INDEX = _N["NO_INDEX"]
BIRTH_COUNT = _N["BIRTH_COUNT"]
NO_FDS = 1 << 31  # a number this large is no fd: -1, modulo 2**64


class Kind(IntEnum):
    """Kinds of event (EV_*)."""

    KICK_TRAP = _N["EV_KICK_TRAP"]
    KICK_IGNORED = _N["EV_KICK_IGNORED"]
    KICK_EVENTFD = _N["EV_KICK_EVENTFD"]
    QUEUE_NOTIFY = _N["EV_QUEUE_NOTIFY"]
    REQUEST = _N["EV_REQUEST"]
    INTERRUPT = _N["EV_INTERRUPT"]
    REGISTER = _N["EV_REGISTER"]
    STATUS = _N["EV_STATUS"]
    ASSIGN = _N["EV_ASSIGN"]
    DEASSIGN = _N["EV_DEASSIGN"]
    ATTACH = _N["EV_ATTACH"]
    DETACH = _N["EV_DETACH"]
    DRAIN = _N["EV_DRAIN"]
    OWNER = _N["EV_OWNER"]
    RUNSTATE = _N["EV_RUNSTATE"]
    STEP = _N["EV_STEP"]
    STEP_DONE = _N["EV_STEP_DONE"]
    PCI_WRITE = _N["EV_PCI_WRITE"]
    BROKEN = _N["EV_BROKEN"]
    CRASH = _N["EV_CRASH"]
    EXIT = _N["EV_EXIT"]
    DEVICE_RESET = _N["EV_DEVICE_RESET"]
    ROLL_BACK = _N["EV_ROLL_BACK"]
    CLOSE_FD = _N["EV_CLOSE_FD"]
    FORWARD = _N["EV_FORWARD"]
    SIGNAL = _N["EV_SIGNAL"]
    FAULT = _N["EV_FAULT"]
    BACKEND = _N["EV_BACKEND"]
    FRAME = _N["EV_FRAME"]
    CHAIN = _N["EV_CHAIN"]
    CONFIG_CHANGED = _N["EV_CONFIG_CHANGED"]
    INTX = _N["EV_INTX"]
    PLUG = _N["EV_PLUG"]
    COMMAND = _N["EV_COMMAND"]
    MSIX = _N["EV_MSIX"]
    FLAGS = _N["EV_FLAGS"]
    LOADED = _N["EV_LOADED"]
    QUEUE_LOADED = _N["EV_QUEUE_LOADED"]
    GATE = _N["EV_GATE"]
    WANTS_LOCK = _N["EV_WANTS_LOCK"]
    WOKEN = _N["EV_WOKEN"]
    EMPTY = _N["EV_EMPTY"]


class Run(IntEnum):
    """Who runs a queue (RUN_*)."""

    TRAP = _N["RUN_TRAP"]
    IOTHREAD = _N["RUN_IOTHREAD"]
    DRAIN = _N["RUN_DRAIN"]
    RESUME = _N["RUN_RESUME"]
    BACKEND = _N["RUN_BACKEND"]
    HOST = _N["RUN_HOST"]


class Ignored(IntEnum):
    """Why a kick did nothing (IGNORED_*, rule R12)."""

    NO_RING = _N["IGNORED_NO_RING"]
    INDEX = _N["IGNORED_INDEX"]
    BROKEN = _N["IGNORED_BROKEN"]
    DISABLED = _N["IGNORED_DISABLED"]


class IrqWay(IntEnum):
    """How an interrupt went (IRQ_WAY_*)."""

    NONE = _N["IRQ_WAY_NONE"]
    MSIX = _N["IRQ_WAY_MSIX"]
    MASKED = _N["IRQ_WAY_MASKED"]
    ISR = _N["IRQ_WAY_ISR"]
    INTX = _N["IRQ_WAY_INTX"]


class Owner(IntEnum):
    """Who serves a notifier (OWNER_*)."""

    NONE = _N["OWNER_NONE"]
    VMM = _N["OWNER_VMM"]
    BACKEND = _N["OWNER_BACKEND"]


class Cause(IntEnum):
    """What made the rules act (CAUSE_*)."""

    DRIVER_OK = _N["CAUSE_DRIVER_OK"]
    DRIVER_NOT_OK = _N["CAUSE_DRIVER_NOT_OK"]
    STATUS_ZERO = _N["CAUSE_STATUS_ZERO"]
    PFN_ZERO = _N["CAUSE_PFN_ZERO"]
    DEVICE_RESET = _N["CAUSE_DEVICE_RESET"]
    BUS_MASTER_OFF = _N["CAUSE_BUS_MASTER_OFF"]
    BACKEND_TAKES = _N["CAUSE_BACKEND_TAKES"]
    BACKEND_GIVES = _N["CAUSE_BACKEND_GIVES"]
    GRAB = _N["CAUSE_GRAB"]
    RELEASE = _N["CAUSE_RELEASE"]
    BUS_MASTER_ON = _N["CAUSE_BUS_MASTER_ON"]
    BAR0_MOVED = _N["CAUSE_BAR0_MOVED"]
    KICK = _N["CAUSE_KICK"]
    ASSIGN_FAILED = _N["CAUSE_ASSIGN_FAILED"]
    RESUME = _N["CAUSE_RESUME"]
    PAUSE = _N["CAUSE_PAUSE"]
    EXIT = _N["CAUSE_EXIT"]
    LOAD = _N["CAUSE_LOAD"]


class State(IntEnum):
    """Run states of a machine (STATE_*)."""

    PAUSED = _N["STATE_PAUSED"]
    RUNNING = _N["STATE_RUNNING"]
    CRASHED = _N["STATE_CRASHED"]
    EXITED = _N["STATE_EXITED"]
    CLOSED = _N["STATE_CLOSED"]
    MIGRATED = _N["STATE_MIGRATED"]


class Broken(IntEnum):
    """How a guest broke its ring (BROKEN_*)."""

    RING_OUTSIDE = _N["BROKEN_RING_OUTSIDE"]
    AVAIL_JUMPED = _N["BROKEN_AVAIL_JUMPED"]
    HEAD = _N["BROKEN_HEAD"]
    NEXT = _N["BROKEN_NEXT"]
    LOOP = _N["BROKEN_LOOP"]
    ORDER = _N["BROKEN_ORDER"]
    EMPTY_BUFFER = _N["BROKEN_EMPTY_BUFFER"]
    BUFFER_OUTSIDE = _N["BROKEN_BUFFER_OUTSIDE"]
    INDIRECT = _N["BROKEN_INDIRECT"]
    REQUEST_HEADER = _N["BROKEN_REQUEST_HEADER"]
    DEVICE_CODE = _N["BROKEN_DEVICE_CODE"]


class Crash(IntEnum):
    """Why a vCPU cannot go on (CRASH_*)."""

    TRIPLE_FAULT = _N["CRASH_TRIPLE_FAULT"]
    BAD_STATE = _N["CRASH_BAD_STATE"]
    CANNOT_EXECUTE = _N["CRASH_CANNOT_EXECUTE"]
    REFUSED = _N["CRASH_REFUSED"]
    OTHER = _N["CRASH_OTHER"]


class Frame(IntEnum):
    """Which way a frame went, or why it went nowhere (FRAME_*)."""

    SENT = _N["FRAME_SENT"]
    RECEIVED = _N["FRAME_RECEIVED"]
    DROPPED_TO_HOST = _N["FRAME_DROPPED_TO_HOST"]
    DROPPED_TO_GUEST = _N["FRAME_DROPPED_TO_GUEST"]
    FILTERED = _N["FRAME_FILTERED"]


class Gate(IntEnum):
    """How far a machine has come on its way to another host (GATE_*): its source's, then its destination's."""

    CONNECTED = _N["GATE_CONNECTED"]
    HELLO_SENT = _N["GATE_HELLO_SENT"]
    WELCOME_HEARD = _N["GATE_WELCOME_HEARD"]
    ROUND_SENT = _N["GATE_ROUND_SENT"]
    STOPPED = _N["GATE_STOPPED"]
    REST_SENT = _N["GATE_REST_SENT"]
    DISK_LET_GO = _N["GATE_DISK_LET_GO"]
    STATE_SENT = _N["GATE_STATE_SENT"]
    TAKEN_HEARD = _N["GATE_TAKEN_HEARD"]
    YOURS_SENT = _N["GATE_YOURS_SENT"]
    RUNS_HEARD = _N["GATE_RUNS_HEARD"]

    ACCEPTED = _N["GATE_ACCEPTED"]
    HELLO_HEARD = _N["GATE_HELLO_HEARD"]
    BUILT = _N["GATE_BUILT"]
    WELCOME_SENT = _N["GATE_WELCOME_SENT"]
    ROUND_STORED = _N["GATE_ROUND_STORED"]
    STATE_HEARD = _N["GATE_STATE_HEARD"]
    LOADED = _N["GATE_LOADED"]
    DISK_TAKEN = _N["GATE_DISK_TAKEN"]
    TAKEN_SENT = _N["GATE_TAKEN_SENT"]
    YOURS_HEARD = _N["GATE_YOURS_HEARD"]
    RUNS_SENT = _N["GATE_RUNS_SENT"]
    RUNS = _N["GATE_RUNS"]


class FaultCall(IntEnum):
    """Which call was made to fail (FAULT_CALL_*)."""

    EVENTFD = _N["FAULT_CALL_EVENTFD"]
    ASSIGN = _N["FAULT_CALL_ASSIGN"]
    DEASSIGN = _N["FAULT_CALL_DEASSIGN"]


class Actor(IntEnum):
    """Threads of a machine (ACTOR_*); a vCPU is VCPU0 + its index."""

    HOST = _N["ACTOR_HOST"]
    OWNER = _N["ACTOR_OWNER"]
    IOTHREAD = _N["ACTOR_IOTHREAD"]
    BACKEND = _N["ACTOR_BACKEND"]
    VCPU0 = _N["ACTOR_VCPU0"]


class Flag(IntFlag):
    """Flags of a proxy, as the patch numbers them."""

    BUS_MASTER_BUG = 1 << 0
    USE_IOEVENTFD = 1 << 1


Value = int | str
Reader = Callable[[int], Value]


def _word(names: type[IntEnum]) -> Reader:
    known = {int(member): member.name.lower() for member in names}
    return lambda number: known.get(number, number)


def _upper(names: type[IntEnum]) -> Reader:
    known = {int(member): member.name for member in names}
    return lambda number: known.get(number, number)


def _bits(names: type[IntFlag], value: int) -> str:
    known = [bit.name or "" for bit in names if value & bit]
    rest = value & ~sum(names)
    return "|".join(known + ([hex(rest)] if rest else [])) or "0"


def status_text(value: int) -> str:
    """STATUS as words: `ACKNOWLEDGE|DRIVER`, `0`."""
    return _bits(Status, value)


def command_text(value: int) -> str:
    """PCI COMMAND as words: `IO|MEMORY|MASTER`, `0`."""
    return _bits(PciCommand, value)


def flags_text(value: int) -> str:
    """Flags of a proxy as words: `USE_IOEVENTFD`, `0`."""
    return _bits(Flag, value)


def _plain(number: int) -> Value:
    return number


def _hex(number: int) -> Value:
    return hex(number)


def _ring_index(number: int) -> Value:
    return number if number < NO_INDEX else "-"


def _fd(number: int) -> Value:
    return number if number < NO_FDS else -1


def _rule(number: int) -> Value:
    return f"R{number}"


# kind -> the names of a, b, c, d, e as far as they are used, each with the reader that makes it legible
FIELDS: dict[Kind, tuple[tuple[str, Reader], ...]] = {
    Kind.KICK_TRAP: (("value", _plain), ("width_bytes", _plain), ("port", _hex)),
    Kind.KICK_IGNORED: (("value", _plain), ("why", _word(Ignored))),
    Kind.KICK_EVENTFD: (("kicks", _plain), ("synthetic", _plain), ("forwarded", _plain)),
    Kind.QUEUE_NOTIFY: (
        ("by", _word(Run)),
        ("avail_idx", _ring_index),
        ("last_avail", _plain),
        ("used_idx", _ring_index),
    ),
    Kind.REQUEST: (
        ("type", _upper(BlkType)),
        ("sector", _plain),
        ("bytes", _plain),
        ("status", _upper(BlkStatus)),
        ("head", _plain),
    ),
    Kind.INTERRUPT: (("vector", _plain), ("way", _word(IrqWay))),
    Kind.REGISTER: (("register", _upper(Register)), ("width_bytes", _plain), ("value", _hex), ("write", _plain)),
    Kind.STATUS: (("before", status_text), ("after", status_text)),
    Kind.ASSIGN: (("port", _hex), ("value", _plain), ("fd", _fd), ("errno", _plain)),
    Kind.DEASSIGN: (("port", _hex), ("value", _plain), ("fd", _fd), ("errno", _plain)),
    Kind.ATTACH: (("fd", _fd),),
    Kind.DETACH: (("fd", _fd),),
    Kind.DRAIN: (("kicks", _plain), ("synthetic", _plain), ("forwarded", _plain)),
    Kind.OWNER: (
        ("before", _word(Owner)),
        ("after", _word(Owner)),
        ("rule", _rule),
        ("cause", _upper(Cause)),
        ("fd", _fd),
    ),
    Kind.RUNSTATE: (("before", _word(State)), ("after", _word(State))),
    Kind.STEP: (("command", _upper(Command)), ("vcpu", _plain), ("arg0", _plain), ("arg1", _plain)),
    Kind.STEP_DONE: (
        ("command", _upper(Command)),
        ("vcpu", _plain),
        ("status", _upper(AgentStatus)),
        ("result0", _plain),
        ("arg0", _plain),
    ),
    Kind.PCI_WRITE: (("offset", _hex), ("width_bytes", _plain), ("value", _hex)),
    Kind.BROKEN: (("reason", _word(Broken)), ("detail", _hex), ("last_avail", _plain), ("in_flight", _plain)),
    Kind.CRASH: (("reason", _word(Crash)), ("rip", _hex), ("vcpu", _plain)),
    Kind.EXIT: (("exit_code", _plain),),
    Kind.DEVICE_RESET: (),
    Kind.ROLL_BACK: (("queues_undone", _plain), ("errno", _plain)),
    Kind.CLOSE_FD: (("fd", _fd),),
    Kind.FORWARD: (("value", _plain), ("width_bytes", _plain), ("fd", _fd)),
    Kind.SIGNAL: (("fd", _fd),),
    Kind.FAULT: (("call", _word(FaultCall)), ("errno", _plain)),
    Kind.BACKEND: (
        ("has_it", _plain),
        ("last_avail", _plain),
        ("in_flight", _plain),
        ("broken", _plain),
    ),
    Kind.FRAME: (("way", _word(Frame)), ("bytes", _plain)),
    Kind.CHAIN: (("head", _plain), ("read_bytes", _plain), ("written_bytes", _plain)),
    Kind.CONFIG_CHANGED: (("vector", _plain), ("way", _word(IrqWay))),
    Kind.INTX: (("level", _plain),),
    Kind.LOADED: (
        ("guest_features", _hex),
        ("isr", _plain),
        ("queue_sel", _plain),
        ("config_vector", _hex),
        ("broken", _plain),
    ),
    Kind.QUEUE_LOADED: (
        ("pfn", _hex),
        ("vector", _hex),
        ("last_avail", _plain),
        ("avail_idx", _ring_index),
        ("used_idx", _ring_index),
    ),
    Kind.PLUG: (("plugged", _plain), ("flags", flags_text), ("command", command_text)),
    Kind.COMMAND: (("before", command_text), ("after", command_text)),
    Kind.MSIX: (("before", _plain), ("after", _plain)),
    Kind.FLAGS: (("before", flags_text), ("after", flags_text)),
    Kind.GATE: (("gate", _word(Gate)), ("round", _plain), ("pages", _plain)),
    Kind.WANTS_LOCK: (),
    Kind.WOKEN: (("ready", _plain),),
    Kind.EMPTY: (("last_avail", _plain),),
}


class Event:
    """One record of the feed.

    `seq` counts from 1 without gaps in the order the events began; `time_ns` is CLOCK_MONOTONIC; `actor` is the
    thread that did it; `queue` is None where no queue is concerned; `values` holds the fields of FIELDS[kind].
    """

    __slots__ = ("actor", "kind", "queue", "seq", "time_ns", "values")

    def __init__(
        self, seq: int, time_ns: int, kind: Kind, actor: str, queue: int | None, values: dict[str, Value]
    ) -> None:
        self.seq, self.time_ns, self.kind = seq, time_ns, kind
        self.actor, self.queue, self.values = actor, queue, values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and all(getattr(self, f) == getattr(other, f) for f in Event.__slots__)

    def __hash__(self) -> int:
        return hash((self.seq, self.time_ns))

    @property
    def name(self) -> str:
        """The kind in lower case, as filters take it: `owner`, `queue_notify`."""
        return self.kind.name.lower()

    def __getitem__(self, key: str) -> Value:
        """A field by name: `event["rule"]`."""
        return self.values[key]

    def __repr__(self) -> str:
        where = f"queue {self.queue} " if self.queue is not None else ""
        if self.kind is Kind.OWNER:
            said = "{before} -> {after} because {cause} ({rule})".format(**self.values)
        else:
            said = " ".join(f"{name}={value}" for name, value in self.values.items())
        return f"{self.actor:<9} {where}{self.name} {said}".rstrip()


def actor_text(number: int) -> str:
    """`vcpu1`, `iothread`, `owner` ..."""
    if number >= Actor.VCPU0:
        return f"vcpu{number - Actor.VCPU0}"
    return Actor(number).name.lower()


def decode(seq: int, time_ns: int, kind: int, actor: int, queue: int, numbers: tuple[int, int, int, int, int]) -> Event:
    """An Event from the numbers of a record."""
    shape = FIELDS[Kind(kind)]
    values = {name: read(number) for (name, read), number in zip(shape, numbers, strict=False)}
    return Event(seq, time_ns, Kind(kind), actor_text(actor), queue if queue >= 0 else None, values)
