"""Does the doctor see what is missing, say how to mend it, and never fail itself?"""

import errno
from pathlib import Path

import pytest

from labkit import abi, doctor
from labkit.cpu import CHOSEN_BY, kvm
from labkit.native import lib


def check(report: doctor.Report, name: str) -> doctor.Check:
    """Return the one check of that name."""
    (found,) = [check for check in report.checks if check.name == name]
    return found


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.kvm
def test_a_machine_with_kvm_is_usable() -> None:
    """With everything needed there, the back end is KVM, and every required capability has its line."""
    report = doctor.examine()
    assert (report.back_end, report.usable) == ("kvm", True)
    assert all(check(report, name).ok for name in (kvm.DEVICE, "KVM API", "a guest runs", *kvm.REQUIRED))


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.kvm
def test_the_probe_leaves_the_thread_as_it_was() -> None:
    """Running a guest in the calling thread does not make that thread a vCPU in later events."""
    before = lib.lk_actor()
    assert doctor.probe_instruction_ns() > 0
    assert lib.lk_actor() == before


@pytest.mark.emulated
def test_without_the_device_the_emulated_cpu_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The lab is usable, its line names the library, and the lack of KVM is none that is needed."""
    monkeypatch.delenv(CHOSEN_BY, raising=False)
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    report = doctor.examine()
    assert (report.back_end, report.usable) == ("emulated", True)
    assert check(report, "emulated CPU").detail.startswith("Unicorn 2.")
    device = check(report, kvm.DEVICE)
    assert not device.ok and not device.needed


@pytest.mark.usefixtures("no_unicorn")
@pytest.mark.kvm
def test_with_kvm_the_emulated_cpu_is_not_needed() -> None:
    """Its line says how to get it; the lab is usable without."""
    line = check(report := doctor.examine(), "emulated CPU")
    assert report.back_end == "kvm"
    assert not line.ok and not line.needed and "pip install 'labkit[emulated]'" in line.mend


@pytest.mark.usefixtures("no_unicorn")
def test_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With neither there is no back end; each line says what to do, and everything else is still looked at."""
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    report = doctor.examine()
    assert check(report, "emulated CPU").needed and not check(report, "emulated CPU").ok
    device = check(report, kvm.DEVICE)
    assert not report.usable
    assert device.needed and not device.ok and "ENOENT" in device.detail and "load kvm" in device.mend
    assert {"C core", "C compiler", "pandas"} <= {check.name for check in report.checks}


def test_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that may not be opened is told from one that is not there."""

    def refuse(path: str, *_: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(kvm.os, "open", refuse)
    device = check(doctor.examine(), kvm.DEVICE)
    assert not device.ok and "usermod -aG kvm" in device.mend


@pytest.mark.usefixtures("leaves_nothing", "no_unicorn")
def test_a_device_that_is_something_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A plain file in the place of the device is found out, not run into."""
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    report = doctor.examine()
    assert not report.usable
    assert "KVM_GET_API_VERSION" in check(report, "KVM API").detail


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler, binutils or QEMU: each line names the package, and none of them makes the lab unusable."""
    monkeypatch.setenv("PATH", "")
    report = doctor.examine()
    for name, package in (("C compiler", "gcc"), ("binutils", "binutils")):
        tool = check(report, name)
        assert not tool.ok and not tool.needed and f"apt-get install {package}" in tool.mend


def test_every_guest_has_its_line() -> None:
    """What guests/build.py builds is what the doctor looks for."""
    built = {path.stem for path in abi.GUEST_IMAGES.glob("*.bin")}
    assert {check.name for check in doctor.examine().checks if check.name.startswith("guest ")} == {
        f"guest {name}" for name in built
    }


def test_missing_guests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without its own guest the lab cannot boot one, and the line says how to build it."""
    monkeypatch.setattr(abi, "GUEST_IMAGES", tmp_path)
    report = doctor.examine()
    assert not report.usable
    assert check(report, "guest agent").mend == "build again: make install"


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An optional package that is missing is said to be for something, and is not needed."""
    monkeypatch.setitem(doctor.OPTIONAL, "no_such_package", "nothing")
    package = check(doctor.examine(), "no_such_package")
    assert not package.ok and not package.needed and package.mend == "pip install no_such_package"
