"""Do the notifiers tell the truth, whatever a guest writes and whenever the host pauses or resets? On a real machine.

Hypothesis chooses the writes; a mirror around the back end's assign and deassign knows what is registered in KVM. In
make test the examples are the same on every run; make fuzz tries others, and a failure prints how to replay it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
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

import labkit
from labkit import HostError, LabkitError
from labkit.abi import GPA_MSIX_BAR, NUMBERS, QUEUE_NOTIFY_WIDTH, SECTOR_BYTES, Register, Status
from labkit.trace.events import Owner
from labkit.virtio.notifier import REVISIONS

GPA_RINGS = NUMBERS["GPA_RINGS"]
CONFIG_BAR0, CONFIG_COMMAND, CONFIG_MSIX = NUMBERS["PCI_BAR0"], NUMBERS["PCI_COMMAND"], NUMBERS["MSIX_CAP_OFFSET"] + 2
FIRST_SECTOR = b"first sector of a disk that nobody writes".ljust(SECTOR_BYTES, b".")
NULL_QUEUES = 3
BAR0_PLACES = (0xC000, 0xC000, 0xD000, 0xE000, 0xC040, 0xFFC0, 0x580, 0xC0, 0, 0x10000, 0xFFFFFFFF)

settings_here = settings(
    max_examples=much(30, 1500),
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


class Mirror:
    """What is registered in KVM, by what KVM answered; it stands between the rules and the back end."""

    def __init__(self, cpu: Any) -> None:
        self.registered: set[tuple[int, int, int, int]] = set()  # port, length, value, fd
        self.stale: set[int] = set()  # fds whose deassign was refused: what they were assigned as stays in KVM
        self.tuples: set[tuple[int, int, int]] = set()  # all that were ever tried
        self.refused = 0
        self.assign, self.deassign = cpu.assign, cpu.deassign
        cpu.assign, cpu.deassign = self._assign, self._deassign

    def _assign(self, port: int, length: int, value: int, fd: int) -> None:
        self._asked(self.assign, port, length, value, fd)
        assert not any(known[:3] == (port, length, value) for known in self.registered)
        self.registered.add((port, length, value, fd))

    def _deassign(self, port: int, length: int, value: int, fd: int) -> None:
        try:
            self._asked(self.deassign, port, length, value, fd)
        except HostError:
            self.stale.add(fd)
            raise
        self.registered.remove((port, length, value, fd))

    def _asked(self, call: Callable[..., None], *kick: int) -> None:
        self.tuples.add(kick[:3])
        try:
            call(*kick)
        except HostError:
            self.refused += 1
            raise

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
        """Take out of KVM what a move of BAR0 left at the old port, as v6 does: it would swallow the kicks there."""
        for known in [known for known in self.registered if known[3] in self.stale]:
            self.deassign(*known)
            self.registered.remove(known)


class UnderFire(RuleBasedStateMachine):
    """A guest that writes anything, and a host that pauses, resumes and resets."""

    def __init__(self, revision: str, disk: Path) -> None:
        super().__init__()
        self.revision, self.disk, self.vm = revision, disk, None

    @initialize(device=st.sampled_from(["blk", "null"]), ioeventfd=st.sampled_from([True, True, False]))
    def boot(self, device: str, ioeventfd: bool) -> None:
        """A machine whose driver is up, on a disk that cannot be written."""
        self.files = open_files()
        own: dict[str, Any] = {"disk": self.disk} if device == "blk" else {"queues": NULL_QUEUES}
        self.vm: Any = labkit.boot(
            device, ioeventfd=ioeventfd, revision=self.revision, irq="poll", bring_up=False, **own
        )
        self.device = device
        self.mirror = Mirror(self.vm._board.cpu)
        self.vm.guest.negotiate(driver_ok=True)

    def guest(self, step: Callable[[Any], object]) -> None:
        """A step of the guest; one that it cannot do any more ends in a reset."""
        try:
            step(self.vm.guest)
        except LabkitError:
            assert not isinstance(self.vm.crash, HostError), f"labkit itself failed: {self.vm.crash}"
            self.vm.reset()

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
            assert {known for known in self.mirror.registered if known[3] not in self.mirror.stale} == said
            assert all((n.port, n.fd) == (None, None) for n in notifiers if n.owner == "none")
            assert bool(self.vm.proxy.notifiers.errors) == bool(self.mirror.refused), "what KVM refused is kept"

    @invariant()
    def started_means_that_the_vmm_owns_every_queue(self) -> None:
        """And not started, that it owns none; a paused machine is not started."""
        if self.vm is None:
            return
        with self.vm._board.locked():
            proxy = self.vm.proxy
            owners = [proxy.notifiers.owners[queue.index] for queue in proxy.queues]
            assert set(owners) == {Owner.VMM if proxy.ioeventfd_started else Owner.NONE}
            assert self.running() or not proxy.ioeventfd_started
            assert proxy.ioeventfd_started <= proxy.notifiers.ioeventfd

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
            self.vm.reset()
            self.mirror.forget_stale()
            if not self.running():
                self.vm.resume()
            self._works()
        finally:
            self.vm.close()
        assert open_files() == self.files

    def _works(self) -> None:
        vm = self.vm
        if self.device == "blk":
            assert vm.guest.read(0, timeout_s=2) == FIRST_SECTOR
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
@pytest.mark.timeout(much(120, 1800))
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("revision", REVISIONS)
def test_the_notifiers_tell_the_truth_whatever_happens(revision: str, tmp_path: Path) -> None:
    """Random writes, moves, pauses and resets: registrations, owners, fds and the disk are what they should be."""
    disk = tmp_path / "disk"
    disk.write_bytes(FIRST_SECTOR * 64)
    run_state_machine_as_test(lambda: UnderFire(revision, disk), settings=settings_here)
    report(f"machine: {revision}: {settings_here.max_examples} lives of {settings_here.stateful_step_count} steps")
