"""What may a driver count on, beside its kicks? What it writes it reads, and what is signalled is served by somebody.

They look at what a schedule has left behind, and know nothing of mutations. A contract holds in every scenario, unless
it says in which.
"""

from __future__ import annotations

from labkit.abi import NO_VECTOR, NUMBERS, PciCommand, Register, Status
from labkit.pc.pci import COMMAND
from labkit.races.invariants import Invariant, Seen
from labkit.trace.events import Broken, Flag, Kind, Owner
from labkit.virtio.hostnotifier import NO_FD

ACTOR, QUEUE, A, B, C, D = 3, 4, 5, 6, 7, 8  # of a record


def _signalled_while_up(seen: Seen) -> str:
    proxy, board = seen.board.proxy, seen.board
    rules = proxy.notifiers
    up = board.plugged and board.runstate.running and rules.live
    wanted = up and rules.ioeventfd and not rules.turned_off and not proxy.backend.has
    if wanted == rules.started:
        return ""
    state = "up, and it is on" if wanted else "not up, or has none" if not up else "up, and it is off or lent"
    return f"the driver is {state}; the notifiers are {'started' if rules.started else 'stopped'}"


def _reads_what_it_wrote(seen: Seen) -> str:
    written: dict[int, int] = {}
    for record in seen.records:
        actor = record[ACTOR]
        if record[2] in (Kind.DEVICE_RESET, Kind.PCI_WRITE, Kind.RUNSTATE, Kind.LOADED):
            written.clear()
        elif record[2] == Kind.REGISTER and record[A] == Register.STATUS:
            value = record[C] & 0xFF
            if record[D]:
                written[actor] = value
            elif written.get(actor, value) != value:
                return f"STATUS {written[actor]:#x} was written, {value:#x} read back"
    return ""


def _command_is_what_was_written(seen: Seen) -> str:
    writes = [r for r in seen.records if r[2] == Kind.PCI_WRITE and r[A] == COMMAND]
    if not writes or not seen.board.plugged:
        return ""
    wanted, is_so = writes[-1][C] & PciCommand.MASTER, seen.board.proxy.command & PciCommand.MASTER
    return "" if wanted == is_so else f"bus-master was written {bool(wanted):d}, and is {bool(is_so):d}"


def _status_stays(seen: Seen) -> str:
    writes = [r for r in seen.records if r[2] == Kind.REGISTER and r[A] == Register.STATUS and r[D]]
    if not writes or writes[-1][C] == seen.board.proxy.status:
        return ""
    return f"STATUS {writes[-1][C]:#x} was written last, and it is {seen.board.proxy.status:#x}"


def _rings_go_with_the_status(seen: Seen) -> str:
    proxy = seen.board.proxy
    if not seen.board.plugged:
        return ""
    rings = [queue.index for queue in proxy.queues if queue.pfn]
    if proxy.status & Status.DRIVER_OK and not rings:
        return "the driver is up, and no queue has a ring"
    if proxy.status:
        return ""
    left = {
        "rings": bool(rings),
        "features": bool(proxy.device.guest_features),
        "ISR": bool(proxy.isr),
        "vectors": any(queue.vector != NO_VECTOR for queue in proxy.queues),
    }
    return ", ".join(f"{name} are left" for name, is_left in left.items() if is_left)


def _as_at_power_on(seen: Seen) -> str:
    proxy = seen.board.proxy
    left = {
        f"status {proxy.status}": bool(proxy.status),
        "MSI-X": proxy.msix_enabled,
        "a vector's address": any(proxy.msix.save()["table"][0:4]),
        "BUS_MASTER_BUG": bool(proxy.flags & Flag.BUS_MASTER_BUG),
    }
    return ", ".join(name for name, is_left in left.items() if is_left) or _rings_go_with_the_status(seen)


def _nothing_of_before(seen: Seen) -> str:
    loaded = any(r[2] == Kind.LOADED for r in seen.records)
    return "BUS_MASTER_BUG is still noted" if loaded and seen.board.proxy.flags & Flag.BUS_MASTER_BUG else ""


def _eventfds_have_owners(seen: Seen) -> str:
    rules = seen.board.proxy.notifiers
    for queue, notifier in rules.each.items():
        if (notifier.fd == NO_FD) != (rules.owners[queue] is Owner.NONE):
            return f"queue {queue}: owner {rules.owners[queue].name.lower()}, eventfd {notifier.fd}"
    return ""


def _closed_when_let_go(seen: Seen) -> str:
    """As far as the schedule itself has assigned and attached them."""
    in_use: dict[int, set[str]] = {}
    said = {Kind.ASSIGN: "assigned", Kind.DEASSIGN: "assigned", Kind.ATTACH: "watched", Kind.DETACH: "watched"}
    for record in seen.records:
        kind, uses = Kind(record[2]), in_use.setdefault(record[QUEUE], set())
        if kind in (Kind.ASSIGN, Kind.ATTACH) and not (kind is Kind.ASSIGN and record[D]):
            uses.add(said[kind])
        elif kind in (Kind.DEASSIGN, Kind.DETACH) and not (kind is Kind.DEASSIGN and record[D]):
            uses.discard(said[kind])
        elif kind is Kind.CLOSE_FD and uses:
            return f"queue {record[QUEUE]}: an eventfd was closed while it was {' and '.join(sorted(uses))}"
    return ""


def _host_refuses_nothing(seen: Seen) -> str:
    proxy = seen.board.proxy
    wanted = {record[B] for record in seen.records if record[2] == Kind.FAULT}
    errors = [error for error in (*proxy.notifiers.errors, *proxy.backend.errors) if error.errno not in wanted]
    return "; ".join(map(str, errors))


def _every_request(seen: Seen) -> str:
    proxy = seen.board.proxy
    for queue in proxy.queues:
        if queue.avail_idx is not None and queue.avail_idx != queue.used_idx:
            return f"queue {queue.index}: avail.idx {queue.avail_idx}, used.idx {queue.used_idx}, and all are idle"
    return ""


def _where_kicks_are(seen: Seen) -> str:
    proxy = seen.board.proxy
    for queue, notifier in proxy.notifiers.each.items():
        if notifier.port is not None and notifier.port != proxy.device.notify_port:
            return f"queue {queue}: assigned at {notifier.port:#x}, kicks are at {proxy.device.notify_port:#x}"
    return ""


def _wakes(seen: Seen) -> str:
    """For scenarios in which vcpu0's last step is a look at used.idx, after it has asked to be woken."""
    board = seen.board
    saw = int.from_bytes(board.memory.read(NUMBERS["GPA_MAILBOX"] + NUMBERS["MB_RESULTS"], 8), "little")
    used = board.proxy.queues[0].used_idx
    woken = any(record[2] == Kind.INTERRUPT for record in seen.records)
    return "" if woken or saw == used else f"the driver saw used.idx {saw} and sleeps, it is {used}: no interrupt came"


def _stays_whole(seen: Seen) -> str:
    told = [record for record in seen.records if record[2] == Kind.BROKEN]
    return f"queue {told[0][QUEUE]}: {Broken(told[0][A]).name.lower().replace('_', ' ')}" if told else ""


SIGNALLED_WHILE_UP = Invariant(
    "signalled-while-up",
    "Kicks are signalled to a thread that walks a ring which is the driver's again; or they trap, and what the eventfd "
    "is there for is gone, while it says it is on.",
    _signalled_while_up,
)
READS_WHAT_IT_WROTE = Invariant(
    "reads-what-it-wrote", "The driver finds a status it did not write, and gives up the device.", _reads_what_it_wrote
)
COMMAND_IS_WRITTEN = Invariant(
    "command-is-written", "The guest turns bus-master on or off, and it is not.", _command_is_what_was_written
)
STATUS_STAYS = Invariant(  # where nobody has a reason to take it
    "status-stays", "A driver that was left alone before finds DRIVER_OK taken from it.", _status_stays
)
RINGS_GO_WITH_STATUS = Invariant(
    "rings-go-with-status",
    "A device that was reset still walks rings that are the guest's again; or one that is up has none.",
    _rings_go_with_the_status,
)
AS_AT_POWER_ON = Invariant(  # where a reset comes last
    "as-at-power-on", "The next driver meets what the last one has left in the device.", _as_at_power_on
)
NOTHING_OF_BEFORE = Invariant(
    "nothing-of-before", "A machine that was loaded acts on what another one did before it.", _nothing_of_before
)
EVENTFDS_HAVE_OWNERS = Invariant(
    "eventfds-have-owners",
    "Each start costs an fd, until there are none; or nobody is signalled.",
    _eventfds_have_owners,
)
CLOSED_WHEN_LET_GO = Invariant(
    "closed-when-let-go",
    "KVM goes on signalling what nobody reads, or the iothread watches a number that is the next file's.",
    _closed_when_let_go,
)
HOST_REFUSES_NOTHING = Invariant(
    "host-refuses-nothing",
    "What one step leaves is in the way of the next: the guest is left to traps.",
    _host_refuses_nothing,
)
EVERY_REQUEST = Invariant(  # where the driver has done all that it must
    "every-request-is-served", "The guest waits for ever for a request, and has done nothing wrong.", _every_request
)
WHERE_KICKS_ARE = Invariant(  # where registrations follow the BAR (R16)
    "where-kicks-are",
    "Kicks trap for ever, and writes to what is at the old port now are taken for kicks.",
    _where_kicks_are,
)
STAYS_WHOLE = Invariant(  # where the driver makes no mistake
    "stays-whole", "The device gives up until it is reset, and the driver has done nothing wrong.", _stays_whole
)
WAKES = Invariant("wakes", "The driver sleeps, its request is done, and nobody wakes it.", _wakes)
CONTRACTS = (
    *(SIGNALLED_WHILE_UP, READS_WHAT_IT_WROTE, RINGS_GO_WITH_STATUS, NOTHING_OF_BEFORE),
    *(EVENTFDS_HAVE_OWNERS, CLOSED_WHEN_LET_GO, HOST_REFUSES_NOTHING),
)
