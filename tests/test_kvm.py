"""Does the KVM back end say what the kernel said? Each failure with its ioctl, its errno, and how to mend it.

What KVM_IOEVENTFD promises is in test_ioeventfd.py.
"""

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


def test_a_missing_device_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No /dev/kvm: HostError names the open, the errno and what to do; nothing of the machine is left."""
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    with pytest.raises(HostError, match=r"ENOENT.*--device /dev/kvm") as caught:
        labkit.boot("blk", cpu="kvm")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.kvm
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without the permission")
def test_no_permission_says_how_to_get_it() -> None:
    """A user outside the kvm group is told to join it."""
    code = (
        "import os, labkit\nlabkit.boot('blk', cpu='kvm').close()\nos.setgroups([])\nos.seteuid(65534)\n"
        "try: labkit.boot('blk', cpu='kvm')\nexcept labkit.HostError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True).stdout
    if not said and os.stat(kvm.DEVICE).st_mode & 0o006 == 0o006:
        pytest.skip("everybody may open /dev/kvm here")
    assert "EACCES" in said
    assert "usermod -aG kvm" in said


def test_something_else_at_the_devices_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is no KVM: the first ioctl is named."""
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    with pytest.raises(HostError, match="KVM_CREATE_VM: ENOTTY"):
        labkit.boot("blk", cpu="kvm")


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
        labkit.boot("blk", irq="intx", cpu="kvm")
    labkit.boot("blk", cpu="kvm").close()


@pytest.mark.kvm
def test_every_capability_that_is_required_is_there(boot: Boot) -> None:
    """What doctor looks for is what a machine that runs here has."""
    boot("null")
    device = kvm.open_device()
    try:
        for name in kvm.REQUIRED:
            assert kvm.ioctl(device, "KVM_CHECK_EXTENSION", getattr(kvm.lib, name)) > 0
    finally:
        os.close(device)
