"""What does KVM_IOEVENTFD itself promise? Each line of the checklist that no test of the kernel or of QEMU covers.

Assign, duplicate, wildcard collision, deassign twice, wrong fd, bad length, close while assigned, and what is left
after a failure at queue k. The rules are built on these answers: a kernel that gives others fails here first.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from labkit import HostError, Machine
from labkit.abi import QUEUE_NOTIFY_WIDTH, Register
from labkit.native import ffi, lib
from labkit.trace.events import Cause, Owner
from labkit.virtio.notifier import Flag, Situation

Boot = Callable[..., Machine]
PORT, VALUE = 0xC110, 7  # a port nobody uses
DATAMATCH, PIO, DEASSIGN = (getattr(lib, f"KVM_IOEVENTFD_FLAG_{name}") for name in ("DATAMATCH", "PIO", "DEASSIGN"))
MISSING_FD = 10**6


class Ioeventfds:
    """The raw ioctl of a machine's VM, with any flags: 0, or the errno."""

    def __init__(self, vm: Machine) -> None:
        self.vm = vm

    def __call__(
        self, fd: int, *, port: int = PORT, length: int = 2, value: int = VALUE, flags: int = DATAMATCH
    ) -> int:
        """KVM_IOEVENTFD on a port, or what stands for it."""
        cpu: Any = self.vm._board.cpu
        if cpu.name == "emulated":
            return -int(lib.lk_emulated_ioeventfd(cpu._native, port, length, value, fd, flags | PIO))
        fields = {"datamatch": value, "addr": port, "len": length, "fd": fd, "flags": flags | PIO}
        request: Any = ffi.new("struct kvm_ioeventfd *", fields)
        return -int(lib.lk_ioctl(cpu._fd, lib.KVM_IOEVENTFD, request))


@pytest.fixture
def ioeventfd(boot: Boot) -> Ioeventfds:
    """The ioctl of a machine whose rules use no ioeventfd, with a guest that can write ports."""
    return Ioeventfds(boot("null", ioeventfd=False, irq="poll"))


@pytest.fixture
def fd(leaves_nothing: None) -> Iterator[int]:  # noqa: ARG001 - closed before that one looks
    """An eventfd; the test may close it."""
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    close(fd)


@pytest.fixture
def other(leaves_nothing: None) -> Iterator[int]:  # noqa: ARG001 - closed before that one looks
    """A second eventfd."""
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    close(fd)


def close(fd: int) -> None:
    """Close it if it is open."""
    with contextlib.suppress(OSError):
        os.close(fd)


def count(fd: int) -> int:
    """What the eventfd holds; it is empty afterwards."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def said(result: int) -> str:
    """An errno by its name; "ok" for none."""
    return errno.errorcode[result] if result else "ok"


# -- assign and what it matches ---------------------------------------------------------------------------------------


def test_assign_and_deassign(ioeventfd: Ioeventfds, fd: int) -> None:
    """ioeventfd: assign: the exact write signals the eventfd and no longer leaves the guest; deassign undoes it."""
    guest, notifier = ioeventfd.vm.guest, ioeventfd.vm.proxy.queues[0].notifier
    port = ioeventfd.vm.proxy.notify_base + Register.QUEUE_NOTIFY
    assert ioeventfd(fd, port=port, value=0) == 0
    guest.kick(times=3)
    assert (count(fd), notifier.trapped) == (3, 0)
    assert ioeventfd(fd, port=port, value=0, flags=DATAMATCH | DEASSIGN) == 0
    guest.kick(times=2)
    assert (count(fd), notifier.trapped) == (0, 2)


@pytest.mark.parametrize(("port", "length", "value"), [(PORT, 2, VALUE + 1), (PORT, 1, VALUE), (PORT + 1, 2, VALUE)])
def test_another_write_does_not_signal(ioeventfd: Ioeventfds, fd: int, port: int, length: int, value: int) -> None:
    """ioeventfd: address, length and value are matched exactly."""
    assert ioeventfd(fd) == 0
    ioeventfd.vm.guest.port_out(port, length, value)
    assert count(fd) == 0
    ioeventfd.vm.guest.port_out(PORT, 2, VALUE)
    assert count(fd) == 1


def test_a_wildcard_takes_every_value(ioeventfd: Ioeventfds, fd: int) -> None:
    """ioeventfd: without DATAMATCH any value of that length signals."""
    assert ioeventfd(fd, flags=0) == 0
    for value in (0, VALUE, 0xFFFF):
        ioeventfd.vm.guest.port_out(PORT, 2, value)
    assert count(fd) == 3


def test_length_zero_takes_every_length(ioeventfd: Ioeventfds, fd: int) -> None:
    """ioeventfd: a wildcard of length 0 signals for writes of any length."""
    assert ioeventfd(fd, length=0, flags=0) == 0
    for width in (1, 2, 4):
        ioeventfd.vm.guest.port_out(PORT, width, VALUE)
    assert count(fd) == 3


# -- collisions -------------------------------------------------------------------------------------------------------


def test_a_duplicate_is_refused(ioeventfd: Ioeventfds, fd: int, other: int) -> None:
    """ioeventfd: duplicate: the same tuple again is EEXIST, whatever the eventfd; once deassigned it is free."""
    assert ioeventfd(fd) == 0
    assert [said(ioeventfd(each)) for each in (fd, other)] == ["EEXIST", "EEXIST"]
    assert ioeventfd(fd, flags=DATAMATCH | DEASSIGN) == 0
    assert ioeventfd(other) == 0


def test_a_wildcard_and_a_value_collide(ioeventfd: Ioeventfds, fd: int, other: int) -> None:
    """ioeventfd: wildcard collision: over a value, and a value over it: EEXIST, whichever was first."""
    for first, second in ((DATAMATCH, 0), (0, DATAMATCH)):
        assert ioeventfd(fd, flags=first) == 0
        assert said(ioeventfd(other, flags=second)) == "EEXIST"
        assert ioeventfd(fd, flags=first | DEASSIGN) == 0


def test_values_do_not_collide(ioeventfd: Ioeventfds, fd: int, other: int) -> None:
    """ioeventfd: another value at the same address is another tuple: one for each queue."""
    assert ioeventfd(fd) == 0
    assert ioeventfd(other, value=VALUE + 1) == 0
    ioeventfd.vm.guest.port_out(PORT, 2, VALUE + 1)
    assert (count(fd), count(other)) == (0, 1)


def test_another_length_at_the_same_address_is_allowed(ioeventfd: Ioeventfds, fd: int, other: int) -> None:
    """ioeventfd: the same address and value with another length does not collide, and each write finds its own."""
    assert ioeventfd(fd, length=2) == 0
    assert ioeventfd(other, length=4) == 0
    ioeventfd.vm.guest.port_out(PORT, 4, VALUE)
    assert (count(fd), count(other)) == (0, 1)


def test_length_zero_collides_with_every_length(ioeventfd: Ioeventfds, fd: int, other: int) -> None:
    """ioeventfd: length 0 stands for all lengths, so it is EEXIST where one is taken."""
    assert ioeventfd(fd, length=2) == 0
    assert said(ioeventfd(other, length=0, flags=0)) == "EEXIST"


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [3, 5, 6, 7, 9, 16])
@pytest.mark.parametrize("flags", [DATAMATCH, 0])
def test_a_bad_length_is_refused(ioeventfd: Ioeventfds, fd: int, length: int, flags: int) -> None:
    """ioeventfd: bad length: 3 and whatever else is not 0, 1, 2, 4 or 8 is EINVAL."""
    assert said(ioeventfd(fd, length=length, flags=flags)) == "EINVAL"


def test_length_zero_with_a_value_is_refused(ioeventfd: Ioeventfds, fd: int) -> None:
    """ioeventfd: length 0 with DATAMATCH: no length to compare the value in, EINVAL."""
    assert said(ioeventfd(fd, length=0)) == "EINVAL"


def test_a_closed_fd_is_refused(ioeventfd: Ioeventfds) -> None:
    """ioeventfd: closed fd: EBADF, on assign and on deassign."""
    assert said(ioeventfd(MISSING_FD)) == "EBADF"
    assert said(ioeventfd(MISSING_FD, flags=DATAMATCH | DEASSIGN)) == "EBADF"


def test_something_that_is_no_eventfd_is_refused(ioeventfd: Ioeventfds) -> None:
    """ioeventfd: not an eventfd: EINVAL."""
    with open("/dev/null") as null:
        assert said(ioeventfd(null.fileno())) == "EINVAL"


def test_unknown_flags_are_refused(ioeventfd: Ioeventfds, fd: int) -> None:
    """ioeventfd: a flag the kernel does not know: EINVAL, so a typo in a flag is noticed."""
    assert said(ioeventfd(fd, flags=DATAMATCH | 1 << 10)) == "EINVAL"


def test_an_address_that_wraps_is_refused(ioeventfd: Ioeventfds, fd: int) -> None:
    """ioeventfd: a range past the end of 64-bit addresses: EINVAL."""
    assert said(ioeventfd(fd, port=(1 << 64) - 1)) == "EINVAL"


def test_a_refused_assign_leaves_nothing(ioeventfd: Ioeventfds, fd: int) -> None:
    """ioeventfd: after refusals of every kind the tuple is free, and no fd was opened."""
    files = len(os.listdir("/proc/self/fd"))
    for wrong in ({"length": 3}, {"length": 0}, {"flags": DATAMATCH | 1 << 10}, {"port": (1 << 64) - 1}):
        assert ioeventfd(fd, **wrong) != 0
    assert len(os.listdir("/proc/self/fd")) == files
    assert ioeventfd(fd) == 0


# -- deassign ---------------------------------------------------------------------------------------------------------


def test_deassign_twice(ioeventfd: Ioeventfds, fd: int) -> None:
    """ioeventfd: deassign twice: the second is ENOENT."""
    assert ioeventfd(fd) == 0
    assert ioeventfd(fd, flags=DATAMATCH | DEASSIGN) == 0
    assert said(ioeventfd(fd, flags=DATAMATCH | DEASSIGN)) == "ENOENT"


def test_deassign_names_the_whole_tuple(ioeventfd: Ioeventfds, fd: int, other: int) -> None:
    """ioeventfd: wrong fd, value, length or port, or a wildcard for a value: ENOENT; the right one stays assigned."""
    assert ioeventfd(fd) == 0
    wrong: list[dict[str, int]] = [{"value": VALUE + 1}, {"length": 4}, {"port": PORT + 1}]
    answers = [said(ioeventfd(fd, flags=DATAMATCH | DEASSIGN, **fields)) for fields in wrong]
    answers.append(said(ioeventfd(other, flags=DATAMATCH | DEASSIGN)))
    answers.append(said(ioeventfd(fd, flags=DEASSIGN)))
    assert answers == ["ENOENT"] * 5
    ioeventfd.vm.guest.port_out(PORT, 2, VALUE)
    assert count(fd) == 1


def test_another_fd_of_the_same_eventfd_will_do(ioeventfd: Ioeventfds, fd: int) -> None:
    """ioeventfd: what is compared is the eventfd, not its number: a dup deassigns it."""
    again = os.dup(fd)
    assert ioeventfd(fd) == 0
    assert ioeventfd(again, flags=DATAMATCH | DEASSIGN) == 0
    os.close(again)


def test_close_while_assigned_swallows_the_kicks(ioeventfd: Ioeventfds, fd: int, other: int) -> None:
    """ioeventfd: close while assigned: KVM keeps its own reference, kicks go nowhere, and there is no way back.

    Deassign with another eventfd is ENOENT, with the closed number EBADF, and the tuple stays taken: EEXIST.
    """
    vm = ioeventfd.vm
    port = vm.proxy.notify_base + Register.QUEUE_NOTIFY
    assert ioeventfd(fd, port=port, value=0) == 0
    os.close(fd)
    vm.guest.kick(times=5)
    assert vm.proxy.queues[0].notifier.trapped == 0
    assert said(ioeventfd(other, port=port, value=0, flags=DATAMATCH | DEASSIGN)) == "ENOENT"
    assert said(ioeventfd(other, port=port, value=0)) == "EEXIST"
    assert said(ioeventfd(MISSING_FD, port=port, value=0, flags=DATAMATCH | DEASSIGN)) == "EBADF"
    vm.guest.port_out(port, 4, 0)
    assert vm.proxy.queues[0].notifier.trapped == 1, "other widths still trap"


def test_the_count_survives_a_deassign(ioeventfd: Ioeventfds, fd: int) -> None:
    """ioeventfd: what was signalled before the deassign stays in the eventfd: STOP can test and clear afterwards."""
    assert ioeventfd(fd) == 0
    ioeventfd.vm.guest.port_out(PORT, 2, VALUE)
    assert ioeventfd(fd, flags=DATAMATCH | DEASSIGN) == 0
    assert count(fd) == 1


def test_the_guest_is_not_held_by_a_full_eventfd(ioeventfd: Ioeventfds, fd: int) -> None:
    """ioeventfd: an eventfd at its limit takes no more, and the guest goes on all the same."""
    full = (1 << 64) - 2  # for a write; the kernel itself may add one more
    os.eventfd_write(fd, full)
    assert ioeventfd(fd) == 0
    for _ in range(3):
        ioeventfd.vm.guest.port_out(PORT, 2, VALUE)
    assert count(fd) == full + (ioeventfd.vm.cpu == "kvm")


def test_the_registrations_go_with_the_vm(boot: Boot, fd: int) -> None:
    """ioeventfd: closing the VM drops every registration: the eventfd is ours alone again, and a new VM can take it."""
    first = Ioeventfds(boot("null"))
    assert first(fd) == 0
    first.vm.close()
    second = Ioeventfds(boot("null"))
    assert second(fd) == 0


# -- the back end's own words -----------------------------------------------------------------------------------------


def test_the_back_end_names_the_call_and_the_errno(boot: Boot, fd: int) -> None:
    """ioeventfd: the back end says which call failed and how."""
    cpu = boot("null")._board.cpu
    cpu.assign(PORT, 2, VALUE, fd)
    with pytest.raises(HostError, match=r"KVM_IOEVENTFD.*: EEXIST") as caught:
        cpu.assign(PORT, 2, VALUE, fd)
    assert caught.value.errno == errno.EEXIST
    cpu.deassign(PORT, 2, VALUE, fd)


# -- a failure at queue k of n ----------------------------------------------------------------------------------------

QUEUES = 6


@pytest.mark.parametrize("failing", range(QUEUES))
def test_a_failure_at_queue_k_leaves_the_baseline(boot: Boot, other: int, failing: int) -> None:
    """ioeventfd: failure at queue k of n: the fd count is back at the baseline, and every other tuple is free."""
    vm = boot("null", queues=QUEUES, ioeventfd=True, irq="poll", bring_up=False)
    vm.guest.negotiate()
    cpu, port = vm._board.cpu, vm.proxy.notify_base + Register.QUEUE_NOTIFY
    cpu.assign(port, QUEUE_NOTIFY_WIDTH, failing, other)
    files = len(os.listdir("/proc/self/fd"))
    vm.guest.set_driver_ok()
    assert len(os.listdir("/proc/self/fd")) == files
    assert [error.errno for error in vm.proxy.notifiers.errors] == [errno.EEXIST]
    assert (vm.proxy.ioeventfd_started, vm.proxy.flags) == (False, Flag(0))
    assert [vm.proxy.notifiers.owners[queue] for queue in range(QUEUES)] == [Owner.NONE] * QUEUES
    cpu.deassign(port, QUEUE_NOTIFY_WIDTH, failing, other)
    for queue in range(QUEUES):
        cpu.assign(port, QUEUE_NOTIFY_WIDTH, queue, other)
        cpu.deassign(port, QUEUE_NOTIFY_WIDTH, queue, other)
    vm.guest.kick(failing)
    assert vm.proxy.queues[failing].notifier.trapped == 1


def test_start_and_stop_many_times_leave_the_baseline(boot: Boot) -> None:
    """ioeventfd: a hundred STARTs and STOPs open and close the same number of fds."""
    vm = boot("null", queues=QUEUES, ioeventfd=True, irq="poll")
    with vm._board.locked():
        vm.proxy.notifiers.happens(Situation(Cause.PAUSE))
        files = len(os.listdir("/proc/self/fd"))
        each = 1 if vm.cpu == "kvm" else 2  # the emulated back end keeps a reference of its own
        for _ in range(100):
            vm.proxy.notifiers.happens(Situation(Cause.RESUME))
            assert len(os.listdir("/proc/self/fd")) == files + QUEUES * each
            vm.proxy.notifiers.happens(Situation(Cause.PAUSE))
    assert len(os.listdir("/proc/self/fd")) == files
