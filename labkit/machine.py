"""What does a user hold? One machine: boot it, drive its guest, pause, resume, reset, look, close."""

from __future__ import annotations

import itertools
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from labkit import abi
from labkit.abi import Irq
from labkit.board import Board, Plan
from labkit.errors import GuestCrash, GuestError, HostError, UsageError
from labkit.guest import Guest
from labkit.holds import Gates, Held
from labkit.loader import check_fits, lab_guest, load_kernel
from labkit.memory import GuestMemory
from labkit.trace import Trace
from labkit.trace.events import State
from labkit.trace.recorded import Facts
from labkit.virtio import catalogue
from labkit.virtio.backends.link import LinkEnd
from labkit.virtio.looks import MachineLook
from labkit.virtio.mutations import Mutations, driver_options
from labkit.virtio.notifier import REVISIONS

if TYPE_CHECKING:
    from labkit.disassembly import Listing
    from labkit.migration import Migration, Progress
    from labkit.snapshot import Snapshot
    from labkit.terminal import Terminal
    from labkit.virtio.backends.worker import Worker
    from labkit.virtio.devices.base import Device
    from labkit.virtio.faults import Faults
    from labkit.virtio.proxy import Proxy

_numbers = itertools.count()
POLL_S = 0.01
CLOSE_TIMEOUT_S = 10.0


class Machine(MachineLook):
    """One virtual machine, made by `boot`. A context manager; closing twice is fine, and so is forgetting it.

    A command raises UsageError when the machine is closed, and GuestError when its guest has crashed: then only `reset`
    and `close` are left, and every look at it. `proxy` and `trace` can be read after a close too.
    """

    def __init__(self, board: Board, irq: Irq) -> None:
        self._board = board
        self._irq = irq
        self.trace = Trace(board.feed, board.recorder.recorded, board.cpu.name, board)
        board.machine = weakref.ref(self)
        self._finalizer = weakref.finalize(self, _close, board)

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """ "vm0", "vm1" ... in order of boot."""
        return self._board.name

    @property
    def state(self) -> str:
        """ "running", "paused", "crashed" (see `crash`), "exited" (see `exit_code`), "migrated" or "closed"."""
        return self._board.runstate.state.name.lower()

    @property
    def cpu(self) -> str:
        """Which back end runs the guest: "kvm" or "emulated"."""
        return self._board.cpu.name

    @property
    def crash(self) -> GuestCrash | HostError | None:
        """Why and where the guest crashed, with the last events before; None if it did not."""
        return self._board.crash

    @property
    def exit_code(self) -> int | None:
        """(v << 1) | 1 after the guest wrote v to port 0xf4; None before."""
        return self._board.exit_code

    @property
    def console(self) -> str:
        """What the guest wrote to port 0xe9 since the last reset, at most 1 MiB."""
        self._check_open()
        return self._board.memory.console().decode(errors="replace")

    @property
    def terminal(self) -> Terminal:
        """The host's end of a virtio-console: `output`, `text`, `send(...)`. UsageError: the device is no console."""
        from labkit.terminal import Terminal

        self._check_open()
        return Terminal(self._board, self)

    @property
    def proxy(self) -> Proxy:
        """The virtio device as the guest sees it: registers, flags, queues."""
        return self._board.proxy

    @property
    def backend(self) -> Worker:
        """The backend that `hand_over` gives queues to: what it has, how many requests it has served."""
        return self._board.proxy.backend

    @property
    def fault(self) -> Faults:
        """Faults on demand: `vm.fault.fail_assign(queue=1, error="ENOSPC")`."""
        return self._board.proxy.faults

    @property
    def memory(self) -> GuestMemory:
        """Guest RAM: `read(gpa, size)`, `write(gpa, data)`."""
        return self._board.memory

    @property
    def gates(self) -> Gates:
        """Who is held, and where: `wait(actor)`, iteration, a table."""
        return self._board.gates

    @property
    def museum(self) -> Any:
        """Real bugs as cards (labkit.museum.cards), played on machines of their own: `museum["dangling-fd"].run()`."""
        from labkit.museum.cards import Cards

        return Cards(self.cpu)

    def hold(self, actor: str, at: str | None = None) -> None:
        """Hold "iothread", "backend", "vcpu0" ... or "main" behind its next event `at`: "before-handler", "drain" ...

        None: behind the next of any kind. The names are those of the events: labkit.trace.gates.NAMES, with ALSO for
        those of a kick's path. What it holds up meanwhile waits; a command that would wait for it lifts the hold, and
        puts it back.
        UsageError: no such actor, or no such gate.
        """
        self._check_open()
        self._board.gates.hold(actor, at)

    def step(self, actor: str, timeout_s: float = 1.0) -> Held | None:
        """Let a held actor go to its next gate, of any kind. None: it came to none within the time, it has no work.

        UsageError: it is not held.
        """
        self._check_open()
        return self._board.gates.step(actor, timeout_s)

    def release(self, actor: str | None = None) -> None:
        """Let it go, and hold it no more; None: everybody."""
        self._check_open()
        self._board.gates.release(actor)

    def statistics(self) -> dict[str, int]:
        """The kernel's own counters of this guest, all vCPUs together: exits, io_exits, halt_exits ..."""
        self._check_open()
        board = self._board
        result: dict[str, int] = board.owner.call(board.cpu.statistics)
        return result

    def registers(self, vcpu: int = 0) -> dict[str, int]:
        """General registers of a vCPU; a running machine is stopped for a moment, which its rules do not see."""
        self._check_open()
        if not 0 <= vcpu < len(self._board.cpu.vcpus):
            raise UsageError(f"vCPU {vcpu}: the machine has {len(self._board.cpu.vcpus)}")
        board = self._board
        result: dict[str, int] = board.gates.call(board.owner, lambda: board.look_at(vcpu))
        return result

    def disassemble(self, at: int | str | None = None, count: int = 8, *, vcpu: int = 0, bits: int = 64) -> Listing:
        """Guest code as text: from an address or a function `at` on; None: where the vCPU is, and a little before.

        Names are those of the guest's ELF, as far as it has any. An address is taken as guest-physical. bits: 16 or 32
        for a guest that is in another mode. A running machine is stopped for a moment, as `registers` does it.
        UsageError: the extra `labkit[debug]` is not installed, no such function, or no memory there.
        """
        from labkit import disassembly

        image, memory = self._board.plan.image, self._board.memory
        rip = self.registers(vcpu)["rip"] if at is None else 0
        names = disassembly.names_of(image)
        if at is None:
            return disassembly.around(memory.read, names, rip, count, bits)
        return disassembly.at(memory.read, names, at, count, bits)

    def dashboard(self) -> Any:
        """The machine as it is from moment to moment, in a cell, with buttons: see docs/screen.md.

        It keeps no machine alive. UsageError: anywidget is not installed.
        """
        from labkit.widgets import dashboard

        return dashboard(self)

    @property
    def guest(self) -> Guest:
        """The driver in the guest, one step at a time."""
        return Guest(self._board, self._irq, self)

    # -- commands, each carried out by the owner thread ----------------------------------------------------------------

    def pause(self) -> None:
        """Stop the vCPUs, then the notifiers (R10)."""
        self._command(self._board.pause)

    def resume(self) -> None:
        """Start the notifiers if DRIVER_OK is set (R10), then the vCPUs."""
        self._command(self._board.resume)

    def reset(self) -> None:
        """The reset button: the guest starts again; a crashed or exited machine too, and a paused one at its resume.

        The device is reset by R7. Memory is not cleared, but the guest's image is loaded anew.
        """
        self._command(self._board.reset, mends=True)
        if self._board.plan.image.lab and self._board.runstate.running:
            self.guest.parked()

    def hand_over(self, queues: Sequence[int] | None = None) -> None:
        """A backend, a thread with indices of its own, takes these queues (None: all) and serves them (R9).

        It has them while the driver is up and the machine runs; `backend` shows which it wants and which it has.
        UsageError: no such queue, or neither a blk nor a null device. HostError: KVM refused, and nothing was taken.
        """
        self._command(lambda: self._board.hand_over(queues))

    def take_back(self) -> None:
        """The backend gives its queues back; who serves them then depends on the revision (R9)."""
        self._command(self._board.take_back)

    def resize_disk(self, bytes: int) -> None:
        """Grow or shrink the disk; the guest hears of it by ISR bit 1 and an interrupt, and finds it in config.

        A request beyond the new end gets IOERR. UsageError: no disk, a read-only one, or no whole number of sectors.
        """
        board = self._board
        self._command(lambda: board.resize_disk(bytes))

    def unplug(self) -> None:
        """Pull the device out (R11): STOP, then its ports, memory and slot answer nobody. The guest is not asked.

        `vm.proxy` shows what it was. UsageError: there is none.
        """
        self._command(self._board.unplug)

    def plug(self, *, ioeventfd: bool | None = None) -> None:
        """Put one like it into its slot, at power-on and with its BARs assigned. UsageError: it is there.

        ioeventfd: the property of the one that is put in (R1); None: as the last one was made.
        """
        self._command(lambda: self._board.plug(ioeventfd))

    def snapshot(self) -> Snapshot:
        """The machine at this moment, to be taken up by `restore` or kept in a file (`labkit.load`). It goes on.

        Not in it: what is on the disk, who owns the notifiers, counters, the host's end of a terminal or a cable.
        UsageError: it is closed or gone, or a device's own code holds chains of the guest's.
        """
        from labkit.saving import take

        found: Snapshot = self._command(lambda: take(self._board))
        return found

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot: of this machine, or of another with the same plan; a crashed machine can, too.

        By R10: the notifiers stop, and start again if the machine ran then. UsageError: it does not fit, or is damaged;
        nothing has changed.
        """
        from labkit.saving import take_up

        self._command(lambda: take_up(self._board, snapshot), mends=True)

    def migrate(
        self,
        address: str,
        *,
        wait: bool = True,
        tls: str | os.PathLike[str] | None = None,
        timeout_s: float = 10.0,
        downtime_s: float = 0.005,
        rounds: int = 16,
        progress: Callable[[Progress], object] | None = None,
    ) -> Migration:
        """Move to whoever listens at `address` (`labkit.receive`, `labkit.listen`): "unix:/path" or "tcp:host:port".

        Pages go while the guest runs, in rounds, until what is left needs less than `downtime_s`, or after `rounds`.
        Then it stops (R10), its state goes, and it goes on there; here it is "migrated": it can be looked at and
        closed. The disk does not go, except a RAM disk: both sides open it, and the lock of a writable one is handed
        over. `wait=False` returns at once; `cancel()` and `wait()` are the Migration's. `progress` is told of each
        gate; what it raises calls the machine back. An interrupt calls it back, too.
        `tls`: a folder with ca.pem, cert.pem and key.pem, without which no machine goes beyond this host by TCP.
        `timeout_s`: how long the other side may be silent.

        UsageError, HostError: why it did not go; it runs on here.
        """
        from labkit import migration

        self._check_commands()
        limits = migration.Limits(downtime_s, rounds)
        going = migration.leave(
            self._board, self._irq, self, address, tls=tls, limits=limits, timeout_s=timeout_s, progress=progress
        )
        if wait:
            going.wait()
        return going

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Until the guest ends by port 0xf4: its exit code. None when the time is over; GuestError if it crashed.

        The lab's agent never ends by itself: this is for a `kernel`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.state in ("running", "paused"):
            if deadline is not None and time.monotonic() > deadline:
                return None
            time.sleep(POLL_S)
        if self._board.crash is not None:
            raise GuestError(str(self._board.crash))
        return self._board.exit_code

    def close(self) -> None:
        """Stop everything and give everything back. Idempotent."""
        self._finalizer()

    def _command(self, work: Any, *, mends: bool = False) -> Any:
        self._check_commands()
        if self._board.crash is not None and not mends:
            raise GuestError(f"{self._board.crash}; vm.reset() starts it again")
        if self._board.migration is not None and self._board.owner.is_current:
            raise UsageError("the machine is being handed over: nothing can be asked of it until that has ended")
        return self._board.gates.call(self._board.owner, lambda: self._if_here(work))

    def _check_commands(self) -> None:
        """UsageError: closed, gone, or asked by one of its own threads."""
        self._check_open()
        if self._board.is_own_thread() and not self._board.owner.is_current:
            raise UsageError(
                "a device's handle() runs in a thread of the machine: it cannot wait for the machine to stop"
            )
        self._check_here()

    def _if_here(self, work: Any) -> Any:
        """In the owner thread: it may have been handed over while this waited for its turn."""
        self._check_here()
        return work()

    def _check_here(self) -> None:
        if self._board.runstate.state is State.MIGRATED:
            raise UsageError("the machine has moved away: here it can be looked at and closed")

    def _check_open(self) -> None:
        if self._board.runstate.state is State.CLOSED:
            raise UsageError("the machine is closed")

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- for people ----------------------------------------------------------------------------------------------------

    def _values(self) -> dict[str, object]:
        return super()._values() | {held.actor: f"held behind {held.gate}" for held in self._board.gates}

    @property
    def _facts(self) -> Facts:
        return self._board.recorder.facts


def boot(
    device: str | Device = "blk",
    *,
    disk: str | os.PathLike[str] | None = None,
    writable: bool = False,
    delay_ns: int | None = None,
    ioeventfd: bool | None = None,
    vcpus: int = 1,
    memory_mib: int = abi.MEMORY_MIN_MIB,
    queues: int | None = None,
    net: str | LinkEnd | None = None,
    pcap: str | os.PathLike[str] | None = None,
    mac: str | None = None,
    irq: str = "msix",
    revision: str = "v6",
    mutations: Sequence[str] = (),
    cpu: str = "auto",
    kernel: str | os.PathLike[str] | None = None,
    cmdline: str = "",
    bring_up: bool = True,
) -> Machine:
    """Boot a guest with one virtio device.

    device: "blk", "net", "console" (see `terminal`), "null" (a queue nobody serves, for measurements), or one of your
        own: an instance of a subclass of labkit.Device, which can be booted again when this machine is closed.
    disk: a raw image or block device, read-only unless `writable`; None: a RAM disk of 16 MiB.
    delay_ns: a "blk" whose reads and writes take that much longer each, up to 1 s; None: no longer than they must.
    ioeventfd: the property (R1); None: the device's default.
    vcpus: 1 to 8. memory_mib: 16 to 2048. queues: 1 to 64 for "null"; a legacy "blk" has one, "net" three.
    net: where a "net" device's cable leads: an end of `labkit.link()`, or "tap:NAME", an interface of the host in the
    network namespace of the calling thread; None: nowhere, what is sent is dropped.
    pcap: a file for every frame that the guest sends and gets, as tcpdump and Wireshark read it; what was there goes.
    mac: of the "net" device, as "52:54:00:12:34:56"; None: one that no other machine of this process has by default.
    irq: "msix", "intx" or "poll", what the lab's driver uses. Only "intx" gives the machine an I/O APIC and PICs, for
    a `kernel` too: such a boot takes about three times as long. MSI-X works with either.
    revision: which rules: "v6", "merged", "0.14" or "today" (labkit.rules.differences()).
    mutations: names from the museum (labkit.museum.names()): what is to be wrong with this machine, on purpose.
    cpu: "kvm", "emulated" (needs the extra `labkit[emulated]`; its times say nothing of hardware), or "auto": what
    $LABKIT_CPU says, or else KVM if it can be used, or else the emulated CPU.
    kernel, cmdline: a multiboot 1 ELF of your own instead of the lab's agent, entered as a PC loader does.
    bring_up: let the lab's driver set the device up, to DRIVER_OK; False leaves every step to `vm.guest`.

    UsageError: a bad argument, disk or kernel. HostError: the host cannot. GuestError: the guest did not come up.
    """
    if revision not in REVISIONS:
        raise UsageError(f"revision={revision!r}: this version knows {', '.join(REVISIONS)}")
    _check_range("vcpus", vcpus, 1, abi.VCPUS_MAX)
    _check_range("memory_mib", memory_mib, abi.MEMORY_MIN_MIB, abi.MEMORY_MAX_MIB)
    image = load_kernel(Path(kernel)) if kernel is not None else lab_guest("agent")
    check_fits(image, memory_mib)
    ways, wrong = _irq(irq), _mutations(mutations)
    options = catalogue.Options(
        disk=disk, writable=writable or None, queues=queues, delay_ns=delay_ns, net=net, pcap=pcap, mac=mac
    )
    model = catalogue.make(device, options)
    plan = Plan(
        model=model,
        image=image,
        command_line=f"{os.fspath(kernel)} {cmdline}"
        if kernel is not None
        else f"{cmdline} {driver_options(wrong)}".strip(),
        cpu=cpu,
        vcpus=vcpus,
        memory_mib=memory_mib,
        revision=revision,
        ioeventfd=model.ioeventfd_default if ioeventfd is None else bool(ioeventfd),
        intx=ways is Irq.INTX,
        options=options,
        mutations=wrong,
    )
    return _running(Machine(Board(plan, next_name()), ways), bring_up=bring_up)


def next_name() -> str:
    """Of the next machine: "vm0", "vm1" ..."""
    return f"vm{next(_numbers)}"


def _running(machine: Machine, *, bring_up: bool) -> Machine:
    """Let the guest run as far as asked; a machine that cannot is closed."""
    lab = machine._board.plan.image.lab
    try:
        machine.resume()
        if lab and bring_up:
            machine.guest.negotiate(driver_ok=True)
        elif lab:
            machine.guest.parked()
    except BaseException:
        machine.close()
        raise
    return machine


def _mutations(names: Sequence[str]) -> Mutations:
    if not names:
        return ()
    from labkit import museum

    return museum.mutations(names)


def _irq(name: str) -> Irq:
    known = {"msix": Irq.MSIX, "intx": Irq.INTX, "poll": Irq.POLL}
    if name not in known:
        raise UsageError(f"irq={name!r}: this version knows {', '.join(known)}")
    return known[name]


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{name}={value!r}: a whole number from {least} to {most}")


def _close(board: Board) -> None:
    """Close from any thread: also at exit, and from the collector in one of the board's own threads.

    A fork has none of its threads: there the machine is its parent's.
    """
    if board.process != os.getpid():
        return
    if board.migration is not None and not board.is_own_thread():
        board.migration.abandon(CLOSE_TIMEOUT_S)
    board.gates.open()
    board.owner.submit(board.close)
    if not board.is_own_thread():
        board.owner.join(CLOSE_TIMEOUT_S)
