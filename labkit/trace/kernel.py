"""What did KVM itself do meanwhile? Its tracepoints, of this machine's threads, on the clock of the events.

    with vm.trace.kernel() as kernel:
        vm.guest.read(0)
    vm.trace.frame(kernel=kernel)

A tracing instance of the kernel's own is made for it, and removed: who else traces is neither disturbed nor seen. A
kick by ioeventfd, of which labkit hears when somebody takes it, is a kvm_pio here, at the moment of the guest's outw.
The kernel writes times in microseconds: an event of labkit's within the same one may stand on either side.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from labkit import views
from labkit.errors import HostError, UsageError
from labkit.trace.tracepoints import KernelEvent, parse

if TYPE_CHECKING:
    import pandas

POINTS = (  # those that tell of kicks, exits and interrupts; a kernel may lack some
    *("kvm_entry", "kvm_exit", "kvm_userspace_exit", "kvm_pio", "kvm_mmio", "kvm_fast_mmio", "kvm_hypercall"),
    *("kvm_msi_set_irq", "kvm_set_irq", "kvm_apic_accept_irq", "kvm_inj_virq", "kvm_eoi", "kvm_ack_irq"),
)
MOUNTS = Path("/proc/self/mounts")
BUFFER_KIB = 4096  # for each CPU of the host, some ninety thousand events; then the oldest are lost
CLOCK = "mono"  # CLOCK_MONOTONIC, as the feed's
MOUNT_IT = "mount -t tracefs tracefs /sys/kernel/tracing, as root"
_numbers = itertools.count()

T = TypeVar("T")
Threads = Callable[[], Mapping[int, str]]


# -- a trace of the kernel's -------------------------------------------------------------------------------------------


class KernelTrace(Sequence[KernelEvent]):
    """What KVM did for one machine between `start` and `stop`; a sequence, oldest first. `with` does both."""

    def __init__(self, threads: Threads, points: Sequence[str] = POINTS) -> None:
        """`threads` says which the machine has, by the kernel's number."""
        self._threads, self._points = threads, points
        self._undo = ExitStack()
        self._actors: dict[int, str] = {}  # the threads at the start; one may have ended since
        self._instance: Path | None = None
        self._events: list[KernelEvent] = []
        self.lost = 0  # those that did not fit into the kernel's buffer, the oldest

    def start(self) -> None:
        """Begin anew. HostError: no tracefs, no right to use it, no KVM there. UsageError: it has begun already."""
        if self._instance is not None:
            raise UsageError("the kernel is traced already: stop() first")
        root, self._actors = tracefs(), dict(self._threads())
        if not self._actors:
            raise UsageError("the machine is closed: no thread of it runs")
        with ExitStack() as undo:
            instance = root / "instances" / f"labkit-{os.getpid()}-{next(_numbers)}"
            _attempt(f"mkdir {instance}", instance.mkdir)
            undo.callback(_attempt, f"rmdir {instance}", instance.rmdir)
            _write(instance / "tracing_on", "0")
            _write(instance / "trace_clock", CLOCK)
            _write(instance / "buffer_size_kb", str(BUFFER_KIB))
            _write(instance / "options" / "event-fork", "1")  # a backend's thread may start later
            _write(instance / "set_event_pid", " ".join(map(str, self._actors)))
            for point in _known(instance, self._points):
                _write(instance / "events" / "kvm" / point / "enable", "1")
            _write(instance / "tracing_on", "1")
            self._instance, self._undo = instance, undo.pop_all()

    def stop(self) -> None:
        """End, read what there is, and take the instance away. Nothing happens if it has not begun. HostError."""
        instance, self._instance = self._instance, None
        if instance is None:
            return
        with self._undo:
            _write(instance / "tracing_on", "0")
            self._events = list(parse(_read(instance / "trace"), self._actors | dict(self._threads())))
            self.lost = sum(_overrun(_read(stats)) for stats in instance.glob("per_cpu/cpu*/stats"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def frame(self) -> pandas.DataFrame:
        """As a DataFrame: time_s from the first row, actor, event, then the fields, as in `vm.trace.frame()`."""
        from labkit.trace.frame import frame

        return frame([], "kvm", self)

    def __getitem__(self, index: int) -> KernelEvent:  # type: ignore[override]
        return self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    def _repr_html_(self) -> str:
        rows = [(point.actor, point.host_cpu, point.name, point.text) for point in self._events[-20:]]
        return views.table("last tracepoints of KVM", ("thread", "host CPU", "tracepoint", "said"), rows)

    def __repr__(self) -> str:
        lost = f", {self.lost} lost" if self.lost else ""
        return f"<trace of the kernel: {len(self)} events{lost}{', running' if self._instance else ''}>"


# -- the kernel's files ------------------------------------------------------------------------------------------------


def tracefs() -> Path:
    """Where it is mounted. HostError: nowhere."""
    for line in MOUNTS.read_text().splitlines():
        _, place, kind, *_ = line.split(" ")
        if kind == "tracefs":
            return Path(place.replace("\\040", " "))
    raise HostError("tracefs", errno.ENOENT, f"the kernel's trace is not mounted here: {MOUNT_IT}")


def _known(instance: Path, points: Sequence[str]) -> list[str]:
    """Those that this kernel has. UsageError: one that was asked for by name is not there. HostError: no KVM."""
    there = instance / "events" / "kvm"
    if not there.is_dir():
        raise HostError(f"open {there}", errno.ENOENT, "this kernel has no tracepoints of KVM: modprobe kvm")
    names = {place.name for place in there.iterdir() if place.is_dir()}
    missing = [point for point in points if point not in names]
    if missing and points is not POINTS:
        raise UsageError(f"tracepoint {missing[0]!r}: this kernel has {', '.join(sorted(names))}")
    return [point for point in points if point in names]


def _overrun(stats: str) -> int:
    """Records that were overwritten in one CPU's buffer, and those that found no room."""
    said = dict(line.split(": ", 1) for line in stats.splitlines() if ": " in line)
    return sum(int(said.get(name, 0)) for name in ("overrun", "dropped events"))


def _write(file: Path, text: str) -> None:
    _attempt(f"write {file}", lambda: file.write_text(text))


def _read(file: Path) -> str:
    return _attempt(f"read {file}", file.read_text)


def _attempt(call: str, work: Callable[[], T]) -> T:
    try:
        return work()
    except OSError as error:
        hint = "only root may trace the kernel" if error.errno in (errno.EACCES, errno.EPERM) else ""
        raise HostError(call, error.errno or errno.EIO, hint) from error
