"""How does the lab's guest run under QEMU? Booted by multiboot, told its steps over COM1, traced into a file."""

from __future__ import annotations

import contextlib
import re
import select
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit import abi
from labkit.cpu import kvm
from labkit.virtio.backends.image import ram_disk
from oracle.qmp import Qmp, QmpError
from oracle.scenarios import RESIZE, RESIZED_BYTES

PROGRAM = "qemu-system-x86_64"
INSTALL = f"{PROGRAM} is not installed; Debian and Ubuntu: apt-get install qemu-system-x86"
VERSION = "7.2"  # of the recording, and the one whose trace is understood
FIRMWARE = "qboot.rom"  # boots in a tenth of a second and leaves PCI as it is: the guest is told where BAR0 goes
AGENT = abi.GUEST_IMAGES / "agent.elf"
TRACED = ("kvm_set_ioeventfd_pio", "virtio_set_status", "virtio_queue_notify", "runstate_set")
TIMEOUT_S = 60.0  # for one answer of the guest or the monitor; all of them come in milliseconds
READY = "ready"


class QemuError(Exception):
    """QEMU, or the guest in it, did not do what was asked; with what QEMU said."""


def why_not() -> str:
    """Why nothing can be held against QEMU here; empty if it can."""
    if shutil.which(PROGRAM) is None:
        return INSTALL
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+\.\d+)", said)
    version = found[1] if found else "unknown"
    return "" if version == VERSION else f"the recording is of QEMU {VERSION}, and this is QEMU {version}"


def accelerator() -> str:
    """KVM if there is one. Without it QEMU emulates, and its ioeventfds are no affair of a kernel."""
    return "kvm" if Path(kvm.DEVICE).exists() else "tcg"


class Qemu:
    """A running QEMU with the agent in it. A context manager; QEMU is killed at its end, whatever happened."""

    def __init__(self, *options: str, ioeventfd: bool = True) -> None:
        self._ioeventfd = "on" if ioeventfd else "off"
        self._undo = contextlib.ExitStack()
        try:
            self._start(options)
        except BaseException:
            self.close()
            raise

    def _start(self, options: tuple[str, ...]) -> None:
        undo = self._undo
        self._folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="oracle-")))
        self._trace = self._folder / "trace"
        self._trace.touch()
        disk = ram_disk()
        undo.callback(disk.close)
        ends = [undo.enter_context(end) for _ in range(2) for end in socket.socketpair()]
        monitor, its_monitor, self._serial, its_serial = ends
        fds = [disk.fd, its_monitor.fileno(), its_serial.fileno()]
        said = undo.enter_context((self._folder / "said").open("wb"))
        command = [*self._command(*fds), *options]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=fds)
        undo.callback(self._kill)
        for end in ends:
            end.settimeout(TIMEOUT_S)
        for end in (its_monitor, its_serial):
            end.close()  # so that a QEMU that ends is seen
        self._lines = undo.enter_context(self._serial.makefile("rb"))
        self.qmp = self._asked(lambda: Qmp(monitor))
        undo.callback(self.qmp.close)
        self.vcpu_thread = int(self._asked(lambda: self.qmp.command("query-cpus-fast"))[0]["thread-id"])
        self.wait_ready()

    def _command(self, disk: int, monitor: int, serial: int) -> list[str]:
        dies_with_us = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        machine = ["-accel", accelerator(), "-m", "64", "-nodefaults", "-no-user-config", "-display", "none"]
        traced = [word for event in TRACED for word in ("-trace", event)]
        log = ["-msg", "timestamp=on", "-D", str(self._trace), *traced]  # with the time, a line names its thread
        talk = [word for name, fd in (("monitor", monitor), ("com1", serial)) for word in _channel(name, fd)]
        ends = ["-mon", "chardev=monitor,mode=control", "-serial", "chardev:com1"]
        drive = f"if=none,id=disk,format=raw,cache=writeback,file.locking=off,file=/proc/self/fd/{disk}"
        shape = f"queue-size={abi.NUMBERS['BLK_QUEUE_SIZE']},ioeventfd={self._ioeventfd}"
        device = f"virtio-blk-pci,drive=disk,disable-modern=on,disable-legacy=off,{shape}"
        guest = ["-bios", FIRMWARE, "-kernel", str(AGENT), "-append", "steps=serial"]
        return [*dies_with_us, PROGRAM, *machine, *log, *talk, *ends, "-drive", drive, "-device", device, *guest]

    # -- the guest -----------------------------------------------------------------------------------------------------

    def step(self, text: str) -> str:
        """Do one step and return the line that the guest answered."""
        self.send(text)
        return self.answer()

    def send(self, text: str) -> None:
        """Tell the guest a step, without waiting for its answer."""
        self._serial.sendall(text.encode() + b"\n")

    def answer(self) -> str:
        """The guest's next line. QemuError if none comes in time, or if it did not know the step."""
        line = self._line()
        if not line.startswith("step "):
            raise self._failed(f"the guest said {line!r}")
        return line

    def has_answered(self) -> bool:
        """Is there a line that nobody has read yet?"""
        return bool(select.select([self._serial], [], [], 0)[0])

    def wait_ready(self) -> None:
        """The guest has booted and waits for steps."""
        line = self._line()
        if line != READY:
            raise self._failed(f"instead of booting the guest said {line!r}")
        self.settle()

    def _line(self) -> str:
        try:
            line: bytes = self._lines.readline()
        except TimeoutError as error:
            raise self._failed("the guest does not answer") from error
        if not line:
            raise self._failed("the guest's serial port is closed")
        return line.decode(errors="replace").strip()

    # -- the host ------------------------------------------------------------------------------------------------------

    def host(self, command: str) -> None:
        """Do a command of the monitor: stop, cont, system_reset, resize."""
        if command == RESIZE:
            self._asked(lambda: self.qmp.command("block_resize", device="disk", size=RESIZED_BYTES))
        else:
            self._asked(lambda: self.qmp.command(command))
        self.settle()

    def settle(self) -> None:
        """Wait until the main loop has served what was ready."""
        self._asked(self.qmp.settle)

    def mark(self) -> int:
        """The end of the trace as it is now, in bytes."""
        return self._trace.stat().st_size

    def traced(self, since: int = 0) -> list[str]:
        """The lines of the trace from byte `since` on."""
        with self._trace.open("rb") as trace:
            trace.seek(since)
            return trace.read().decode().splitlines()

    def _asked(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except QmpError as error:
            raise self._failed(str(error)) from error

    # -- the end -------------------------------------------------------------------------------------------------------

    def _failed(self, what: str) -> QemuError:
        said = (self._folder / "said").read_text(errors="replace").strip()
        return QemuError(f"{PROGRAM}: {what}; it said: {said or 'nothing'}")

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill it, and remove what it wrote."""
        self._undo.close()

    def __enter__(self) -> Qemu:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _channel(name: str, fd: int) -> tuple[str, str]:
    return "-chardev", f"socket,id={name},fd={fd}"
