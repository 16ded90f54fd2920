"""Does the KVM back end say what the kernel said? Each failure with its ioctl, its errno, and how to mend it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import labkit
from labkit import HostError, Machine
from labkit.cpu import kvm

Boot = Callable[..., Machine]
KICK = (0xC110, 2, 7)  # a port nobody uses, width, value


@pytest.fixture
def fd() -> int:
    """An eventfd that the test's machine may keep; the leak check of `boot` closes around it."""
    return os.eventfd(0, os.EFD_CLOEXEC)


def test_a_missing_device_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No /dev/kvm: HostError names the open, the errno and what to do; nothing of the machine is left."""
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    with pytest.raises(HostError, match=r"ENOENT.*--device /dev/kvm") as caught:
        labkit.boot("blk")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.kvm
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without the permission")
def test_no_permission_says_how_to_get_it() -> None:
    """A user outside the kvm group is told to join it."""
    code = (
        "import os, labkit\nlabkit.boot('blk').close()\nos.setgroups([])\nos.seteuid(65534)\n"
        "try: labkit.boot('blk')\nexcept labkit.HostError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True).stdout
    if not said and os.stat(kvm.DEVICE).st_mode & 0o006 == 0o006:
        pytest.skip("everybody may open /dev/kvm here")
    assert "EACCES" in said
    assert "usermod -aG kvm" in said


def test_something_else_at_the_devices_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is no KVM: the first ioctl is named."""
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    with pytest.raises(HostError, match="KVM_CREATE_VM: ENOTTY"):
        labkit.boot("blk")


@pytest.mark.kvm
@pytest.mark.usefixtures("leaves_nothing")
def test_a_kernel_without_an_io_apic_says_what_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The full irqchip is refused: HostError names the ioctl and the ways that need none; nothing is left."""
    real = kvm.ioctl

    def refuse(fd: int, name: str, argument: object = None) -> int:
        if name == "KVM_CREATE_IRQCHIP":
            raise HostError(name, errno.ENOTTY)
        return real(fd, name, argument)

    monkeypatch.setattr(kvm, "ioctl", refuse)
    with pytest.raises(HostError, match=r'KVM_CREATE_IRQCHIP: ENOTTY.*irq="msix"'):
        labkit.boot("blk", irq="intx")
    labkit.boot("blk").close()


def test_a_tuple_can_be_assigned_once(boot: Boot, fd: int) -> None:
    """A duplicate assign is EEXIST; after the deassign the tuple is free again."""
    cpu = boot("null")._board.cpu
    cpu.assign(*KICK, fd)
    with pytest.raises(HostError, match="KVM_IOEVENTFD: EEXIST"):
        cpu.assign(*KICK, fd)
    cpu.deassign(*KICK, fd)
    cpu.assign(*KICK, fd)
    cpu.deassign(*KICK, fd)
    os.close(fd)


def test_deassign_must_name_the_same_tuple(boot: Boot, fd: int) -> None:
    """Deassigning twice, with another fd or another value, is ENOENT."""
    cpu, other = boot("null")._board.cpu, os.eventfd(0)
    cpu.assign(*KICK, fd)
    for wrong in ((*KICK, other), (*KICK[:2], 8, fd), (KICK[0], 4, KICK[2], fd)):
        with pytest.raises(HostError, match="ENOENT"):
            cpu.deassign(*wrong)
    cpu.deassign(*KICK, fd)
    with pytest.raises(HostError, match="ENOENT"):
        cpu.deassign(*KICK, fd)
    os.close(fd)
    os.close(other)


@pytest.mark.parametrize(("length", "name"), [(3, "EINVAL"), (0, "EINVAL")])
def test_a_bad_length_is_refused(boot: Boot, fd: int, length: int, name: str) -> None:
    """Lengths the kernel does not match are EINVAL."""
    with pytest.raises(HostError, match=name):
        boot("null")._board.cpu.assign(KICK[0], length, 0, fd)
    os.close(fd)


def test_not_an_eventfd(boot: Boot) -> None:
    """A closed fd is EBADF, an fd of another kind EINVAL."""
    cpu = boot("null")._board.cpu
    with open("/dev/null") as null, pytest.raises(HostError, match="EINVAL"):
        cpu.assign(*KICK, null.fileno())
    with pytest.raises(HostError, match="EBADF"):
        cpu.assign(*KICK, 10**6)


def test_close_without_deassign_does_not_unregister(boot: Boot, fd: int) -> None:
    """KVM keeps its own reference: the kick is swallowed, and the tuple is taken."""
    vm = boot("null", ioeventfd=False)
    port = vm.proxy.notify_base + 16
    vm._board.cpu.assign(port, 2, 0, fd)
    os.close(fd)
    vm.guest.kick()
    assert vm.proxy.queues[0].notifier.trapped == 0
    again = os.eventfd(0)
    with pytest.raises(HostError, match="EEXIST"):
        vm._board.cpu.assign(port, 2, 0, again)
    os.close(again)


def test_every_capability_that_is_required_is_there(boot: Boot) -> None:
    """What doctor looks for is what a machine that runs here has."""
    boot("null")
    device = kvm.open_device()
    try:
        for name in kvm.REQUIRED:
            assert kvm.ioctl(device, "KVM_CHECK_EXTENSION", getattr(kvm.lib, name)) > 0
    finally:
        os.close(device)
