"""How does a notebook drive the guest? One driver step at a time, through the agent parked in it (guests/agent.c)."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

from labkit import abi
from labkit.abi import AgentStatus, BlkStatus, BlkType, Command, Fault, Irq, Status
from labkit.answers import Added, Completion, Negotiated, Share, Storm
from labkit.board import Board
from labkit.errors import GuestError, UsageError
from labkit.holds import LET_GO
from labkit.native import lib
from labkit.trace.events import Actor, Kind, State

SLICE_MS = 20  # how long a wait goes without looking for an interrupt of the cell
TIMEOUT_S = 10.0
LOOK_S = 0.25  # how long a wait for one chain goes without a look at the device
TICK_S = 0.001
GRACE_S = 1.0  # the guest gives up first and says so; the host only waits for a guest that cannot
SLOTS = struct.Struct(f"<{abi.MB_SLOTS}Q")
THINK_MAX_NS = 1_000_000_000  # in ticks it must fit 32 bits
SECTORS_PER_REQUEST = abi.BUFFER_STRIDE // abi.SECTOR_BYTES

WHAT_TO_DO = {
    AgentStatus.UNKNOWN_COMMAND: "the guest does not know this step",
    AgentStatus.NO_DEVICE: "the driver has not negotiated with a device: vm.guest.negotiate()",
    AgentStatus.NO_QUEUE: "the device has no such queue, or it has no ring",
    AgentStatus.RING_FULL: "no descriptor or request slot is free: wait() for completions",
    AgentStatus.TIMEOUT: "the device did not answer in time",
    AgentStatus.BAD_ARGUMENT: "the guest refused an argument",
    AgentStatus.BAD_USED: "the device gave back a chain that was not in flight",
    AgentStatus.NO_FEATURE: "the driver has not accepted the feature it needs: see vm.guest.negotiate(features=)",
}


class Guest:
    """The driver in the guest, one step at a time.

    Every call raises GuestError if the guest is gone, hangs, or reports that the step failed; and UsageError if the
    machine is paused or closed, a step is under way, or it runs a kernel of your own. Times are in seconds.
    """

    def __init__(self, board: Board, irq: Irq, machine: object) -> None:
        self._board, self._irq = board, irq
        self._machine = machine  # a guest in use keeps its machine from being collected

    # -- the steps of the driver ---------------------------------------------------------------------------------------

    def negotiate(self, features: int = 0xFFFFFFFF, queues: int = 0, *, driver_ok: bool = False) -> Negotiated:
        """Find the device and bring it up as far as ACKNOWLEDGE|DRIVER: features, rings, interrupt vectors.

        `features` masks what the driver accepts; `queues` limits how many it sets up (0: all);
        with `driver_ok` it goes on to DRIVER_OK.
        """
        r = self._step(Command.NEGOTIATE, self._irq, features, queues, int(driver_ok))
        return Negotiated(r[0], r[1], r[2], r[3], Status(r[4]))

    def set_driver_ok(self) -> Status:
        """STATUS with DRIVER_OK: the notifiers start (R2). Returns STATUS as read back."""
        return Status(self._step(Command.DRIVER_OK, 1)[0])

    def clear_driver_ok(self) -> Status:
        """STATUS without it: the notifiers stop (R2)."""
        return Status(self._step(Command.DRIVER_OK, 0)[0])

    def set_status(self, status: int) -> Status:
        """Write STATUS as it is."""
        return Status(self._step(Command.SET_STATUS, status)[0])

    def reset_device(self) -> Status:
        """STATUS = 0, and the driver forgets its rings."""
        return Status(self._step(Command.RESET)[0])

    def bus_master(self, on: bool) -> int:
        """Set or clear bus-master in PCI COMMAND (R8). Returns COMMAND as read back."""
        return self._step(Command.BUS_MASTER, int(on))[0]

    def add(
        self,
        type: int = BlkType.IN,
        sector: int = 0,
        bytes: int = abi.SECTOR_BYTES,
        queue: int = 0,
        *,
        indirect: bool = False,
    ) -> Added:
        """Fill descriptors for a disk's request of `bytes` bytes, without telling the device.

        What a write shall write is put at `buffer_gpa` with `vm.memory.write` before it is published.
        `indirect`: in a table of their own, to which the head leads; GuestError if INDIRECT_DESC was not accepted.
        """
        r = self._step(Command.ADD, queue, type, sector, bytes, int(indirect))
        return Added(r[0], r[1], r[2])

    def add_buffers(self, queue: int = 0, send_bytes: int = 0, receive_bytes: int = 0) -> Added:
        """Fill descriptors for plain buffers, without telling the device: it reads the first and writes the second.

        The second follows the first in guest memory, 64 KiB hold both; one of 0 bytes is left out, but not both.
        """
        return Added(*self._step(Command.ADD_BUFFERS, queue, send_bytes, receive_bytes)[:3])

    def publish(self, queue: int = 0) -> bool:
        """Move avail.idx past what was added. True if the device wants a kick."""
        return bool(self._step(Command.PUBLISH, queue)[2])

    def kick(self, queue: int = 0, times: int = 1) -> None:
        """Write the queue's index to QUEUE_NOTIFY, 2 bytes, `times` times. Whether the device wants it is not asked."""
        self._step(Command.KICK, queue, times)

    def wait(self, queue: int = 0, completions: int = 1, timeout_s: float = TIMEOUT_S) -> Completion:
        """Wait in the guest for that many used entries. GuestError if they do not come in time."""
        r = self._step(Command.WAIT, queue, completions, self._ticks(timeout_s), timeout_s=timeout_s)
        return Completion(*r[:6])

    # -- whole requests ------------------------------------------------------------------------------------------------

    def read(self, sector: int, count: int = 1, timeout_s: float = TIMEOUT_S) -> bytes:
        """`count` sectors of 512 bytes from `sector`, through ring, kick and interrupt.

        Brings the driver up if it is not. `timeout_s` is for each request of up to 128 sectors. GuestError(IOERR): the
        disk ends before.
        """
        data = b""
        while len(data) < count * abi.SECTOR_BYTES:
            part = min(count - len(data) // abi.SECTOR_BYTES, SECTORS_PER_REQUEST) * abi.SECTOR_BYTES
            self._request(BlkType.IN, sector + len(data) // abi.SECTOR_BYTES, part, timeout_s)
            data += self._board.memory.read(abi.GPA_BUFFERS, part)
        return data

    def write(self, sector: int, data: bytes, timeout_s: float = TIMEOUT_S) -> None:
        """Write whole sectors of 512 bytes. GuestError(IOERR) if the disk is read-only or ends before."""
        if not data or len(data) % abi.SECTOR_BYTES:
            raise UsageError(f"{len(data)} bytes are not a whole number of {abi.SECTOR_BYTES}-byte sectors")
        for at in range(0, len(data), abi.BUFFER_STRIDE):
            part = data[at : at + abi.BUFFER_STRIDE]
            self._request(BlkType.OUT, sector + at // abi.SECTOR_BYTES, len(part), timeout_s, part)

    def flush(self, timeout_s: float = TIMEOUT_S) -> None:
        """A FLUSH request: what was written is on the disk when it returns."""
        self._request(BlkType.FLUSH, 0, 0, timeout_s)

    def get_id(self, timeout_s: float = TIMEOUT_S) -> str:
        """A GET_ID request: the name of the disk."""
        self._request(BlkType.GET_ID, 0, abi.BLK_ID_BYTES, timeout_s)
        return self._board.memory.read(abi.GPA_BUFFERS, abi.BLK_ID_BYTES).rstrip(b"\0").decode(errors="replace")

    def exchange(self, data: bytes = b"", receive: int = 0, queue: int = 0, timeout_s: float = TIMEOUT_S) -> bytes:
        """Send `data` to a device that is no disk, and take its answer of at most `receive` bytes: one whole chain.

        Brings the driver up if it is not. What was added before and not waited for may come back first: it is reaped
        and not reported. UsageError: nothing to send and nothing to receive, or more than 64 KiB.
        """
        if not 0 < len(data) + receive <= abi.BUFFER_STRIDE or receive < 0:
            raise UsageError(f"{len(data)} bytes to send and {receive} to receive: 1 to {abi.BUFFER_STRIDE} together")
        added = Added(*self._when_up(lambda: self._step(Command.ADD_BUFFERS, queue, len(data), receive))[:3])
        self._board.memory.write(added.buffer_gpa, data)
        if self.publish(queue):
            self.kick(queue)
        written = self._wait_for(added, queue, timeout_s)
        return self._board.memory.read(added.buffer_gpa + len(data), min(written, receive))

    def _wait_for(self, added: Added, queue: int, timeout_s: float) -> int:
        """used.len of that chain. Waits in short steps: a device of the user's own that failed is told of at once."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._check_model()
            left_s = max(deadline - time.monotonic(), TICK_S)
            try:
                done = self.wait(queue, timeout_s=min(left_s, LOOK_S))
            except StepFailed as error:
                if error.status is not AgentStatus.TIMEOUT or left_s <= LOOK_S:
                    raise
            else:
                if done.slot == added.slot:
                    return done.used_len

    def _request(self, type: BlkType, sector: int, size: int, timeout_s: float, data: bytes = b"") -> None:
        self._board.memory.write(abi.GPA_BUFFERS, data)
        arguments = (0, type, sector, size, self._ticks(timeout_s))
        r = self._when_up(lambda: self._step(Command.REQUEST, *arguments, timeout_s=timeout_s))
        if r[0] != BlkStatus.OK:
            said = BlkStatus(r[0]).name if r[0] in set(BlkStatus) else hex(r[0])
            raise GuestError(f"{type.name} of {size} bytes at sector {sector}: the device answered {said}")

    def _when_up(self, step: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        """Do a step; a driver that was not brought up since the last reset is brought up first."""
        try:
            return step()
        except StepFailed as error:
            if error.status is not AgentStatus.NO_DEVICE:
                raise
            self.negotiate(driver_ok=True)
            return step()

    # -- load ----------------------------------------------------------------------------------------------------------

    def storm(
        self,
        requests: int = 1000,
        depth: int = 8,
        *,
        write: bool = False,
        bytes: int = abi.SECTOR_BYTES,
        vcpus: int | None = None,
        think_ns: int = 0,
        timeout_s: float = 60.0,
    ) -> Storm:
        """`requests` reads or writes on queue 0, `depth` in flight, shared by `vcpus` (None: all) under one lock.

        A vCPU adds, kicks and reaps with the lock held; then it works `think_ns` (up to 1 s) on each completion it
        reaped, without the lock.
        """
        taking_part = vcpus or len(self._board.cpu.vcpus)
        if not 1 <= taking_part <= len(self._board.cpu.vcpus):
            raise UsageError(f"storm on {taking_part} vCPUs: the machine has {len(self._board.cpu.vcpus)}")
        if not 0 <= think_ns <= THINK_MAX_NS:
            raise UsageError(f"think_ns={think_ns!r}: 0 to {THINK_MAX_NS}")
        sectors = getattr(self._board.device.blk, "sectors", 0)
        type = BlkType.OUT if write else BlkType.IN
        who = taking_part | think_ns * self._board.cpu.tsc_khz // 1_000_000 << abi.NUMBERS["STORM_THINK"]
        arguments = (0, requests, depth, type, bytes, who, self._ticks(timeout_s), sectors)

        def run() -> tuple[int, ...]:
            self._check_usable()  # once: all take part or none
            with self._board.cpu.held():
                for index in range(1, taking_part):
                    self._post(Command.STORM, arguments, index)
                self._post(Command.STORM, arguments, 0)
            for index in range(taking_part):  # all of them are back before anyone's failure is told
                self._wait_parked(Command.STORM.name, index, timeout_s + GRACE_S)
            results = [self._result(Command.STORM, index, timeout_s, arguments) for index in range(taking_part)]
            return (*results[0][:5], *(ticks for result in results for ticks in result[5:8]))

        ticks, done, errors, kicks, interrupts, *spent = self._when_up(run)
        seconds = ticks / (self._board.cpu.tsc_khz * 1000)
        totals = (sum(spent[i::3]) for i in range(3))
        kick, lock, _ = _share(*totals)
        shares = tuple(_share(*spent[at : at + 3]) for at in range(0, len(spent), 3))
        head = (done, errors, depth, taking_part, self._board.cpu.name, seconds)
        return Storm(*head, kicks, interrupts, kick, lock, think_ns, shares)

    def kick_loop(self, batches: int, kicks: int, port: int, width: int = 2, value: int = 0) -> list[float]:
        """Write `value` to `port` `kicks` times, `batches` times over. Nanoseconds a write, one figure a batch."""
        if not 1 <= batches <= abi.MB_SAMPLES_MAX:
            raise UsageError(f"{batches} batches: 1 to {abi.MB_SAMPLES_MAX}")
        self._step(Command.KICK_LOOP, port, width, value, batches, kicks, timeout_s=60.0)
        return self.samples_ns(batches, kicks)

    def samples_ns(self, batches: int, kicks: int) -> list[float]:
        """The samples the last kick loop left in the mailbox, in nanoseconds a kick."""
        raw = self._board.memory.read(abi.GPA_MAILBOX + abi.MB_SAMPLES, 8 * batches)
        return [ticks * 1e6 / self._board.cpu.tsc_khz / kicks for (ticks,) in struct.iter_unpack("<Q", raw)]

    # -- raw accesses, for the curious and for tests -------------------------------------------------------------------

    def port_in(self, port: int, width: int) -> int:
        """`in`: 1, 2 or 4 bytes."""
        return self._step(Command.PORT_IN, port, width)[0]

    def port_out(self, port: int, width: int, value: int) -> None:
        """`out`: 1, 2 or 4 bytes."""
        self._step(Command.PORT_OUT, port, width, value)

    def pci_read(self, offset: int, width: int) -> int:
        """The device's config space."""
        return self._step(Command.PCI_READ, offset, width)[0]

    def pci_write(self, offset: int, width: int, value: int) -> None:
        """The device's config space."""
        self._step(Command.PCI_WRITE, offset, width, value)

    def load(self, gpa: int, width: int) -> int:
        """A memory read by the guest: RAM or MMIO."""
        return self._step(Command.LOAD, gpa, width)[0]

    def store(self, gpa: int, width: int, value: int) -> None:
        """A memory write by the guest."""
        self._step(Command.STORE, gpa, width, value)

    def fault(self, fault: Fault, timeout_s: float = 1.0) -> None:
        """Break the guest on purpose; GuestError says how it looks from outside."""
        self._step(Command.FAULT, fault, timeout_s=timeout_s)

    # -- one step: mailbox, command, park ------------------------------------------------------------------------------

    def _ticks(self, seconds: float) -> int:
        """Seconds as the guest's TSC counts them."""
        return int(seconds * self._board.cpu.tsc_khz * 1000)

    def parked(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until every vCPU is parked: the guest has booted."""
        for index in range(len(self._board.cpu.vcpus)):
            self._wait_parked("boot", index, timeout_s)

    def _step(self, command: Command, *arguments: int, timeout_s: float = TIMEOUT_S) -> tuple[int, ...]:
        self._check_usable()
        self._post(command, arguments, 0)
        return self._result(command, 0, timeout_s, arguments)

    def _post(self, command: Command, arguments: tuple[int, ...], index: int) -> None:
        board = self._board
        padded = [argument & 0xFFFFFFFFFFFFFFFF for argument in arguments] + [0] * (abi.MB_SLOTS - len(arguments))
        vcpu = board.cpu.vcpus[index].native
        with board.visitors:
            if lib.lk_step_busy(vcpu):
                raise UsageError("the guest is still at its last step: wait for it, or vm.reset()")
            board.memory.write(_mailbox(index) + abi.MB_ARGS, SLOTS.pack(*padded))
            board.feed.emit(Kind.STEP, -1, command, index, *padded[:2])
            lib.lk_step_post(vcpu, command)

    def _result(
        self, command: Command, index: int, timeout_s: float, arguments: tuple[int, ...] = ()
    ) -> tuple[int, ...]:
        self._wait_parked(command.name, index, timeout_s + GRACE_S)
        memory = self._board.memory
        with self._board.visitors:
            status = int.from_bytes(memory.read(_mailbox(index) + abi.MB_STATUS, 8), "little")
            results: tuple[int, ...] = SLOTS.unpack(memory.read(_mailbox(index) + abi.MB_RESULTS, SLOTS.size))
            self._board.feed.emit(Kind.STEP_DONE, -1, command, index, status, results[0], *arguments[:1])
        if status == AgentStatus.TIMEOUT:
            self._check_model()
        if status != AgentStatus.OK:
            said = AgentStatus(status) if status in set(AgentStatus) else None
            raise StepFailed(command, said, self._board.gates.told if said is AgentStatus.TIMEOUT else "")
        return results

    def _wait_parked(self, what: str, index: int, timeout_s: float) -> None:
        """In slices, so that an interrupt of the cell gets through; the guest stays at its step then."""
        vcpu = self._board.cpu.vcpus[index].native
        deadline = time.monotonic() + timeout_s
        while (idle := self._idle(vcpu)) != 1:
            if idle < 0 or self._board.crash is not None:
                raise self._crash()
            if (held := self._board.gates.held(Actor.VCPU0 + index)) is not None:
                raise UsageError(f"{what}: {held}, and is done when that goes on: {LET_GO.format(held.actor)}")
            if time.monotonic() > deadline:
                self._check_model()
                if inside := self._board.plan.model.inside:
                    raise UsageError(f"{what}: {inside} has not returned, and nothing else is served while it runs")
                raise GuestError(f"{what}: vCPU {index} did not come back within {timeout_s:g} s; {self._where(index)}")

    def _idle(self, vcpu: Any) -> int:
        """1: parked, 0: not yet, less: gone. UsageError: the machine was closed meanwhile."""
        with self._board.visitors:
            return int(lib.lk_step_wait(vcpu, SLICE_MS))

    def _where(self, index: int) -> str:
        """Where the guest is, by stopping it for a moment; or who is held, and so perhaps holds it up."""
        board = self._board
        if told := board.gates.told:
            return told.removeprefix("; ")
        rip = board.owner.call(lambda: board.look_at(index))["rip"]
        return f"it is at rip={rip:#x}; vm.reset() starts it again"

    def _check_usable(self) -> None:
        board = self._board
        if not board.plan.image.lab:
            raise UsageError("this machine runs a kernel of your own: it has no agent to do steps")
        if board.crash is not None:
            raise self._crash()
        if not board.runstate.running:
            raise UsageError(f"the machine is {board.runstate.state.name.lower()}: no guest step can be done")

    def _check_model(self) -> None:
        """A device that its own code broke answers nothing more: say where that failed, not that time is over."""
        model = self._board.plan.model
        if model.error is not None and self._board.device.broken:
            raise UsageError(f"{model.failure}; the device is broken until a reset: vm.reset()") from model.error

    def _crash(self) -> Exception:
        board = self._board
        board.owner.call(lambda: None)  # the machine's state tells of it by now
        if board.crash is not None:
            return GuestError(f"{board.crash}; vm.reset() starts it again")
        if board.runstate.state is State.MIGRATED:
            return UsageError("the machine has moved away, and the step goes on there")
        return GuestError(f"the guest ended with exit code {board.exit_code}; vm.reset() starts it again")


class StepFailed(GuestError):
    """The agent did the step and reports that it failed; `status` says how."""

    def __init__(self, command: Command, status: AgentStatus | None, why: str = "") -> None:
        self.command, self.status = command, status
        said = WHAT_TO_DO.get(status, "it answered nonsense") if status is not None else "it answered nonsense"
        super().__init__(f"{command.name}: {status.name if status is not None else '?'}: {said}{why}")


def _share(kick_ticks: int, lock_ticks: int, all_ticks: int) -> Share:
    whole = max(1, all_ticks)
    return Share(kick_ticks / whole, lock_ticks / whole, (whole - kick_ticks - lock_ticks) / whole)


def _mailbox(index: int) -> int:
    return abi.GPA_MAILBOX + index * abi.MAILBOX_STRIDE
