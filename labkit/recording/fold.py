"""What does an event say of the state? One line of `EFFECTS` a kind: the state after it is the state before, and that.

A field that no event has told is None, and stays so when something is added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from labkit.abi import NO_VECTOR, NUMBERS, AgentStatus, Command, Feature, Register
from labkit.trace.events import BIRTH_COUNT, NO_FDS, NO_INDEX, Actor, Broken, Frame, Kind, Owner, State
from labkit.trace.fields import DEVICE, INDICES, NONE, U16, U32, U64, Key, field, keys
from labkit.trace.recorded import Facts, Record, Recorded, Values

ISR_QUEUE, ISR_CONFIG = NUMBERS["ISR_QUEUE"], NUMBERS["ISR_CONFIG"]
BAD_FEATURE = int(Feature.BAD_FEATURE)
HALF = 1 << 15  # of the way round an index goes


class Ledger:
    """Values under change. `tell` sets one, `add` adds to one; both may be watched (initial)."""

    def __init__(self, facts: Facts, values: Values) -> None:
        self.facts, self.values = facts, values
        self.queues = range(len(facts.queue_sizes))

    def tell(self, name: str, queue: int, value: int | None, before: int | None = None) -> None:
        """The field is `value` now; `before`, if the event says it, is what it was. Nonsense is not known."""
        self.values[name, queue] = _possible(name, queue, value)

    def add(self, name: str, queue: int, count: int) -> None:
        """That much more, if it is known how much it was."""
        value = self.values[name, queue]
        if value is not None:
            self.values[name, queue] = value + count & _mask(name)

    def of(self, name: str, queue: int = DEVICE) -> int | None:
        """What the field is now."""
        return self.values[name, queue]

    def pass_over(self, record: Record) -> None:
        """One event further."""
        effect = EFFECTS.get(record[2])
        if effect is not None and record[4] in (DEVICE, *self.queues):
            effect(self, record)


def _possible(name: str, queue: int, value: int | None) -> int | None:
    """A recording may come from anywhere."""
    kind = field((name, queue))
    return value if value is not None and kind.least <= value <= kind.most else None


def _mask(name: str) -> int:
    return U16 if name in INDICES else U64


Effect = Callable[[Ledger, Record], None]


# -- the fields an event names itself ----------------------------------------------------------------------------------


def _change(name: str) -> Effect:
    """a before, b after."""

    def effect(ledger: Ledger, record: Record) -> None:
        ledger.tell(name, DEVICE, record[6], before=record[5])

    return effect


def _runstate(ledger: Ledger, record: Record) -> None:
    before, after = record[5:7]
    ledger.tell("run_state", DEVICE, after, before=before)
    if before in (State.CRASHED, State.EXITED) and after in (State.RUNNING, State.PAUSED):  # a reset
        for name in ("exit_code", "crash_vcpu", "crash_rip"):
            ledger.tell(name, DEVICE, NONE)


def _crash(ledger: Ledger, record: Record) -> None:
    ledger.tell("crash_vcpu", DEVICE, record[7], before=NONE)
    ledger.tell("crash_rip", DEVICE, record[6], before=NONE)


def _exit(ledger: Ledger, record: Record) -> None:
    ledger.tell("exit_code", DEVICE, record[5], before=NONE)


def _plug(ledger: Ledger, record: Record) -> None:
    plugged, flags, command = record[5:8]
    ledger.tell("plugged", DEVICE, plugged, before=1 - plugged)
    ledger.tell("flags", DEVICE, flags)
    ledger.tell("command", DEVICE, command)
    if plugged:
        for name, value in (("status", 0), ("queue_sel", 0), ("config_vector", NO_VECTOR), ("msix", 0)):
            ledger.tell(name, DEVICE, value)


def _loaded(ledger: Ledger, record: Record) -> None:
    for name, value in zip(
        ("guest_features", "isr", "queue_sel", "config_vector", "broken"), record[5:10], strict=True
    ):
        ledger.tell(name, DEVICE, value)


def _queue_loaded(ledger: Ledger, record: Record) -> None:
    queue, pfn, vector, last, avail, used = record[4:10]
    told = {"pfn": pfn, "vector": vector, "last_avail": last, "avail_idx": avail, "used_idx": used, "in_flight": 0}
    for name, value in told.items():
        ledger.tell(name, queue, value)


# -- registers ---------------------------------------------------------------------------------------------------------


def _register(ledger: Ledger, record: Record) -> None:
    register, _, value, write = record[5:9]
    effect = WRITES.get(register) if write else None
    if effect is not None:
        effect(ledger, value)
    elif register == Register.ISR and not write:
        ledger.tell("isr", DEVICE, 0, before=value & 0xFF)


def _write_features(ledger: Ledger, value: int) -> None:
    ledger.tell("guest_features", DEVICE, 0 if value & BAD_FEATURE else value & ledger.facts.host_features)


def _write_sel(ledger: Ledger, value: int) -> None:
    if value < ledger.facts.queue_indices:
        ledger.tell("queue_sel", DEVICE, value)


def _write_pfn(ledger: Ledger, value: int) -> None:
    """A ring somewhere else. Its indices are what memory holds, and the next run of the queue tells them."""
    if value:  # and 0 is a reset, which tells of itself
        for queue in _selected(ledger):
            known = ledger.of("queue_sel") is not None
            ledger.tell("pfn", queue, value & U32 if known else None)
            ledger.tell("last_avail", queue, 0 if known else None)
            ledger.tell("avail_idx", queue, None)
            ledger.tell("used_idx", queue, None)


def _selected(ledger: Ledger) -> Iterable[int]:
    """The queue that QUEUE_SEL names; each of them, if that is not known."""
    selected = ledger.of("queue_sel")
    return ledger.queues if selected is None else [queue for queue in (selected,) if queue in ledger.queues]


def _vector(ledger: Ledger, value: int) -> int:
    return value if value < ledger.facts.vectors else NO_VECTOR


def _write_queue_vector(ledger: Ledger, value: int) -> None:
    known = ledger.of("queue_sel") is not None
    for queue in _selected(ledger):
        ledger.tell("vector", queue, _vector(ledger, value) if known else None)


WRITES: dict[int, Callable[[Ledger, int], None]] = {
    Register.GUEST_FEATURES: _write_features,
    Register.QUEUE_SEL: _write_sel,
    Register.QUEUE_PFN: _write_pfn,
    Register.MSI_QUEUE_VECTOR: _write_queue_vector,
    Register.MSI_CONFIG_VECTOR: lambda ledger, value: ledger.tell("config_vector", DEVICE, _vector(ledger, value)),
}


def _device_reset(ledger: Ledger, record: Record) -> None:  # noqa: ARG001
    for name, value in (("guest_features", 0), ("queue_sel", 0), ("isr", 0), ("broken", 0)):
        ledger.tell(name, DEVICE, value)
    ledger.tell("config_vector", DEVICE, NO_VECTOR)
    for queue in ledger.queues:
        for name in ("pfn", "last_avail", "in_flight"):
            ledger.tell(name, queue, 0)
        ledger.tell("vector", queue, NO_VECTOR)
        ledger.tell("avail_idx", queue, NO_INDEX)
        ledger.tell("used_idx", queue, NO_INDEX)


def _interrupt(bits: int) -> Effect:
    def effect(ledger: Ledger, record: Record) -> None:  # noqa: ARG001
        isr = ledger.of("isr")
        if isr is not None:
            ledger.tell("isr", DEVICE, isr | bits)

    return effect


# -- rings -------------------------------------------------------------------------------------------------------------


def _of_queue(effect: Effect) -> Effect:
    """Only where the event names a queue."""
    return lambda ledger, record: effect(ledger, record) if record[4] != DEVICE else None


def _queue_notify(ledger: Ledger, record: Record) -> None:
    actor, queue, _, avail, last, used = record[3:9]
    ledger.tell("avail_idx", queue, min(avail, NO_INDEX))
    ledger.tell("used_idx", queue, min(used, NO_INDEX), before=min(used, NO_INDEX))
    if actor != Actor.BACKEND:  # that has an index of its own
        ledger.tell("last_avail", queue, last & U16, before=last & U16)


def _chain_done(ledger: Ledger, record: Record) -> None:
    """One entry of the avail ring was taken, one of the used ring given back."""
    actor, queue = record[3:5]
    own = actor != Actor.BACKEND
    if own:
        ledger.add("last_avail", queue, 1)
    if ledger.of("used_idx", queue) != NO_INDEX:
        ledger.add("used_idx", queue, 1)
    _at_least(ledger, queue, ledger.of("last_avail" if own else "used_idx", queue))


def _at_least(ledger: Ledger, queue: int, taken: int | None) -> None:
    """What was taken was there: avail.idx has come as far."""
    avail = ledger.of("avail_idx", queue)
    if taken is not None and avail is not None and avail != NO_INDEX and 0 < (taken - avail & U16) < HALF:
        ledger.tell("avail_idx", queue, taken)


def _frame(ledger: Ledger, record: Record) -> None:
    if record[5] in (Frame.SENT, Frame.RECEIVED, Frame.DROPPED_TO_HOST):
        _chain_done(ledger, record)


def _broken(ledger: Ledger, record: Record) -> None:
    actor, broken_queue, reason, _, last, in_flight = record[3:9]
    if actor == Actor.BACKEND:  # the device hears of it when the queue is given back
        return
    ledger.tell("broken", DEVICE, 1)
    for queue in ledger.queues if reason == Broken.DEVICE_CODE else ():  # its own code may have had chains of any queue
        ledger.tell("last_avail", queue, None)
        ledger.tell("in_flight", queue, None)
    ledger.tell("last_avail", broken_queue, last & U16)
    ledger.tell("in_flight", broken_queue, in_flight & U32)


def _backend(ledger: Ledger, record: Record) -> None:
    queue, _, last, in_flight, broken = record[4:9]
    ledger.tell("last_avail", queue, last & U16)
    ledger.tell("in_flight", queue, in_flight & U32)
    ledger.tell("broken", DEVICE, broken & 1)


def _step_done(ledger: Ledger, record: Record) -> None:
    """The lab's driver has published: it says where avail.idx stands."""
    command, _, status, result, queue = record[5:10]
    if command == Command.PUBLISH and status == AgentStatus.OK and queue in ledger.queues:
        ledger.tell("avail_idx", queue, result & U16)


# -- notifiers ---------------------------------------------------------------------------------------------------------


def _eventfd(ledger: Ledger, queue: int, fd: int) -> None:
    """A new eventfd is born with a count; one that was there goes on with its own."""
    fd = fd if fd < NO_FDS else NONE
    known = ledger.of("fd", queue)
    if fd != known:
        ledger.tell("fd", queue, fd)
        ledger.tell("pending", queue, 0 if fd == NONE else BIRTH_COUNT if known is not None else None)


def _gone(ledger: Ledger, queue: int) -> None:
    ledger.tell("fd", queue, NONE)
    ledger.tell("port", queue, NONE)
    ledger.tell("pending", queue, 0)


def _assign(ledger: Ledger, record: Record) -> None:
    queue, port, _, fd, failed = record[4:9]
    if not failed:
        _eventfd(ledger, queue, fd)
        ledger.tell("port", queue, port & U16)


def _deassign(ledger: Ledger, record: Record) -> None:
    queue, _, _, _, failed = record[4:9]
    if not failed:
        ledger.tell("port", queue, NONE)
    elif ledger.of("owner", queue) == Owner.NONE:  # rolled back, and R15: the eventfd is forgotten
        _gone(ledger, queue)


def _signal(ledger: Ledger, record: Record) -> None:
    _eventfd(ledger, record[4], record[5])
    ledger.add("pending", record[4], 1)


def _owner(ledger: Ledger, record: Record) -> None:
    queue, before, after, _, _, fd = record[4:10]
    ledger.tell("owner", queue, after, before=before)
    if fd >= NO_FDS:
        _gone(ledger, queue)
    else:
        _eventfd(ledger, queue, fd)


def _taken(ledger: Ledger, record: Record) -> None:
    """Test-and-clear of a notifier."""
    kind, queue, (kicks, synthetic) = record[2], record[4], record[5:7]
    ledger.tell("pending", queue, 0)
    ledger.add("signalled", queue, kicks)
    ledger.add("synthetic", queue, synthetic)
    if kind == Kind.DRAIN:
        ledger.add("drained", queue, kicks)


EFFECTS: dict[int, Effect] = {
    Kind.RUNSTATE: _runstate,
    Kind.CRASH: _crash,
    Kind.EXIT: _exit,
    Kind.PLUG: _plug,
    Kind.STATUS: _change("status"),
    Kind.COMMAND: _change("command"),
    Kind.MSIX: _change("msix"),
    Kind.FLAGS: _change("flags"),
    Kind.LOADED: _loaded,
    Kind.QUEUE_LOADED: _of_queue(_queue_loaded),
    Kind.REGISTER: _register,
    Kind.DEVICE_RESET: _device_reset,
    Kind.INTERRUPT: _interrupt(ISR_QUEUE),
    Kind.CONFIG_CHANGED: _interrupt(ISR_QUEUE | ISR_CONFIG),
    Kind.QUEUE_NOTIFY: _of_queue(_queue_notify),
    Kind.REQUEST: _of_queue(_chain_done),
    Kind.CHAIN: _of_queue(_chain_done),
    Kind.FRAME: _of_queue(_frame),
    Kind.BROKEN: _of_queue(_broken),
    Kind.BACKEND: _of_queue(_backend),
    Kind.STEP_DONE: _step_done,
    Kind.KICK_TRAP: _of_queue(lambda ledger, record: ledger.add("trapped", record[4], 1)),
    Kind.KICK_EVENTFD: _of_queue(_taken),
    Kind.DRAIN: _of_queue(_taken),
    Kind.ASSIGN: _of_queue(_assign),
    Kind.DEASSIGN: _of_queue(_deassign),
    Kind.ATTACH: _of_queue(lambda ledger, record: _eventfd(ledger, record[4], record[5])),
    Kind.SIGNAL: _of_queue(_signal),
    Kind.FORWARD: _of_queue(lambda ledger, record: ledger.add("pending", record[4], 1)),
    Kind.CLOSE_FD: _of_queue(lambda ledger, record: _gone(ledger, record[4])),
    Kind.OWNER: _of_queue(_owner),
}


# -- where it begins ---------------------------------------------------------------------------------------------------


class _Watch(Ledger):
    """A first pass, from nothing: what do the events say of the time before them?"""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts, dict.fromkeys(keys(len(facts.queue_sizes))))
        self.before: Values = {}  # of the fields that were told
        self.added: dict[Key, int] = {}  # to the others, and to these until then

    def tell(self, name: str, queue: int, value: int | None, before: int | None = None) -> None:
        key = name, queue
        if key not in self.before:
            added = self.added.get(key)
            known = before if before is None or added is None else before - added & _mask(name)
            self.before[key] = _possible(name, queue, known)
        super().tell(name, queue, value)

    def add(self, name: str, queue: int, count: int) -> None:
        key = name, queue
        if key not in self.before:
            self.added[key] = self.added.get(key, 0) + count
        super().add(name, queue, count)


def initial(recorded: Recorded) -> Values:
    """The state before the first event.

    With nothing lost that is power-on. Else a field is what its first event says of the time before it, or what it was
    at the save, less what events added, if none sets it; or not known.
    """
    every = keys(len(recorded.facts.queue_sizes))
    if not recorded.lost:
        return {key: _power_on(key) for key in every}
    watch = _Watch(recorded.facts)
    for record in recorded.records:
        watch.pass_over(record)
    return {key: watch.before[key] if key in watch.before else _less(recorded, watch, key) for key in every}


def _power_on(key: Key) -> int:
    return field(key).power_on


def _less(recorded: Recorded, watch: _Watch, key: Key) -> int | None:
    final = recorded.final[key]
    added = watch.added.get(key)
    return final if final is None or added is None else final - added & _mask(key[0])
