"""Do the notifiers tell the truth, whatever a guest writes and whenever the host pauses or resets? On a real machine.

Hypothesis chooses the writes; a mirror around the back end's assign and deassign knows what is registered in KVM. In
make test the examples are the same on every run; make fuzz tries others, and a failure prints how to replay it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fuzzing import FULL, much, report
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from recordings import RINGS, recorded, wrong

import labkit
from labkit import HostError, LabkitError, UsageError
from labkit.abi import GPA_MSIX_BAR, NUMBERS, QUEUE_NOTIFY_WIDTH, SECTOR_BYTES, Register, Status
from labkit.trace.events import Owner
from labkit.virtio.notifier import REVISIONS

GPA_RINGS = NUMBERS["GPA_RINGS"]
CONFIG_BAR0, CONFIG_COMMAND, CONFIG_MSIX = NUMBERS["PCI_BAR0"], NUMBERS["PCI_COMMAND"], NUMBERS["MSIX_CAP_OFFSET"] + 2
FIRST_SECTOR = b"first sector of a disk that nobody writes".ljust(SECTOR_BYTES, b".")
NULL_QUEUES = 3
DISK_SECTORS = 64
BAR0_PLACES = (0xC000, 0xC000, 0xD000, 0xE000, 0xC040, 0xFFC0, 0x580, 0xC0, 0, 0x10000, 0xFFFFFFFF)

settings_here = settings(
    max_examples=much(50, 1500),
    stateful_step_count=much(40, 60),
    derandomize=not FULL,
    print_blob=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

widths = st.sampled_from([1, 2, 4])
values = st.one_of(
    st.integers(0, 15), st.integers(0, 31).map(lambda bit: 1 << bit), st.just(0xFFFFFFFF), st.integers(0, 0xFFFFFFFF)
)
statuses = st.one_of(st.sampled_from([0, 1, 3, 3, 7, 7, 7, 0x83, 0x87]), st.integers(0, 255))
frames = st.one_of(st.just(0), st.just(GPA_RINGS >> 12), st.integers(0, 0x1100), values)


Registration = tuple[int, int, int, int]  # port, length, value, fd


class Mirror:
    """What is registered in KVM, by what KVM answered; it stands before and behind the faults on demand.

    A deassign that is refused, by KVM or by a fault, leaves what the fd was assigned as: it is stale, unless a notifier
    goes on with it, as a backend's does when BAR0 moves.
    """

    def __init__(self, vm: Any) -> None:
        self.registered: dict[Registration, int] = {}  # with a duplicate of the fd, for an end that labkit cannot make
        self.stale: set[Registration] = set()
        self.tuples: set[tuple[int, int, int]] = set()  # all that KVM was ever asked for
        self.refused: set[tuple[str, int]] = set()  # calls and errnos, of the device that is plugged in
        cpu = vm._board.cpu
        self.assign, self.deassign = cpu.assign, cpu.deassign
        cpu.assign, cpu.deassign = self._assign, self._deassign
        self.stand_before(vm.fault)

    def stand_before(self, faults: Any) -> None:
        """A device was plugged in: its faults are new."""
        self.refused.clear()
        for name in ("eventfd", "assign", "deassign"):
            setattr(faults, name, partial(self._refusal, getattr(faults, name)))

    def _refusal(self, call: Callable[..., Any], *arguments: int) -> Any:
        try:
            return call(*arguments)
        except HostError as error:
            self.refused.add((error.call, error.errno))
            if call.__name__ == "deassign":
                self.stale |= {known for known in self.registered if known[3] == arguments[3]}
            raise

    def _assign(self, *kick: int) -> None:
        self.tuples.add(kick[:3])  # type: ignore[arg-type]
        self.assign(*kick)
        assert not any(known[:3] == kick[:3] for known in self.registered)
        self.registered[kick] = os.dup(kick[3])  # type: ignore[index]

    def _deassign(self, *kick: int) -> None:
        self.deassign(*kick)
        self.stale.discard(kick)  # type: ignore[arg-type]
        os.close(self.registered.pop(kick))  # type: ignore[call-overload]

    def agrees_with_kvm(self) -> None:
        """Every tuple that was ever tried is taken in KVM or free in KVM, as the mirror says."""
        spare = os.eventfd(0, os.EFD_CLOEXEC)
        for kick in self.tuples:
            try:
                self.assign(*kick, spare)
                taken = False
                self.deassign(*kick, spare)
            except HostError as error:
                taken = error.errno == errno.EEXIST
            assert taken == any(known[:3] == kick for known in self.registered), f"{kick} in KVM"
        os.close(spare)

    def forget_stale(self) -> None:
        """Take out of KVM what stayed there: it would swallow the kicks."""
        for port, length, value, fd in self.stale:
            duplicate = self.registered.pop((port, length, value, fd))
            self.deassign(port, length, value, duplicate)
            os.close(duplicate)
        self.stale.clear()

    def close(self) -> None:
        """The duplicates."""
        while self.registered:
            os.close(self.registered.popitem()[1])


class UnderFire(RuleBasedStateMachine):
    """A guest that writes anything, and a host that pauses, resumes and resets."""

    def __init__(self, revision: str, disk: Path) -> None:
        super().__init__()
        self.revision, self.disk, self.vm = revision, disk, None

    @initialize(
        device=st.sampled_from(["blk", "null"]),
        ioeventfd=st.sampled_from([True, True, False]),
        writable=st.booleans(),
        lent=st.sampled_from([False, False, True]),
    )
    def boot(self, device: str, ioeventfd: bool, writable: bool, lent: bool) -> None:
        """A machine whose driver is up, on a disk that can be resized, or cannot even be written."""
        self.files = open_files()
        self.disk.write_bytes(FIRST_SECTOR * DISK_SECTORS)
        self.writable = writable
        own: dict[str, Any] = {"disk": self.disk, "writable": writable} if device == "blk" else {"queues": NULL_QUEUES}
        self.vm: Any = labkit.boot(
            device, ioeventfd=ioeventfd, revision=self.revision, irq="poll", bring_up=False, **own
        )
        self.device = device
        self.mirror = Mirror(self.vm)
        self.raised: set[tuple[str, int]] = set()  # refusals that the caller was told of
        self.vm.guest.negotiate(driver_ok=True)
        if lent:
            self.vm.hand_over()

    def guest(self, step: Callable[[Any], object]) -> None:
        """A step of the guest; one that it cannot do any more ends in a reset."""
        try:
            step(self.vm.guest)
        except LabkitError:
            assert not isinstance(self.vm.crash, HostError), f"labkit itself failed: {self.vm.crash}"
            self.vm.reset()

    def alive(self) -> bool:
        """Is there a device?"""
        return self.vm is not None and bool(self.vm._board.plugged)

    def running(self) -> bool:
        """Can the guest do a step?"""
        return self.vm is not None and self.vm.state == "running"

    # -- the guest -----------------------------------------------------------------------------------------------------

    @precondition(running)
    @rule(offset=st.integers(0, 63), width=widths, value=values)
    def write_register(self, offset: int, width: int, value: int) -> None:
        """Any register, the device's config and past it."""
        self.guest(lambda guest: guest.port_out(self.vm.proxy.notify_base + offset, width, value))

    @precondition(running)
    @rule(offset=st.integers(0, 63), width=widths)
    def read_register(self, offset: int, width: int) -> None:
        """Any register; ISR is cleared by it."""
        self.guest(lambda guest: guest.port_in(self.vm.proxy.notify_base + offset, width))

    @precondition(running)
    @rule(status=statuses, width=widths)
    def write_status(self, status: int, width: int) -> None:
        """STATUS: most of what the rules are about."""
        self.guest(lambda guest: guest.port_out(self.vm.proxy.notify_base + Register.STATUS, width, status))

    @precondition(running)
    @rule(queue=st.integers(0, 70), frame=frames)
    def move_ring(self, queue: int, frame: int) -> None:
        """QUEUE_SEL and QUEUE_PFN; 0 resets the device."""
        self.guest(lambda guest: guest.port_out(self.vm.proxy.notify_base + Register.QUEUE_SEL, 2, queue))
        self.guest(lambda guest: guest.port_out(self.vm.proxy.notify_base + Register.QUEUE_PFN, 4, frame))

    @precondition(running)
    @rule(command=st.one_of(st.integers(0, 7), values))
    def write_command(self, command: int) -> None:
        """PCI COMMAND: decoding and bus-master."""
        self.guest(lambda guest: guest.pci_write(CONFIG_COMMAND, 2, command & 0xFFFF))

    @precondition(running)
    @rule(on=st.booleans(), master=st.sampled_from([4, 4, 0]))
    def decode(self, on: bool, master: int) -> None:
        """The I/O bit of COMMAND: BAR0 answers, or nobody does (R16)."""
        self.guest(lambda guest: guest.pci_write(CONFIG_COMMAND, 2, 2 | master | on))

    @precondition(running)
    @rule(place=st.one_of(st.sampled_from(BAR0_PLACES), values))
    def move_bar0(self, place: int) -> None:
        """The registers, and the port of a kick, somewhere else."""
        self.guest(lambda guest: guest.pci_write(CONFIG_BAR0, 4, place))

    @precondition(running)
    @rule(offset=st.integers(0, 63), width=widths, value=values)
    def write_config(self, offset: int, width: int, value: int) -> None:
        """Any part of config space, at its natural alignment."""
        self.guest(lambda guest: guest.pci_write(4 * offset, width, value & ((1 << 8 * width) - 1)))

    @precondition(running)
    @rule(
        control=st.sampled_from([0, 0x8000, 0xC000, 0x4000]),
        at=st.integers(0, 16),
        width=st.sampled_from([1, 2, 4, 8]),
        value=values,
    )
    def write_msix(self, control: int, at: int, width: int, value: int) -> None:
        """MSI-X on, off, masked; and the table."""
        self.guest(lambda guest: guest.pci_write(CONFIG_MSIX, 2, control))
        self.guest(lambda guest: guest.store(GPA_MSIX_BAR + 4 * at, width, value))

    @precondition(running)
    @rule(value=st.one_of(st.integers(0, 3), values), width=st.sampled_from([2, 2, 1, 4]), times=st.integers(1, 3))
    def kick(self, value: int, width: int, times: int) -> None:
        """QUEUE_NOTIFY where the guest last mapped it."""
        for _ in range(times):
            self.guest(lambda guest: guest.port_out(self.vm.proxy.notify_base + Register.QUEUE_NOTIFY, width, value))

    @precondition(running)
    @rule(offset=st.integers(0, 0x3000), value=values)
    def write_ring(self, offset: int, value: int) -> None:
        """The ring's memory."""
        self.guest(lambda guest: guest.store(GPA_RINGS + offset, 4, value))

    @precondition(running)
    @rule(driver_ok=st.booleans())
    def negotiate(self, driver_ok: bool) -> None:
        """A driver that does it right, from the beginning."""
        self.guest(lambda guest: guest.negotiate(driver_ok=driver_ok))

    # -- the host ------------------------------------------------------------------------------------------------------

    @precondition(running)
    @rule()
    def pause(self) -> None:
        """R10."""
        self.vm.pause()

    @precondition(lambda self: self.vm is not None and not self.running())
    @rule()
    def resume(self) -> None:
        """R10."""
        self.vm.resume()

    @rule()
    def reset(self) -> None:
        """R7, running or paused."""
        self.vm.reset()

    def host(self, command: Callable[[], None]) -> None:
        """A command that KVM or a fault may refuse; then the caller is told, and this remembers it."""
        try:
            command()
        except HostError as error:
            assert not isinstance(self.vm.crash, HostError), f"labkit itself failed: {self.vm.crash}"
            self.raised.add((error.call, error.errno))

    @precondition(lambda self: self.alive())
    @rule(queues=st.one_of(st.none(), st.sets(st.integers(0, NULL_QUEUES - 1), min_size=1)))
    def hand_over(self, queues: set[int] | None) -> None:
        """R9: some queues, or all."""
        known = {queue.index for queue in self.vm.proxy.queues}
        if queues is None or queues <= known:
            self.host(lambda: self.vm.hand_over(None if queues is None else sorted(queues)))

    @precondition(lambda self: self.alive() and self.running())
    @rule(lent=st.sampled_from([False, False, False, True]))
    def bring_up(self, lent: bool) -> None:
        """A driver that does it right, and a backend that comes then, or none (R9)."""
        self.host(self.vm.take_back)
        self.guest(lambda guest: guest.negotiate(driver_ok=True))
        if lent:
            self.host(self.vm.hand_over)

    @precondition(lambda self: self.alive())
    @rule()
    def take_back(self) -> None:
        """R9."""
        self.host(self.vm.take_back)
        assert self.vm.backend.has == []

    @precondition(lambda self: self.alive())
    @rule(for_long=st.sampled_from([False, False, True]))
    def unplug(self, for_long: bool) -> None:
        """R11, in the middle of anything; mostly something is plugged in at once, and a driver comes up."""
        self.vm.unplug()
        if for_long:
            return
        self.plug()
        if self.running():
            self.guest(lambda guest: guest.negotiate(driver_ok=True))

    @precondition(lambda self: self.vm is not None and not self.vm._board.plugged)
    @rule()
    def plug(self) -> None:
        """The same device, with faults and errors of its own."""
        self.vm.plug()
        self.mirror.stand_before(self.vm.fault)
        self.raised.clear()

    @precondition(lambda self: self.alive())
    @rule(sectors=st.integers(1, 2 * DISK_SECTORS))
    def resize_disk(self, sectors: int) -> None:
        """A disk that is writable; the others refuse."""
        if self.device == "blk" and self.writable:
            self.vm.resize_disk(sectors * SECTOR_BYTES)
        else:
            with pytest.raises(UsageError):
                self.vm.resize_disk(sectors * SECTOR_BYTES)

    @rule(
        call=st.sampled_from(["assign", "deassign", "eventfd"]),
        queue=st.one_of(st.none(), st.integers(0, NULL_QUEUES)),
        error=st.sampled_from(["ENOSPC", "EEXIST", "ENOENT", "EMFILE"]),
        times=st.sampled_from([1, 1, 2, None]),
    )
    def fault(self, call: str, queue: int | None, error: str, times: int | None) -> None:
        """R4 and R15 on demand."""
        getattr(self.vm.fault, f"fail_{call}")(queue, error, times)

    @rule()
    def no_faults(self) -> None:
        """All is well again."""
        self.vm.fault.clear()

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def the_notifiers_tell_what_kvm_knows(self) -> None:
        """Each queue with an owner is registered as it says; what else is registered, KVM refused to give back."""
        if self.vm is None:
            return
        with self.vm._board.locked():
            notifiers = [queue.notifier for queue in self.vm.proxy.queues]
            owned = [n for n in notifiers if n.owner != "none" and n.port is not None]  # none without decoding (R16)
            said = {(n.port, QUEUE_NOTIFY_WIDTH, n.value, n.fd) for n in owned}
            registered = set(self.mirror.registered)
            assert said <= registered and registered - said <= self.mirror.stale
            assert all((n.port, n.fd) == (None, None) for n in notifiers if n.owner == "none")
            kept = self.vm.proxy.notifiers.errors + self.vm.backend.errors
            assert {(error.call, error.errno) for error in kept} | self.raised == self.mirror.refused, "none is lost"

    @invariant()
    def started_means_that_the_vmm_owns_every_queue(self) -> None:
        """And not started, that it owns none; a backend owns what it has, while it may. Paused, nobody owns any."""
        if self.vm is None:
            return
        with self.vm._board.locked():
            proxy = self.vm.proxy
            has, works = self.vm.backend.has, self.running() and proxy.notifiers.live and not proxy.device.disabled
            owners = {queue.index: proxy.notifiers.owners[queue.index] for queue in proxy.queues}
            others = Owner.VMM if proxy.ioeventfd_started else Owner.NONE
            assert owners == dict.fromkeys(owners, others) | dict.fromkeys(has, Owner.BACKEND)
            assert all(bool(proxy.device.vq[queue].lent) == (queue in has) for queue in owners)
            assert set(has) <= set(self.vm.backend.wants) and (works or not has)
            assert not (has and proxy.ioeventfd_started), "a backend stops them all"
            assert self.running() or not proxy.ioeventfd_started
            assert self.alive() or not (has or proxy.ioeventfd_started)
            assert proxy.ioeventfd_started <= proxy.notifiers.ioeventfd

    @invariant()
    def the_disk_has_one_size(self) -> None:
        """File, image and core agree."""
        if self.vm is None or self.device != "blk":
            return
        sectors = self.vm.proxy.device.blk.sectors
        assert sectors * SECTOR_BYTES == self.disk.stat().st_size == self.vm.proxy.model.image.sectors * SECTOR_BYTES

    @invariant()
    def the_events_tell_the_state(self) -> None:
        """What a recording makes of the events is what the machine shows; the guest writes its rings as it likes."""
        if self.vm is not None:
            running = ("pending",) if self.running() else ()  # a kick on its way is known when it is taken
            assert wrong(recorded(self.vm), RINGS + running) == {}

    @invariant()
    def the_machine_is_whole(self) -> None:
        """No exception of labkit's own ended it."""
        assert self.vm is None or not isinstance(self.vm.crash, HostError), str(self.vm.crash)

    def teardown(self) -> None:
        """KVM agrees with the mirror; after a reset the device works as before; and nothing stays open."""
        if self.vm is None:
            return
        try:
            self.mirror.agrees_with_kvm()
            self.vm.fault.clear()
            if self.alive():
                self.vm.take_back()
            else:
                self.plug()
            self.vm.reset()
            self.mirror.forget_stale()
            if not self.running():
                self.vm.resume()
            self._works()
        finally:
            self.vm.close()
            self.mirror.close()
        assert open_files() == self.files

    def _works(self) -> None:
        vm = self.vm
        if self.device == "blk":
            assert vm.guest.read(0) == FIRST_SECTOR
        else:
            vm.guest.negotiate(driver_ok=True)
            before = [queue.notifier.trapped + queue.notifier.signalled for queue in vm.proxy.queues]
            for queue in range(NULL_QUEUES):
                vm.guest.kick(queue)
            vm.guest.set_status(Status.ACKNOWLEDGE)  # STOP: what is pending is counted
            after = [queue.notifier.trapped + queue.notifier.signalled for queue in vm.proxy.queues]
            assert after == [count + 1 for count in before]


def open_files() -> set[str]:
    """The fds of this process, without the listing's own."""
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


@pytest.mark.kvm
@pytest.mark.slow
@pytest.mark.timeout(much(600, 1800))
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("revision", REVISIONS)
def test_the_notifiers_tell_the_truth_whatever_happens(revision: str, tmp_path: Path) -> None:
    """Random writes, moves, pauses and resets: registrations, owners, fds and the disk are what they should be."""
    disk = tmp_path / "disk"
    run_state_machine_as_test(lambda: UnderFire(revision, disk), settings=settings_here)
    report(f"machine: {revision}: {settings_here.max_examples} lives of {settings_here.stateful_step_count} steps")
