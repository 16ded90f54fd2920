"""When is a virtqueue kick an eventfd, and when is it a trap?

A kick is a guest's write of a queue's index to QUEUE_NOTIFY. It traps to user space, unless a *host notifier* is
started for the queue: an eventfd that KVM signals instead (an ioeventfd), served by the iothread. The rules say when
the host notifiers start and stop. They are those of the patch "virtio-pci: Use ioeventfd for virtqueue notify",
v6 2/4, 17 Dec 2010.

R1   The property `ioeventfd` belongs to a device and is set when it is created: blk on, net off, every other device
     has none. Some drivers spin until a kick is served; for them a trap is the right answer.
R2   STATUS written with DRIVER_OK: START, then the status is stored. Without DRIVER_OK: STOP, then stored; and a
     status of 0 then resets the virtio device and releases its vectors.
R3   START does nothing if the property is off or it is started. Otherwise, for each queue that exists (whether or not
     it has a ring): create an eventfd with count 1, assign it in KVM (BAR0 + 16, 2 bytes, value = index), and let the
     iothread watch it. The count of 1 is a synthetic kick: it picks up what was in the ring before.
R4   An assign that fails: the queues done so far are undone in reverse, and the property is cleared, so that the
     device keeps to the trap path for life. The guest notices nothing.
R5   STOP, for each queue: the iothread lets go, KVM deassigns, test-and-clear; if a kick was pending the queue runs
     now, in the thread that stops; then the eventfd is closed. Without the test that kick would be lost.
R6   QUEUE_PFN = 0, for whatever queue is selected: STOP, virtio reset, vectors released.
R7   Reset of the device: STOP, virtio reset, MSI-X reset, BUS_MASTER_BUG forgotten. The property survives.
R8   PCI COMMAND written with bus-master clear: STOP, DRIVER_OK dropped from the status, then the config write. With
     BUS_MASTER_BUG: the config write and nothing else. Setting bus-master again restarts nothing.
R9   A backend takes a notifier: if started, STOP and clear the property. Then that one queue is assigned or
     deassigned, and the iothread does not watch it.
R10  The machine runs again and DRIVER_OK is set: START. Otherwise, and when it is paused: STOP. This is also how the
     notifiers come back on the other side of a migration.
R11  The device goes: STOP.
R12  A queue without a ring is not run, and neither is an index of 64 or more (native/kick.c).
R13  STATUS written with DRIVER_OK while bus-master is clear: BUS_MASTER_BUG. Old guests forgot to set it.
R14  Every run of a queue is an event (native/kick.c).
R15  A deassign that fails: no test-and-clear, no close. The error is kept and shown; the eventfd is closed when the
     device goes.
R16  BAR0 moves, or its decoding goes off or on: nothing. What is assigned stays at the old port.
R17  A kick before DRIVER_OK runs the queue, as any trapped kick does.
R18  A saved state is loaded while the notifiers are stopped (R10): virtio reset, BUS_MASTER_BUG forgotten, config space
     and rings loaded, then the status stored. The flag is in no saved state and nobody notes it anew: by R8 the next
     COMMAND without bus-master takes DRIVER_OK from a driver that was left alone before.

START and STOP are idempotent. STOP comes before the ring is torn down, so that a late kick sees a valid ring.

What became of them, each a few rows that differ from the one before:

merged  (25db9ebe15, January 2011) R2: the status is stored before START. R4: off until a backend gives the notifiers
        back. R9: a backend that takes one turns the notifiers off (and STOPs), one that gives it back allows them
        again. R10: the device's status is stored once more after STOP and before START, for devices that listen.
        R18: before the status is stored it is looked for DRIVER_OK without bus-master, to note BUS_MASTER_BUG anew. The
        status is 0 there, so that it never is.
0.14    (b36e391441, d0dcac833a) R4: rolled back, and tried again at the next START.
today   (QEMU 7.2) R2: a status of exactly ACKNOWLEDGE|DRIVER turns bus-master on. R3: all are assigned, then each is
        signalled, then the iothread watches. R5: the iothread lets go of all, KVM deassigns all, then each is drained
        and closed. R8: the config write comes first, and without bus-master the device leaves its rings alone. R9: a
        backend grabs the notifiers (STOP at the first) and releases them (START at the last, if still wanted). R12:
        indices up to 1023 are let through, to queues that have no ring. R13: gone. R16: the registration follows the
        BAR. R17: the kick starts the notifiers, for a device that starts on a kick. R18: nothing to forget. A trapped
        kick of a queue that has a notifier is written to its eventfd. An access of BAR0 that is not aligned comes as
        smaller ones that are.

The tables below say which steps follow which cause; the engine below them only carries them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple, Protocol

from labkit.abi import QUEUE_MAX, Feature, Register, Status
from labkit.errors import HostError, UsageError
from labkit.native import lib
from labkit.state import FLAG, Shape, State, checked
from labkit.trace.events import Cause, Flag, Kind, Owner
from labkit.trace.feed import Feed
from labkit.virtio.faults import Faults
from labkit.virtio.hostnotifier import NO_FD, HostNotifier, QueueNotifiers
from labkit.virtio.mutations import Mutations, mutated_rules
from labkit.virtio.table import Part, Revision, Row, Step, When

QUEUE_INDICES_TODAY = 1024
_PROPERTY, _BUG = int(Flag.USE_IOEVENTFD), int(Flag.BUS_MASTER_BUG)
_DRIVER_OK = int(Status.DRIVER_OK)  # `&` of flags is a call; of ints it is not
FORGOT_BUS_MASTER = Status.ACKNOWLEDGE | Status.DRIVER  # a driver that writes exactly this is helped


# -- the tables -------------------------------------------------------------------------------------------------------

V6 = Revision(
    "virtio-pci: Use ioeventfd for virtqueue notify, v6 2/4, 17 Dec 2010",
    {
        Cause.DRIVER_OK: Row(2, (Step.START, Step.STORE_STATUS, Step.NOTE_BUS_MASTER_BUG)),
        Cause.DRIVER_NOT_OK: Row(2, (Step.STOP, Step.STORE_STATUS)),
        Cause.STATUS_ZERO: Row(2, (Step.STOP, Step.STORE_STATUS, Step.RESET_VIRTIO, Step.RELEASE_VECTORS)),
        Cause.ASSIGN_FAILED: Row(4, (Step.CLEAR_PROPERTY,)),
        Cause.PFN_ZERO: Row(6, (Step.STOP, Step.RESET_VIRTIO, Step.RELEASE_VECTORS)),
        Cause.DEVICE_RESET: Row(7, (Step.STOP, Step.RESET_VIRTIO, Step.RESET_MSIX, Step.FORGET_BUS_MASTER_BUG)),
        Cause.BUS_MASTER_OFF: Row(
            8, (Step.STOP, Step.DROP_DRIVER_OK, Step.WRITE_CONFIG), When.NO_BUS_MASTER_BUG, (Step.WRITE_CONFIG,)
        ),
        Cause.BUS_MASTER_ON: Row(8, (Step.WRITE_CONFIG,)),
        Cause.GRAB: Row(9),
        Cause.BACKEND_TAKES: Row(9, (Step.STOP, Step.CLEAR_PROPERTY), When.STARTED),
        Cause.BACKEND_GIVES: Row(9, (Step.STOP, Step.CLEAR_PROPERTY), When.STARTED),
        Cause.RELEASE: Row(9),
        Cause.RESUME: Row(10, (Step.START,), When.LIVE, (Step.STOP,)),
        Cause.PAUSE: Row(10, (Step.STOP,)),
        Cause.EXIT: Row(11, (Step.STOP,)),
        Cause.BAR0_MOVED: Row(16),
        Cause.LOAD: Row(18, (Step.RESET_VIRTIO, Step.FORGET_BUS_MASTER_BUG, Step.LOAD, Step.STORE_STATUS)),
    },
)

MERGED = V6._replace(
    source="commit 25db9ebe15",
    rows=V6.rows
    | {
        Cause.DRIVER_OK: Row(2, (Step.STORE_STATUS, Step.START, Step.NOTE_BUS_MASTER_BUG)),
        Cause.ASSIGN_FAILED: Row(4, (Step.TURN_OFF,)),
        Cause.BACKEND_TAKES: Row(9, (Step.TURN_OFF, Step.STOP)),
        Cause.BACKEND_GIVES: Row(9, (Step.TURN_ON,)),
        Cause.RESUME: Row(10, (Step.STORE_STATUS_AGAIN, Step.START), When.LIVE, (Step.STOP, Step.STORE_STATUS_AGAIN)),
        Cause.PAUSE: Row(10, (Step.STOP, Step.STORE_STATUS_AGAIN)),
        Cause.LOAD: Row(
            18,
            (
                Step.RESET_VIRTIO,
                Step.FORGET_BUS_MASTER_BUG,
                Step.LOAD,
                Step.LOOK_FOR_BUS_MASTER_BUG,  # in vain: the status is still 0
                Step.STORE_STATUS,
            ),
        ),
    },
)

V0_14 = MERGED._replace(
    source="commits b36e391441, d0dcac833a",
    rows=MERGED.rows | {Cause.ASSIGN_FAILED: Row(4)},
)

TODAY = V0_14._replace(
    source="QEMU 7.2, as traced",
    rows=V0_14.rows
    | {
        Cause.DRIVER_OK: Row(2, (Step.STORE_STATUS, Step.START)),
        Cause.DRIVER_NOT_OK: Row(2, (Step.STOP, Step.STORE_STATUS, Step.HELP_BUS_MASTER)),
        Cause.BUS_MASTER_OFF: Row(8, (Step.WRITE_CONFIG, Step.STOP, Step.DROP_DRIVER_OK)),
        Cause.GRAB: Row(9, (Step.LEND,)),
        Cause.BACKEND_TAKES: Row(9),
        Cause.BACKEND_GIVES: Row(9),
        Cause.RELEASE: Row(9, (Step.TAKE_BACK,)),
        Cause.BAR0_MOVED: Row(16, (Step.MOVE,)),
        Cause.KICK: Row(17, (Step.START,)),
        Cause.LOAD: Row(18, (Step.RESET_VIRTIO, Step.LOAD, Step.STORE_STATUS)),
    },
    start=((Part.ASSIGN,), (Part.SIGNAL,), (Part.ATTACH,)),
    stop=((Part.DETACH,), (Part.DEASSIGN,), (Part.DRAIN, Part.CLOSE)),
    forwards_traps=True,
    heeds_bus_master=True,
    suppresses=True,
    queue_indices=QUEUE_INDICES_TODAY,
    splits_unaligned=True,
    offers=Feature.EVENT_IDX,
)

REVISIONS: dict[str, Revision] = {"v6": V6, "merged": MERGED, "0.14": V0_14, "today": TODAY}


# -- what the rules act on --------------------------------------------------------------------------------------------


class Transport(Protocol):
    """What the rules need of the proxy, beside the notifiers themselves."""

    status: int
    notify_base: int  # BAR0 as last mapped; the port of a kick is this + QUEUE_NOTIFY

    @property
    def decoded(self) -> bool:
        """Does anybody answer at BAR0?"""

    @property
    def bus_master(self) -> bool:
        """Bus-master in PCI COMMAND."""

    def set_bus_master(self) -> None:
        """Set it, for a driver that forgot."""

    def reset_virtio(self) -> None:
        """Forget rings, features and ISR."""

    def release_vectors(self) -> None:
        """Take the MSI-X vectors from the queues."""

    def reset_msix(self) -> None:
        """MSI-X off, all vectors masked."""

    def follow(self, live: bool) -> None:
        """The device may work, or not: machine running and driver up. Told again if nothing has changed."""


class Situation(NamedTuple):
    """A cause with what its steps need: the status to be stored, the config write or the load to be done."""

    cause: Cause
    status: int = 0
    write_config: Callable[[], None] = lambda: None
    load: Callable[[], None] = lambda: None


class HostNotifiers:
    """The host notifiers of one device, under the rules of one revision. Every call is made under the big lock."""

    def __init__(
        self,
        transport: Transport,
        device: Any,
        host: Faults,
        loop: Any,
        feed: Feed,
        *,
        revision: str,
        ioeventfd: bool,
        starts_on_kick: bool = False,
        mutations: Mutations = (),
    ) -> None:
        if revision not in REVISIONS:
            raise UsageError(f"revision={revision!r}: this version knows {', '.join(REVISIONS)}")
        self.rules, self.revision = mutated_rules(REVISIONS[revision], mutations), revision
        self.ioeventfd = ioeventfd  # the property, USE_IOEVENTFD
        self.started = False  # they are assigned, and the iothread serves them
        self.turned_off = False  # R4, R9 of merged
        self.grabs, self.wanted = 0, False  # R9 of today: backends that hold them; start when the last has gone
        self.bus_master_bug = False
        self.running = False  # as far as the rules were told (R10)
        self.kicked = False  # a kick started the device before DRIVER_OK (R17)
        self._gave_up = False  # a kick tried to start them, in vain
        self.owners = [Owner.NONE] * QUEUE_MAX
        self._starts_on_kick = starts_on_kick and Cause.KICK in self.rules.rows
        self._follows_bar = Step.MOVE in self.rules.rows[Cause.BAR0_MOVED].steps
        self._transport, self._device, self._feed = transport, device, feed
        self._all = QueueNotifiers(
            device, loop, host, feed, self._notify_port, stays=not self._follows_bar, mutations=mutations
        )
        self.each, self.errors = self._all.each, self._all.errors
        device.forwards_traps, device.queue_indices = self.rules.forwards_traps, self.rules.queue_indices
        device.suppress = self.rules.suppresses
        self._look_for_kicks()

    # -- the engine: cause -> row -> steps -----------------------------------------------------------------------------

    def happens(self, situation: Situation) -> None:
        """Carry out what the table says for this cause."""
        assert lib.lk_lock_is_mine(self._device.machine), "the rules act under the big lock"
        cause, before = situation.cause, self._flags
        if cause in (Cause.PAUSE, Cause.RESUME):
            self.running = cause is Cause.RESUME
        self._gave_up = self._gave_up and cause is Cause.KICK
        row = self.rules.rows[cause]
        for step in row.steps if self._holds(row.when) else row.otherwise:
            self._do(step, row.rule, situation)
        self._look_for_kicks()
        self._transport.follow(self.running and self.live)
        self._tell_flags(before)

    def _tell_flags(self, before: int) -> None:
        if self._flags != before:
            self._feed.emit(Kind.FLAGS, -1, before, self._flags)

    def _holds(self, when: When | None) -> bool:
        match when:
            case When.STARTED:
                return self.started
            case When.LIVE:
                return self.live
            case When.NO_BUS_MASTER_BUG:
                return not self.bus_master_bug
            case None:
                return True

    def _do(self, step: Step, rule: int, situation: Situation) -> None:
        transport = self._transport
        match step:
            case Step.START:
                self._start(rule, situation.cause)
            case Step.STOP:
                self._stop(rule, situation.cause)
            case Step.CLEAR_PROPERTY:
                self.ioeventfd = False
            case Step.TURN_OFF | Step.TURN_ON:
                self.turned_off = step is Step.TURN_OFF
            case Step.LEND:
                self._lend(rule, situation.cause)
            case Step.TAKE_BACK:
                self._take_back(rule, situation.cause)
            case Step.MOVE:
                self._move(rule, situation.cause)
            case Step.STORE_STATUS:
                self._store_status(situation.status)
            case Step.STORE_STATUS_AGAIN:
                self._store_status(transport.status)
            case Step.DROP_DRIVER_OK:
                self._store_status(transport.status & ~_DRIVER_OK)
            case Step.NOTE_BUS_MASTER_BUG:
                self.bus_master_bug = self.bus_master_bug or not transport.bus_master
            case Step.LOOK_FOR_BUS_MASTER_BUG if transport.status & _DRIVER_OK:
                self.bus_master_bug = self.bus_master_bug or not transport.bus_master
            case Step.FORGET_BUS_MASTER_BUG:
                self.bus_master_bug = False
            case Step.HELP_BUS_MASTER if situation.status == FORGOT_BUS_MASTER:
                transport.set_bus_master()
            case Step.RESET_VIRTIO:
                self._store_status(0)
                transport.reset_virtio()
                self.kicked = False
            case Step.RELEASE_VECTORS:
                transport.release_vectors()
            case Step.RESET_MSIX:
                transport.reset_msix()
            case Step.WRITE_CONFIG:
                situation.write_config()
            case Step.LOAD:
                situation.load()

    def _store_status(self, status: int) -> None:
        before, self._transport.status = self._transport.status, status
        self._feed.emit(Kind.STATUS, -1, before, status)
        if (before ^ status) & _DRIVER_OK:
            self.kicked = False
        self._transport.follow(self.running and self.live)

    def kick(self, value: int, width: int, port: int) -> None:
        """A trapped kick that the core has left to the rules: the device may start on it (R17)."""
        if lib.lk_queue_trap_locked(self._device, value, width, port) != lib.TRAP_STARTS:
            return
        self.kicked = True
        self.happens(Situation(Cause.KICK))
        if not self.started:
            lib.lk_queue_look(self._device, value)

    def _look_for_kicks(self) -> None:
        """Does the core leave a trapped kick to the rules? Only while it would start something."""
        may = self._may_start() and self.running and not self._gave_up
        self._device.starts_on_kick = self._starts_on_kick and may

    # -- START and STOP ------------------------------------------------------------------------------------------------

    def _may_start(self) -> bool:
        return self.ioeventfd and not self.turned_off and not self.started and not self.grabs

    def _start(self, rule: int, cause: Cause) -> None:
        self.wanted = bool(self.grabs) and self.ioeventfd
        if not self._may_start():
            return
        try:
            self._all.go(self.rules.start, self.each.values())
        except HostError as error:
            self._roll_back(error, cause)
            return
        for queue in self.each:
            self._owned_by(queue, Owner.VMM, rule, cause)
        self.started = True

    def _stop(self, rule: int, cause: Cause) -> None:
        self.wanted = False
        if not self.started:
            return
        self._take_down(self.each.values(), rule, cause)
        self.started = False

    def _roll_back(self, error: HostError, cause: Cause) -> None:
        """R4."""
        done = self._done()
        self._all.keep(error)
        self._gave_up = cause is Cause.KICK
        self._feed.emit(Kind.ROLL_BACK, -1, len(done), error.errno)
        row = self.rules.rows[Cause.ASSIGN_FAILED]
        self._take_down(reversed(done), row.rule, cause)
        for step in row.steps:
            self._do(step, row.rule, Situation(Cause.ASSIGN_FAILED))

    def _done(self) -> list[HostNotifier]:
        return [notifier for notifier in self.each.values() if notifier.fd != NO_FD]

    def _take_down(self, notifiers: Iterable[HostNotifier], rule: int, cause: Cause) -> None:
        notifiers = list(notifiers)
        self._all.go(self.rules.stop, notifiers)
        for notifier in notifiers:
            self._owned_by(notifier.queue, Owner.NONE, rule, cause)

    def _move(self, rule: int, cause: Cause) -> None:
        """R16. KVM refuses: the notifiers stop, and the guest goes on by traps."""
        try:
            self._all.move()
        except HostError as error:
            self._all.keep(error)
            self._stop(rule, cause)

    def _notify_port(self) -> int | None:
        """Where kicks are written now; None: nowhere, and the rules follow the BAR (R16)."""
        if self._follows_bar and not self._transport.decoded:
            return None
        return self._transport.notify_base + Register.QUEUE_NOTIFY

    # -- saved and loaded ----------------------------------------------------------------------------------------------

    SHAPE: ClassVar[Shape] = dict.fromkeys(("ioeventfd", "turned_off", "kicked"), FLAG)

    def save(self) -> State:
        """What a start would depend on. Not whether they are started: that follows from the run state (R10).

        And not BUS_MASTER_BUG (R18).
        """
        return {name: int(getattr(self, name)) for name in self.SHAPE}

    def check(self, state: object) -> State:
        """UsageError: it is none, or none of this device under these rules."""
        found = checked("notifiers", self.SHAPE, state)
        if found["kicked"] and not self._starts_on_kick:
            raise UsageError("saved state: a kick started the device (R17), and here none can")
        return found

    def as_here(self, state: State) -> State:
        """The state of a device that was made on another host, with the property and the switch of this one (R1).

        They belong to the device as it was made, and do not travel. UsageError: it is no such state.
        """
        return self.check(state) | {name: int(getattr(self, name)) for name in ("ioeventfd", "turned_off")}

    def load(self, state: State) -> None:
        """The same, checked, after R18 and while they are stopped: no rule acts."""
        assert not self.started, "they are stopped first (R10)"
        before = self._flags
        for name in self.SHAPE:
            setattr(self, name, bool(state[name]))
        self._tell_flags(before)
        self._look_for_kicks()

    # -- backends: R9 --------------------------------------------------------------------------------------------------

    def grab(self) -> None:
        """A backend comes: before it takes the notifiers of queues."""
        self.happens(Situation(Cause.GRAB))

    def release(self) -> None:
        """It has given them all back."""
        self.happens(Situation(Cause.RELEASE))

    def set_host_notifier(self, queue: int, assign: bool) -> None:
        """A backend takes one queue's notifier, or gives it back. HostError if KVM refuses to give it."""
        cause = Cause.BACKEND_TAKES if assign else Cause.BACKEND_GIVES
        self.happens(Situation(cause))
        rule, notifier = self.rules.rows[cause].rule, self.each[queue]
        if assign:
            self._all.go(((Part.ASSIGN,),), [notifier])
            self._owned_by(queue, Owner.BACKEND, rule, cause)
        elif notifier.fd != NO_FD:
            self._all.go(((Part.DEASSIGN, Part.DRAIN, Part.CLOSE),), [notifier])
            self._owned_by(queue, Owner.NONE, rule, cause)

    def _lend(self, rule: int, cause: Cause) -> None:
        was_started = self.started
        if not self.grabs:
            self._stop(rule, cause)
            self.wanted = was_started
        self.grabs += 1

    def _take_back(self, rule: int, cause: Cause) -> None:
        self.grabs -= 1
        if not self.grabs and self.wanted:
            self._start(rule, cause)

    def close(self) -> None:
        """R11, and the eventfds that R15 left behind."""
        self.running = False
        self.happens(Situation(Cause.EXIT))
        for queue in self.each:
            if self.owners[queue] is Owner.BACKEND:
                self.set_host_notifier(queue, False)
        self._all.close()

    # -- small answers -------------------------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Is the driver up: DRIVER_OK, or a kick that started the device (R17)?"""
        return bool(self._transport.status & _DRIVER_OK) or self.kicked

    @property
    def flags(self) -> Flag:
        """USE_IOEVENTFD (the property) and BUS_MASTER_BUG, as far as set."""
        return Flag(self._flags)

    @property
    def _flags(self) -> int:
        return _PROPERTY * self.ioeventfd | _BUG * self.bus_master_bug

    def port(self, queue: int) -> int | None:
        """The port the queue's notifier is assigned at; None while it has none."""
        return self.each[queue].port

    def _owned_by(self, queue: int, owner: Owner, rule: int, cause: Cause) -> None:
        before, self.owners[queue] = self.owners[queue], owner
        if before is not owner:
            self._feed.emit(Kind.OWNER, queue, before, owner, rule, cause, self._device.vq[queue].notifier_fd)
