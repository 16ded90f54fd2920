"""How long does QEMU need to migrate the same guest? Two QEMUs, one disk, and the times at which their guests ran.

Both clocks of a figure are the host's wall clock: QEMU stamps its events with it, in microseconds.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import labkit
from labkit.errors import HostError

PROGRAM = "qemu-system-x86_64"
TIMEOUT_S = 60.0
MS_PER_S, US_PER_S = 1e3, 1e6
UNTHROTTLED = 1 << 40  # bytes a second: more than any socket takes
DOWNTIME_LIMIT_MS = 300  # QEMU's own default: it stops the guest once the rest can be sent in that time
IS_UP = "driver_ok_ticks"  # what the lab's guests print as soon as their driver is up
STEP_BYTES = 4096
FAILED = "failed"


class Figures(NamedTuple):
    """One migration, ms. total: from the command until the destination's guest runs; downtime: no guest runs."""

    total_ms: float
    downtime_ms: float


def migrate_under_qemu(
    path: str,
    accelerator: str,
    *,
    disk: Path,
    line: str = "",
    writable: bool = False,
    memory_mib: int = 64,
    guest: str = "journal",
    downtime_limit_ms: int = DOWNTIME_LIMIT_MS,
) -> Figures:
    """Migrate a guest of the lab from one QEMU to another on this host, live, by a Unix socket; both are gone then.

    path: of QEMU's program. accelerator: "kvm" or "tcg". disk: a raw image for both, read-only unless `writable`.
    guest and line: which of the lab's guests, and its command line: journal's "idle", or one that writes and writes.
    HostError: QEMU, or the guest in it, did not do it within a minute; with what it said.
    """
    command = _command(path, accelerator, disk, writable, memory_mib, guest, line)
    with migrated(command, downtime_limit_ms) as (figures, _):
        return figures


@contextlib.contextmanager
def migrated(command: list[str], downtime_limit_ms: int = DOWNTIME_LIMIT_MS) -> Iterator[tuple[Figures, Side]]:
    """A guest that was migrated, and the side where it runs now, which is killed at the end. HostError: as above."""
    with contextlib.ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="labkit-qemu-")))
        channel = f"unix:{folder / 'channel'}"
        source = undo.enter_context(Side(command, folder / "source"))
        destination = undo.enter_context(Side([*command, "-incoming", channel], folder / "destination"))
        source.wait_until_up()
        yield _migrate(source, destination, channel, downtime_limit_ms), destination


def _migrate(source: Side, destination: Side, channel: str, downtime_limit_ms: int) -> Figures:
    """The destination listens since its monitor has answered: QEMU opens the channel before."""
    told = {"capability": "events", "state": True}
    for side in (source, destination):
        side.command("migrate-set-capabilities", capabilities=[told])
    limits = {"max-bandwidth": UNTHROTTLED, "downtime-limit": downtime_limit_ms}
    source.command("migrate-set-parameters", **limits)
    asked_s = time.time()
    source.command("migrate", uri=channel)
    stopped_s, resumed_s = source.event("STOP"), destination.event("RESUME")
    return Figures((resumed_s - asked_s) * MS_PER_S, (resumed_s - stopped_s) * MS_PER_S)


class Side:
    """One QEMU: its process, its monitor, and what its guest prints. A context manager; it is killed at the end."""

    def __init__(self, command: list[str], said: Path) -> None:
        self._said, self._events = said, list[dict[str, Any]]()
        self._until = time.monotonic() + TIMEOUT_S
        with contextlib.ExitStack() as undo:
            self._monitor, its_end = (undo.enter_context(end) for end in socket.socketpair())
            self._process = undo.enter_context(_started(command, its_end, said))
            its_end.close()  # so that a QEMU that ends is seen
            self._lines = undo.enter_context(self._monitor.makefile("rb"))
            self._receive()  # its greeting
            self.command("qmp_capabilities")
            self._undo = undo.pop_all()

    def wait_until_up(self) -> None:
        """Until the guest has said that its driver is up. HostError: it said something else, or nothing."""
        console, text = self._process.stdout, b""
        assert console is not None
        while not text.endswith(b"\n"):
            if not select.select([console], [], [], self._left_s())[0]:
                raise self._failed("its guest does not come up", errno.ETIMEDOUT)
            if not (step := os.read(console.fileno(), STEP_BYTES)):
                raise self._failed(f"its guest ended: {text.decode(errors='replace') or 'no message'}")
            text += step
        if IS_UP not in text.decode(errors="replace"):
            raise self._failed(f"its guest said {text.decode(errors='replace').strip()}")

    def command(self, name: str, **arguments: Any) -> Any:
        """Do a command of the monitor and return its answer. HostError: it was refused."""
        try:
            self._monitor.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        except OSError as error:
            raise self._failed(f"{name}: {error}") from error
        while not {"return", "error"} & (reply := self._receive()).keys():
            self._events.append(reply)
        if "error" in reply:
            raise self._failed(f"{name}: {reply['error']['desc']}")
        return reply["return"]

    def event(self, name: str) -> float:
        """Wait for an event; when it was, in seconds. HostError: the migration failed, or nothing came in time."""
        while True:
            event = self._events.pop(0) if self._events else self._receive()
            if event.get("data", {}).get("status") == FAILED:
                raise self._failed("the migration failed")
            if event["event"] == name:
                at = event["timestamp"]
                return float(at["seconds"] + at["microseconds"] / US_PER_S)

    def _receive(self) -> dict[str, Any]:
        """One line of the monitor: an answer, or an event."""
        try:
            self._monitor.settimeout(self._left_s())
            line = self._lines.readline()
        except OSError as error:  # a time-out is one
            raise self._failed(f"its monitor does not answer: {error}", errno.ETIMEDOUT) from error
        if not line:
            raise self._failed("it ended")
        received: dict[str, Any] = json.loads(line)
        return received

    def _left_s(self) -> float:
        return max(0.001, self._until - time.monotonic())

    def _failed(self, what: str, number: int = errno.EIO) -> HostError:
        said = self._said.read_text(errors="replace").strip().rpartition("\n")[2]
        return HostError(PROGRAM, number, f"{what}; it said: {said or 'nothing'}")

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()


@contextlib.contextmanager
def _started(command: list[str], monitor: socket.socket, said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A QEMU whose monitor is the other end of that socket; killed at the end. HostError: it cannot be started."""
    fd = monitor.fileno()
    talk = ["-chardev", f"socket,id=monitor,fd={fd}", "-mon", "chardev=monitor,mode=control"]
    try:
        with said.open("wb") as complaints:
            process = subprocess.Popen(
                [*command, *talk], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints, pass_fds=[fd]
            )
    except OSError as error:
        raise HostError(PROGRAM, error.errno or errno.EIO, "it cannot be started") from error
    with process:  # closes the pipe, and waits
        try:
            yield process
        finally:
            process.kill()


def _command(
    path: str, accelerator: str, disk: Path, writable: bool, memory_mib: int, guest: str, line: str
) -> list[str]:
    """The same for both sides. QEMU's locks on the image are on: a migration hands them over."""
    machine = ["-accel", accelerator, "-m", str(memory_mib), "-nodefaults", "-no-user-config"]
    ends = ["-display", "none", "-no-reboot", "-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    escaped = str(disk).replace(",", ",,")
    drive = f"if=none,id=disk,format=raw,cache=writeback,readonly={'off' if writable else 'on'},file={escaped}"
    device = "virtio-blk-pci,drive=disk,disable-modern=on,disable-legacy=off"
    kernel = ["-kernel", str(labkit.guest_image(guest)), "-append", line]
    return [path, *machine, *ends, "-drive", drive, "-device", device, *kernel]
