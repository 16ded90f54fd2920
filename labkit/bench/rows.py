"""Which rows does the bench have? Each with its unit, its floor in words, and the promise made about it."""

from __future__ import annotations

from labkit.bench import costs, kicks, life, requests, spin
from labkit.bench.row import REQUESTS_PER_S, Spec, Target

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
