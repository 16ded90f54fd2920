"""How are the parts of one machine wired, started and stopped?

The board owns every thread, fd and mapping of a machine. It never refers to the Machine the user holds, so that a
forgotten Machine can be collected and the board closed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, NamedTuple

from labkit import cpu as cpus
from labkit.abi import GPA_MULTIBOOT_INFO, NUMBERS, PORT_EXIT
from labkit.cpu.entry import Entry, lab_entry, multiboot_entry
from labkit.dirty import DirtyPages
from labkit.errors import GuestCrash, HostError, UsageError
from labkit.holds import Gates
from labkit.loader import Image
from labkit.memory import GuestMemory
from labkit.native import ffi, lib
from labkit.owner import Owner
from labkit.pc import firmware
from labkit.pc.bus import Bus
from labkit.pc.pci import MECHANISM_PORTS, PciBus, host_bridge
from labkit.pc.ports import ConsolePort, ExitPort
from labkit.recorder import Recorder
from labkit.runstate import RunState
from labkit.threads import BigLock, Thread, Visitors, of_machine
from labkit.trace.events import Actor, Cause, Crash, Kind, Run, State
from labkit.trace.feed import Feed
from labkit.virtio.backends.image import Image as Disk
from labkit.virtio.catalogue import Options
from labkit.virtio.devices.base import Device
from labkit.virtio.mutations import Mutations
from labkit.virtio.notifier import Situation
from labkit.virtio.proxy import Proxy

LAST_EVENTS = 10  # kept with a crash
STOP_TIMEOUT_MS = 5000  # a vCPU comes out of the guest within a millisecond; this is for a machine gone wrong
VISIT_TIMEOUT_S = 1.0  # whoever looks leaves within a slice of some milliseconds
VIRTIO_SLOT = NUMBERS["VIRTIO_SLOT"]
PORTS_SIZE, MMIO_SIZE = 1 << 16, 1 << 52


class Plan(NamedTuple):
    """What to build. `model` is opened by the caller and closed with the board."""

    model: Device
    image: Image
    command_line: str
    cpu: str
    vcpus: int
    memory_mib: int
    revision: str
    ioeventfd: bool
    intx: bool = False  # an I/O APIC for the device's INTx
    options: Options = Options()  # what the device was made of
    mutations: Mutations = ()  # what is wrong on purpose


class Board:
    """Memory, CPUs, buses, device, iothread and owner thread of one machine."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.name, self.process = plan, name, os.getpid()
        self.crash: GuestCrash | HostError | None = None
        self.exit_code: int | None = None
        self.migration: Any = None  # on its way to another host
        self.like: Any = None  # what saving.py knows that memory is like, but for the pages that are dirty
        self.recorder = Recorder(self)
        self.visitors = Visitors()
        self.gone = False  # nothing is left but what can be looked at afterwards
        self.machine: Callable[[], Any] = _nobody  # a weak reference to what the user holds
        self._threads: list[Thread] = []
        self._undo: list[Callable[[], None]] = [plan.model.close]
        try:
            self._build()
            self.owner = Owner(name)
            self._undo.append(self.owner.stop)
            self._start_threads()
        except BaseException:
            self._tear_down()
            raise

    # -- building, and the undoing of each part right beside it --------------------------------------------------------

    def _build(self) -> None:
        plan, undo = self.plan, self._undo
        self.memory = GuestMemory(plan.memory_mib)
        undo.append(self.memory.close)
        self.feed = Feed(self.memory.native)
        undo.append(self.recorder.keep)
        self.runstate = RunState(self.feed)
        self._big_lock = BigLock(self.memory.native)
        self.gates = Gates(self.memory.native, plan.vcpus, self.visitors)
        self.gates.board = self
        self.cpu = cpus.choose(plan.cpu, self.memory, plan.vcpus, intx=plan.intx)
        undo.append(self.cpu.close)
        self.dirty = DirtyPages(self.memory, self.cpu)
        self.loop = _not_null(lib.lk_loop_new(self.memory.native), "epoll_create1")
        undo.append(lambda: lib.lk_loop_free(self.loop))  # which stops the iothread
        device = _not_null(lib.lk_device_new(self.memory.native, plan.model.kind), "malloc")
        self.device = ffi.gc(device, lib.lk_device_free)  # views may outlive the machine
        plan.model.attach(self.device)
        self.device.intx_fd = self.cpu.line_fd
        self._build_pc()
        for vcpu in self.cpu.vcpus:
            vcpu.native.device = self.device
        self._power_on()

    def _build_pc(self) -> None:
        self.ports, self.mmio, self.pci = Bus(PORTS_SIZE), Bus(MMIO_SIZE), PciBus()
        self.ports.claim(MECHANISM_PORTS, self.pci)
        self.ports.claim(range(NUMBERS["PORT_CONSOLE"], NUMBERS["PORT_CONSOLE"] + 1), ConsolePort())
        self.ports.claim(range(PORT_EXIT, PORT_EXIT + 4), ExitPort(self._guest_exits))
        self.pci.functions[0] = host_bridge(self.ports, self.mmio)
        self.plugged = False
        self._undo.append(self._remove_device)
        with self.locked():
            self._insert_device()

    def _insert_device(self) -> None:
        """The device into its slot, at power-on, its BARs as the firmware assigns them."""
        plan = self.plan
        self.proxy = Proxy(
            plan.model,
            self.device,
            self.memory,
            (self.ports, self.mmio),
            self.cpu,
            self.loop,
            self.feed,
            revision=plan.revision,
            ioeventfd=plan.ioeventfd,
            name=self.name,
            mutations=plan.mutations,
        )
        self.proxy.belongs_to(self)
        self.runstate.listen(self._state_changed)
        self.proxy.notifiers.running = self.runstate.running
        self.plugged = True
        self.pci.functions[VIRTIO_SLOT] = self.proxy
        firmware.assign_bars(self.proxy)
        self.proxy.arrive()

    def _remove_device(self) -> None:
        if self.plugged:
            with self.locked():
                self._let_go_of_device()
            self.proxy.backend.close()

    def _let_go_of_device(self) -> None:
        """R11. What it was can still be looked at."""
        self.plugged = False
        self.runstate.forget(self._state_changed)
        self.proxy.close()
        del self.pci.functions[VIRTIO_SLOT]

    def _start_threads(self) -> None:
        if (failed := lib.lk_loop_start(self.loop, f"{self.name}-io".encode())) < 0:
            raise HostError("pthread_create", -failed)
        for number, thread in enumerate(self.cpu.threads):
            run = partial(self.cpu.run, number, self._serve_exit)
            self._threads.append(Thread(run, f"{self.name}-{thread}"))

    def close(self) -> None:
        """In the owner thread: stop everything, release everything, in reverse order of building."""
        if self.runstate.state is State.CLOSED:
            return
        self.gates.open()
        self._stop_vcpus()
        self.device.hurry = 1
        self.runstate.close()
        self._tear_down()

    def _tear_down(self) -> None:
        for vcpu in getattr(self, "cpu", _NO_CPU).vcpus:
            lib.lk_vcpu_ask(vcpu.native, lib.ASK_QUIT)
        for thread in self._threads:
            thread.join()
        self.visitors.shut(VISIT_TIMEOUT_S)
        while self._undo:
            self._undo.pop()()
        self.gone = True

    # -- what the owner thread does ------------------------------------------------------------------------------------

    def pause(self) -> None:
        """vCPUs out of the guest, then the listeners: STOP (R10)."""
        if self.runstate.running:
            with self.stopped():
                self.runstate.change(State.PAUSED)

    @property
    def disk(self) -> Disk | None:
        """What a blk device reads and writes."""
        return getattr(self.plan.model, "image", None)

    def claim_disk(self) -> None:
        """No machine runs without the lock of its disk. It has it, unless it was on its way and came back without."""
        if self.disk is not None:
            self.disk.take_lock()

    def resume(self) -> None:
        """The listeners: START if DRIVER_OK (R10); then the vCPUs go on."""
        if self.runstate.state is State.PAUSED:
            self.claim_disk()
            with self.locked():
                self.runstate.change(State.RUNNING)
                self._finish_runs()
            self.release_vcpus()

    def reset(self) -> None:
        """As the reset button: device (R7), PCI, vCPUs and the guest's image; other memory stays as it is."""
        runs_again = self.runstate.state is not State.PAUSED
        with self.stopped():
            if self.plugged:
                self.proxy.reset()
            self.pci.reset()
            lib.lk_console_clear(self.memory.native)
            self.crash = self.exit_code = None
            self._power_on()
            if runs_again:
                self.runstate.change(State.RUNNING)
        if runs_again:
            self.release_vcpus()

    def hand_over(self, queues: Sequence[int] | None) -> None:
        """A backend takes queues (R9)."""
        self.check_plugged()
        with self.locked():
            self.proxy.backend.take(queues)

    def take_back(self) -> None:
        """It gives them back."""
        self.check_plugged()
        with self.locked():
            self.proxy.backend.give_back()

    def unplug(self) -> None:
        """R11 while the guest runs: as one step, for it may be in the middle of anything."""
        self.check_plugged()
        with self.locked():
            self._let_go_of_device()
            self.proxy.remove()
        self.proxy.backend.close()

    def plug(self, ioeventfd: bool | None = None) -> None:
        """The same model into the same slot, made with another property perhaps (R1)."""
        if self.plugged:
            raise UsageError("the device is in its slot: nothing to plug")
        if ioeventfd is not None:
            self.plan = self.plan._replace(ioeventfd=bool(ioeventfd))
        with self.locked():
            self._insert_device()

    def check_plugged(self) -> None:
        """UsageError: there is no device to work with."""
        if not self.plugged:
            raise UsageError("the device is unplugged: vm.plug() puts it back")

    def resize_disk(self, size_bytes: int) -> None:
        """Another capacity, and the guest hears of it."""
        self.check_plugged()
        with self.locked():
            with self.proxy.backend.held():
                self.plan.model.resize(self.device, size_bytes)
            self.proxy.config_changed()

    def move_out(self) -> None:
        """It is somebody else's now: nothing of it runs here again."""
        self.runstate.change(State.MIGRATED)
        for vcpu in self.cpu.vcpus:
            lib.lk_vcpu_retire(vcpu.native)

    def look_at(self, vcpu: int) -> dict[str, int]:
        """Registers of a vCPU; a running guest is taken out and put back, and no rule hears of it."""
        with self.settled():
            return self.cpu.vcpus[vcpu].registers()

    def end(self, state: State) -> None:
        """The guest has crashed or exited: stop what is left, and tell the listeners; unless a reset was quicker."""
        gone = self.crash is not None or self.exit_code is not None
        if gone and self.runstate.state in (State.RUNNING, State.PAUSED):
            with self.stopped():
                self.runstate.change(state)

    def _power_on(self) -> None:
        """Memory and registers as the firmware leaves them."""
        plan, memory = self.plan, self.memory
        for segment in plan.image.segments:
            memory.write(segment.gpa, segment.data.ljust(segment.size, b"\0"))
        firmware.write_multiboot_info(memory, plan.command_line)
        if plan.image.lab:
            firmware.write_page_tables(memory)
        self.cpu.power_on()
        for vcpu, entry in zip(self.cpu.vcpus, self._entries, strict=True):
            vcpu.enter(entry)

    @cached_property
    def _entries(self) -> list[Entry]:
        image, vcpus, info = self.plan.image, self.plan.vcpus, GPA_MULTIBOOT_INFO
        if image.lab:
            return [lab_entry(image.entry, index, vcpus, info) for index in range(vcpus)]
        return [multiboot_entry(image.entry, index, info) for index in range(vcpus)]

    def _stop_vcpus(self, how: int = lib.ASK_STOP) -> None:
        self.device.stopping = 1
        for vcpu in self.cpu.vcpus:
            lib.lk_vcpu_ask(vcpu.native, how)
        for vcpu in self.cpu.vcpus:
            if not lib.lk_vcpu_wait_stopped(vcpu.native, STOP_TIMEOUT_MS):
                raise HostError("KVM_RUN", errno.ETIMEDOUT, f"vCPU {vcpu.index} did not come out of the guest")
        self.device.stopping = 0

    @contextmanager
    def settled(self) -> Iterator[None]:
        """vCPUs out of the guest with nothing half done, and back if it runs; no rule hears of it."""
        self._stop_vcpus(lib.ASK_SETTLE)
        try:
            yield
        finally:
            if self.runstate.running:
                with self.locked():
                    self._finish_runs()
                self.release_vcpus()

    @contextmanager
    def stopped(self, how: int = lib.ASK_STOP) -> Iterator[None]:
        """vCPUs out of the guest, then the big lock: a slow device lets go of it after the request it is at."""
        self._stop_vcpus(how)
        self.device.hurry = 1
        try:
            with self.locked():
                yield
        finally:
            self.device.hurry = 0

    def _finish_runs(self) -> None:
        """Runs of queues that a stop had cut short, if no synthetic kick is about to do it. Under the big lock."""
        for queue in self.proxy.queues:
            vq = self.device.vq[queue.index]
            if vq.unfinished and not vq.synthetic_due:
                lib.lk_queue_run(self.device, queue.index, Run.RESUME)

    def release_vcpus(self) -> None:
        """Back into the guest."""
        for vcpu in self.cpu.vcpus:
            lib.lk_vcpu_ask(vcpu.native, lib.ASK_RUN)

    def _state_changed(self, running: bool) -> None:
        self.proxy.notifiers.happens(Situation(Cause.RESUME if running else Cause.PAUSE))

    def locked(self) -> BigLock:
        """The big lock, for a `with`: device work, register writes, rules. Never taken twice by one thread."""
        return self._big_lock

    def is_own_thread(self) -> bool:
        """Is the caller one of the threads that `close` waits for? Any iothread counts: it runs Python now and then."""
        ours = self.owner.is_current or any(thread.is_current for thread in self._threads)
        return ours or lib.lk_actor() == Actor.IOTHREAD

    def threads(self) -> dict[int, str]:
        """Its threads now: the kernel's number of each, and the actor. None once it is closed."""
        return {} if self.runstate.state is State.CLOSED else of_machine(self.name)

    # -- what the vCPU threads do ---------------------------------------------------------------------

    def _serve_exit(self, vcpu: Any) -> None:
        """Whatever the C core does not serve comes up here: registers, PCI, MMIO, and the guest's end."""
        try:
            left = vcpu.exit
            if left.kind == lib.LEFT_CRASH:
                self._guest_crashes(vcpu)
            else:
                with self.locked():
                    self._access(left)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not look like a guest that hangs
            self._host_failed(error)

    def _access(self, left: Any) -> None:
        """One access, or as many as a string instruction has items."""
        bus, address = (self.ports, left.port) if left.kind == lib.LEFT_IO else (self.mmio, left.gpa)
        width, write = left.width, left.write
        data = ffi.buffer(left.data, width * left.count)
        for at in range(0, len(data), width):
            if write:
                bus.write(address, width, int.from_bytes(data[at : at + width], "little"))
            else:
                data[at : at + width] = bus.read(address, width).to_bytes(width, "little")

    def _guest_crashes(self, vcpu: Any) -> None:
        """Say where, and let the owner thread stop the rest. This thread stays out of the guest until a reset."""
        registers = self.cpu.vcpus[vcpu.index].registers()
        reason, rip = vcpu.exit.reason, registers["rip"]
        text = _crash_text(self.cpu.name, reason, vcpu.exit.detail)
        last, _ = self.feed.read(max(0, self.feed.position() - LAST_EVENTS))
        self.crash = GuestCrash(vcpu.index, rip, text, last)
        self.feed.emit(Kind.CRASH, -1, reason, rip, vcpu.index)
        self._retire(State.CRASHED)

    def _guest_exits(self, code: int) -> None:
        """Port 0xf4."""
        self.exit_code = code
        self.feed.emit(Kind.EXIT, -1, code)
        self._retire(State.EXITED)

    def _retire(self, state: State) -> None:
        """No vCPU enters the guest again before a reset. Asks only: the thread that calls is one of them.

        The owner's work is queued first, so that whoever learns of the end can wait for it there.
        """
        self.owner.submit(lambda: self.end(state))
        for vcpu in self.cpu.vcpus:
            lib.lk_vcpu_retire(vcpu.native)

    def _host_failed(self, error: Exception) -> None:
        self.crash = error if isinstance(error, HostError) else HostError(f"labkit itself: {error!r}", errno.EIO)
        self._retire(State.CRASHED)


def _crash_text(cpu: str, reason: int, detail: int) -> str:
    """Why a vCPU cannot go on, in words; `detail` is the back end's own number."""
    said: dict[int, str] = {
        Crash.TRIPLE_FAULT: "triple fault",
        Crash.BAD_STATE: f"the CPU refused the guest's state ({cpu}: {detail:#x})",
        Crash.CANNOT_EXECUTE: f"an instruction that cannot be executed here ({cpu}: {detail:#x})",
        Crash.REFUSED: f"{cpu} refused: {os.strerror(detail)}",
    }
    return said.get(reason, f"unknown exit of {cpu}: {detail:#x}")


def _nobody() -> None:
    """No machine holds the board yet."""


class _NoCpu:
    vcpus: tuple[()] = ()


_NO_CPU = _NoCpu()


def _not_null(pointer: Any, call: str) -> Any:
    if pointer == ffi.NULL:
        raise HostError(call, ffi.errno)
    return pointer
