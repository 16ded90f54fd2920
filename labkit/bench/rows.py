"""Which rows does the bench have? Each with its unit, its floor in words, and the promise made about it.

The promises are about KVM. The emulated CPU has floors of its own, and not all the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from labkit import abi
from labkit.bench import costs, kicks, life, moves, requests, schedules, screen, spin, states, threads
from labkit.bench.row import OF_A_CORE, PAGES_PER_S, PERCENT, REQUESTS_PER_S, Effort, Samples, Spec, Target

_RING_FLOOR = "the same guest's storm, its ring walked unchecked by a bare loop that knows one kind of request"


def _requests(depth: int, *, ioeventfd: bool) -> Spec:
    way = "on" if ioeventfd else "off"
    served = "a bare thread behind an eventfd" if ioeventfd else "the loop that enters the guest"
    return Spec(
        f"requests_{way}_{depth}",
        REQUESTS_PER_S,
        f"one-sector reads from a RAM disk, {depth} in flight, ioeventfd {way}",
        f"{_RING_FLOOR}: {served}",
        requests.at(depth, ioeventfd=ioeventfd),
    )


_SHARED = (
    f"{threads.VCPUS} vCPUs on one queue, {threads.DEPTH} in flight, the kick under a lock; "
    f"{threads.DELAY_NS // 1000} us in the disk and {threads.THINK_NS // 1000} us of the guest's own work for each"
)


def _threads(way: str, measure: Callable[[Effort], Samples]) -> Spec:
    what, floor = f"reads by {_SHARED}; ioeventfd {way}", "the disk's delays alone, slept one after the other"
    return Spec(f"threads_{way}", REQUESTS_PER_S, what, floor, measure, why_not=threads.why_not)


def _blocked(way: str, measure: Callable[[Effort], Samples]) -> Spec:
    what = f"of the vCPUs' time, how much is spent inside kicks and waiting for the lock: {_SHARED}; ioeventfd {way}"
    floor = "the same by one vCPU with ioeventfd on: its kicks return at once and it waits for nobody"
    return Spec(f"blocked_{way}", PERCENT, what, floor, measure, why_not=threads.why_not)


def _moves(name: str, load: moves.Load, does: str, most_ms: tuple[float, float] | None = None) -> tuple[Spec, Spec]:
    total, down = (Target("value", most) for most in most_ms) if most_ms else (None, None)
    guest = f"a guest of {moves.MEMORY_MIB} MiB that {does} moves to another process, by a Unix socket"
    return (
        Spec(
            f"migrate_total_{name}",
            "ms",
            f"{guest}: from vm.migrate() until it runs there",
            "a bare boot in the other process, as many bytes to it, and two questions with their answers",
            moves.total(load),
            total,
        ),
        Spec(
            f"migrate_downtime_{name}",
            "ms",
            f"{guest}: from its pause here until it runs there",
            "two questions to the other process and their answers, the first as long as a machine's state",
            moves.downtime(load),
            down,
        ),
    )


SPECS = (
    Spec(
        "trap_kick",
        "ns",
        "a kick that traps, on a device that does nothing",
        "the same guest's kicks, each exit ignored by a bare loop around KVM_RUN",
        kicks.trap,
        Target("ratio", 1.10),
    ),
    Spec(
        "ioeventfd_kick",
        "ns",
        "a kick through an ioeventfd, on a device that does nothing",
        "the same guest's kicks into a bare eventfd, which a bare thread drains",
        kicks.ioeventfd,
        Target("ratio", 1.05),
    ),
    *(_requests(depth, ioeventfd=True) for depth in requests.DEPTHS),
    *(_requests(depth, ioeventfd=False) for depth in requests.DEPTHS),
    _threads("on", threads.throughput_on),
    _threads("off", threads.throughput_off),
    _blocked("on", threads.blocked_on),
    _blocked("off", threads.blocked_off),
    Spec(
        "spin",
        "ns",
        "a character to the console from a driver that kicks and spins, through an ioeventfd: against rule R1",
        "the same driver, its kicks trapping: the answer is there when the kick returns",
        spin.per_character,
    ),
    Spec(
        "boot",
        "ms",
        "labkit.boot() to DRIVER_OK, in a process that has booted before",
        "VM, split irqchip, memory and one vCPU up to its first exit, in bare C",
        life.boot,
        Target("value", 3.0),
    ),
    Spec(
        "reset",
        "us",
        "vm.reset() until the guest is parked again, before its driver is up",
        "registers set back and the guest run until it parks, in bare C",
        life.reset,
        Target("value", 200.0),
    ),
    Spec(
        "reset_in_use",
        "us",
        "the same at DRIVER_OK, when there is a notifier to stop",
        "one KVM_IOEVENTFD deassign, for which the kernel waits a grace period, and the bare reset",
        life.reset_in_use,
    ),
    Spec(
        "pause_resume",
        "us",
        "vm.pause() and vm.resume() of a guest that is parked, at DRIVER_OK: a notifier stops and starts",
        "one KVM_IOEVENTFD deassign and one assign; a parked guest is out already",
        states.pause_resume,
    ),
    Spec(
        "snapshot",
        "us",
        f"vm.snapshot() of a running machine of {abi.MEMORY_MIN_MIB} MiB",
        "all of its memory read into a buffer that is there",
        states.snapshot,
    ),
    Spec(
        "restore",
        "us",
        "vm.restore() of a paused machine whose guest has read a sector since",
        "as many pages copied as that writes, and the ioctls that give the vCPU its state",
        states.restore,
        Target("value", 200.0),
    ),
    Spec(
        "restore_running",
        "us",
        "the same of a running machine: its notifier stops and starts",
        "the same, one KVM_IOEVENTFD deassign and one assign",
        states.restore_running,
    ),
    *_moves("idle", moves.IDLE, "halts at DRIVER_OK", (5.0, 1.0)),
    *_moves("storm", moves.STORM, "writes its disk all the time"),
    Spec(
        "pages",
        PAGES_PER_S,
        f"pages of a machine of {moves.FILLED_MIB} MiB, all of them written, on their way to another process",
        "as many copied from one buffer to another, larger than the cache",
        moves.pages,
    ),
    Spec(
        "schedule",
        "us",
        "one schedule of a search, from rewinding the machine to the invariants: a kick, and DRIVER_OK cleared",
        "the same steps of the guest without gates, and DRIVER_OK set again",
        schedules.one,
    ),
    Spec(
        "screen",
        REQUESTS_PER_S,
        "one-sector reads, 8 in flight, of a guest in a notebook's kernel that a dashboard shows",
        "the same with nobody looking",
        screen.throughput,
        Target("ratio", 1.03),
        screen.why_not,
    ),
    Spec(
        "screen_cpu",
        OF_A_CORE,
        "what the thread that looks for the dashboard uses meanwhile",
        "a thread that wakes as often and does nothing",
        screen.of_a_core,
        Target("value", 5.0),
        screen.why_not,
    ),
    Spec(
        "event",
        "ns",
        "one event into the feed",
        "a clock read and a 64-byte store",
        costs.event,
        Target("value", 80.0),
    ),
    Spec(
        "import",
        "ms",
        "`import labkit` in a fresh interpreter, by its own clock",
        "a fresh interpreter that does nothing, from start to exit",
        costs.importing,
        Target("value", 100.0),
    ),
)
BY_NAME = {spec.name: spec for spec in SPECS}

_RING_FLOOR_EMULATED = "the same guest's storm on a bare CPU of the Unicorn library, its ring walked unchecked"
_WOKEN_TWICE = "two questions to a thread that sleeps, and their answers"
_EMULATED_FLOORS = {
    "trap_kick": "the same guest's kicks on a bare CPU of the Unicorn library, ignored where it calls back",
    "ioeventfd_kick": "the same, each a write to a bare eventfd, which a bare thread drains",
    **{
        f"requests_on_{depth}": f"{_RING_FLOOR_EMULATED} by a bare thread behind an eventfd"
        for depth in requests.DEPTHS
    },
    **{f"requests_off_{depth}": f"{_RING_FLOOR_EMULATED} where it calls back" for depth in requests.DEPTHS},
    "boot": "a bare CPU of the Unicorn library, memory, and one instruction that leaves the guest",
    "reset": "registers set back, code forgotten, the guest run until it parks, on a bare CPU of the Unicorn library",
    "reset_in_use": "the same: no notifier is known there",
    "pause_resume": f"{_WOKEN_TWICE}: the least that can stop a thread and start it",
    "restore": "as many pages copied as that writes, and the registers of a CPU of the Unicorn library set",
    "restore_running": f"the same, and {_WOKEN_TWICE}",
}
_NEEDS_NO_GUEST = ("event", "import")
_ABOUT_THREADS = ("threads_on", "threads_off", "blocked_on", "blocked_off")
LEFT_OUT_EMULATED = dict.fromkeys(
    _ABOUT_THREADS,
    "threads, blocked: left out. One thread executes all vCPUs of the emulated CPU in turns: while one is inside its "
    "kick no other runs, and so none waits for it.",
)


def _emulated(spec: Spec) -> Spec:
    if spec.name in _NEEDS_NO_GUEST:
        return spec
    return replace(spec, floor_is=_EMULATED_FLOORS.get(spec.name, spec.floor_is), target=None)


def rows_on(back_end: str) -> tuple[dict[str, Spec], dict[str, str]]:
    """The rows of a back end by name, and why others are left out."""
    if back_end != "emulated":
        return BY_NAME, {}
    kept = {name: _emulated(spec) for name, spec in BY_NAME.items() if name not in LEFT_OUT_EMULATED}
    return kept, LEFT_OUT_EMULATED
