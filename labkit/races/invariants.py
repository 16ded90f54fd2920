"""What must hold, in whatever order the actors go? Each invariant says in a sentence what its breach means.

They look at what one schedule has left behind, and at its events; they know nothing of rules or mutations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from errno import errorcode
from typing import TYPE_CHECKING, NamedTuple

from labkit.abi import NUMBERS, Feature, PciCommand, Register, Status
from labkit.native import lib
from labkit.trace.events import FaultCall, Kind, Run, State

if TYPE_CHECKING:
    from labkit.board import Board
    from labkit.races.stacks import Stood

USED_NO_NOTIFY = NUMBERS["USED_NO_NOTIFY"]  # in used.flags
FORWARDS = 1 << 15  # of the way round, an index goes forward


class Seen(NamedTuple):
    """What a schedule leaves to look at: the machine, its events as numbers, how it ended."""

    board: Board
    records: Sequence[tuple[int, ...]]  # seq, time_ns, kind, actor, queue, a, b, c, d, e
    outcome: int
    stood: Mapping[str, Stood] = {}  # where each actor stood, if it did not come to its end
    stops: Sequence[int] = ()  # events in the feed when each stop of the machine was over
    changed: Sequence[int] = ()  # where guest memory was written while the machine was paused, an address a page


Check = Callable[[Seen], str]


class Invariant(NamedTuple):
    """`broken` says what it means for the guest that it does not hold; `check` what was found, empty if it holds."""

    name: str
    broken: str
    check: Check


def _of(seen: Seen, *kinds: Kind) -> list[tuple[int, ...]]:
    return [record for record in seen.records if record[2] in kinds]


def _served(seen: Seen) -> str:
    """For scenarios in which everything that was published was kicked, too."""
    device, board = seen.board.proxy.device, seen.board
    if not board.runstate.running or device.broken or device.disabled:
        return ""
    for queue in board.proxy.queues:
        if queue.avail_idx is not None and queue.avail_idx != queue.used_idx:
            return f"queue {queue.index}: avail.idx {queue.avail_idx}, used.idx {queue.used_idx}, and all are idle"
    return ""


def _of_queue(seen: Seen, queue: int, *kinds: Kind) -> list[tuple[int, ...]]:
    return [record for record in _of(seen, *kinds) if record[4] == queue]


def _kicks_are_wanted(seen: Seen) -> str:
    """Without EVENT_IDX, where it is used.flags that says so."""
    device = seen.board.proxy.device
    if device.guest_features & Feature.EVENT_IDX:
        return ""
    for queue in seen.board.proxy.queues:
        if queue.used_idx is not None and seen.board.memory.u16(device.vq[queue.index].used) & USED_NO_NOTIFY:
            return f"queue {queue.index}: used.flags asks for no kicks, and nobody is at work"
    return ""


def _used_within_avail(seen: Seen) -> str:
    for queue in seen.board.proxy.queues:
        avail, used = queue.avail_idx, queue.used_idx
        if avail is not None and used is not None and (avail - used) % (2 * FORWARDS) >= FORWARDS:
            return f"queue {queue.index}: used.idx {used} is past avail.idx {avail}"
    return ""


def _once(seen: Seen) -> str:
    """Each head that was taken is given back once."""
    for queue in seen.board.proxy.queues:
        heads = [record[9] for record in _of_queue(seen, queue.index, Kind.REQUEST)]
        avail, used = queue.avail_idx, queue.used_idx
        if avail is not None and used is not None and len(heads) > (avail - _first(seen, queue.index)) % (1 << 16):
            return f"queue {queue.index}: {len(heads)} requests were served, and fewer were there"
    return ""


def _first(seen: Seen, queue: int) -> int:
    """used.idx when the queue first ran."""
    runs = _of_queue(seen, queue, Kind.QUEUE_NOTIFY)
    return runs[0][8] if runs else 0


def _no_registration_is_left(seen: Seen) -> str:
    """Count of assigns and deassigns, told by the events."""
    here: set[tuple[int, int]] = set()
    for record in _of(seen, Kind.ASSIGN, Kind.DEASSIGN):
        place = (record[4], record[5])
        if record[8] == 0:
            here = here | {place} if record[2] == Kind.ASSIGN else here - {place}
    for queue in seen.board.proxy.queues:
        if queue.notifier.owner == "none" and any(place[0] == queue.index for place in here):
            return f"queue {queue.index}: KVM still signals an eventfd that nobody has"
    return ""


def _rest_is_rest(seen: Seen) -> str:
    """No run of a queue after its device was reset or its machine stopped, until it starts anew.

    But for that of the stop itself, which drains (R5), and waits for what a backend is at.
    """
    stopped, drains, over = "", False, 0
    for record in seen.records:
        if record[2] == Kind.QUEUE_NOTIFY:
            drains = record[5] == Run.DRAIN
        elif record[2] == Kind.RUNSTATE:
            stopped = "" if record[6] == State.RUNNING else "the machine was stopped"
            over = next((stop for stop in seen.stops if stop >= record[0]), 0)
        elif record[2] == Kind.STATUS:
            stopped = (
                "" if record[6] & Status.DRIVER_OK else stopped or ("the device was reset" if not record[6] else "")
            )
        elif record[2] == Kind.REQUEST and stopped and not drains and record[0] > over:
            return f"queue {record[4]}: a request was served after {stopped}"
    return ""


def _memory_stands_still(seen: Seen) -> str:
    """All of it, from the end of a stop to the next start. For whom nobody loads or resets meanwhile."""
    if not seen.changed or seen.outcome != lib.SCHEDULE_DONE:
        return ""
    more = f" and in {len(seen.changed) - 1} pages more" if seen.changed[1:] else ""
    return f"guest memory was written while the machine was paused: at {seen.changed[0]:#x}{more}"


def _fds_at_baseline(seen: Seen) -> str:
    """Eventfds only, told by the events: the process has fds of other machines, too."""
    left: set[int] = set()
    for record in _of(seen, Kind.ASSIGN, Kind.CLOSE_FD):
        if record[2] == Kind.CLOSE_FD:
            left.discard(record[5])
        elif record[8] == 0:
            left.add(record[7])
    left -= {queue.notifier.fd for queue in seen.board.proxy.queues if queue.notifier.owner != "none"}
    return f"open, and nobody's: {', '.join(f'fd {fd}' for fd in sorted(left))}" if left else ""


def _no_call_is_refused(seen: Seen) -> str:
    """But for those that were made to fail."""
    planned: set[int] = set()  # actors whose next call fails
    for record in _of(seen, Kind.ASSIGN, Kind.DEASSIGN, Kind.FAULT):
        if record[2] == Kind.FAULT:
            planned |= {record[3]} if record[5] != FaultCall.EVENTFD else set()
        elif record[8] and record[3] not in planned:
            return f"queue {record[4]}: {Kind(record[2]).name.lower()} of fd {record[7]}: {errorcode[record[8]]}"
        else:
            planned.discard(record[3])
    return ""


def _goes_on(seen: Seen) -> str:
    crash = seen.board.crash
    return "" if crash is None else f"{type(crash).__name__}: {crash}"


def _refused(seen: Seen) -> bool:
    """Has the host been made to refuse something since DRIVER_OK was clear?"""
    refused = False
    for record in _of(seen, Kind.STATUS, Kind.FAULT):
        refused = record[2] == Kind.FAULT or (refused and bool(record[6] & Status.DRIVER_OK))
    return refused


def _effective(seen: Seen) -> str:
    """What the property says is what whoever made the machine said, whatever became of it."""
    board, proxy = seen.board, seen.board.proxy
    wanted = board.plan.ioeventfd and board.runstate.running and proxy.status & Status.DRIVER_OK
    if not wanted or proxy.backend.has or _refused(seen):
        return ""
    without = [queue.index for queue in proxy.queues if queue.notifier.port is None]
    if without and proxy.notifiers.started:
        return f"the notifiers are said to be started, and kicks of queues {without} trap"
    return f"DRIVER_OK is set, and kicks of queues {without} trap" if without else ""


def _status_is_the_drivers(seen: Seen) -> str:
    """For scenarios in which nobody resets the machine. Who turns bus-master off has asked for it."""
    up = 0
    for record in _of(seen, Kind.REGISTER, Kind.COMMAND):
        if record[2] == Kind.COMMAND:
            up = 0 if record[5] & ~record[6] & PciCommand.MASTER else up
        elif record[8] and record[5] == Register.STATUS:
            up = record[7] & Status.DRIVER_OK
    return "" if not up or seen.board.proxy.status & up else "the driver has set DRIVER_OK, and finds it clear"


def _no_deadlock(seen: Seen) -> str:
    return _where(seen) if seen.outcome == lib.SCHEDULE_DEADLOCK else ""


def _where(seen: Seen) -> str:
    return ", ".join(f"{actor} {at.where}" for actor, at in seen.stood.items())


def _guest_lives(seen: Seen) -> str:
    crash = seen.board.crash
    return str(crash).splitlines()[0] if crash is not None else ""


def _no_busy_loop(seen: Seen) -> str:
    return "they go on for ever" if seen.outcome == lib.SCHEDULE_LIMIT else ""


def _ends(seen: Seen) -> str:
    return f"an actor came to no gate any more: {_where(seen)}" if seen.outcome == lib.SCHEDULE_STUCK else ""


EVERY_KICK_IS_SERVED = Invariant(
    "every-kick-is-served", "The guest waits for ever for a request that the device was told of.", _served
)
ONE_CONSUMER = Invariant(
    "one-consumer", "A request is done twice: the second time into a buffer that is the driver's again.", _once
)
KICKS_ARE_WANTED = Invariant(
    "kicks-are-wanted", "The driver does not kick for its next request, and waits for it for ever.", _kicks_are_wanted
)
USED_WITHIN_AVAIL = Invariant(
    "used-within-avail",
    "The driver finds a completion for a request it never made, and gives up the device.",
    _used_within_avail,
)
NO_REGISTRATION_IS_LEFT = Invariant(
    "no-registration-is-left", "Kicks are swallowed by an eventfd that nobody reads.", _no_registration_is_left
)
REST_IS_REST = Invariant(
    "rest-is-rest", "Memory that the driver has back, or that is being saved, is written all the same.", _rest_is_rest
)
MEMORY_STANDS_STILL = Invariant(
    "memory-stands-still-while-paused",
    "What is saved or sent meanwhile is torn: the guest goes on there with a request half in its memory.",
    _memory_stands_still,
)
FDS_AT_BASELINE = Invariant("fds-at-baseline", "Each start costs an fd, until there are none.", _fds_at_baseline)
NO_CALL_IS_REFUSED = Invariant(
    "no-call-is-refused", "A program that trusts in the call ends there, and the guest with it.", _no_call_is_refused
)
GOES_ON = Invariant("goes-on", "The whole machine is gone, with everything that ran on it.", _goes_on)
EFFECTIVE = Invariant("effective", "Every kick traps, and nothing but the speed says so.", _effective)
STATUS_IS_THE_DRIVERS = Invariant(
    "status-is-the-drivers", "The device has stopped, and its driver does not know.", _status_is_the_drivers
)
NO_DEADLOCK = Invariant("no-deadlock", "The machine stands still, and so does whoever asks it something.", _no_deadlock)
NO_BUSY_LOOP = Invariant(
    "no-busy-loop", "A thread burns a CPU with nothing to do, and the guest's vCPUs wait for it.", _no_busy_loop
)
ENDS = Invariant("ends", "Somebody never comes back, and whoever asks the machine something waits for ever.", _ends)
GUEST_LIVES = Invariant("guest-lives", "There is no guest any more.", _guest_lives)
ALWAYS = (NO_DEADLOCK, NO_BUSY_LOOP, ENDS, GUEST_LIVES, USED_WITHIN_AVAIL, MEMORY_STANDS_STILL)  # in every scenario
