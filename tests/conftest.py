"""What every test can count on: which CPU back end is used, machines that are closed, and nothing of them left."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import labkit
from labkit.cpu import kvm
from labkit.native import _core

sys.path.append(str(Path(__file__).parent))  # helpers such as rings.py are imported by their own name

KVM_DEVICE = Path(kvm.DEVICE)
MACHINE_THREAD = re.compile(r"vm\d+-")
OURS_IN_MAPS = ("memfd:labkit", "anon_inode:kvm")  # guest memory and RAM disks, run pages of vCPUs


def why_no_kvm() -> str:
    """Why this machine cannot run a guest, in labkit's own words; empty if it can."""
    try:
        os.close(kvm.open_device())
    except labkit.HostError as error:
        return str(error)
    return ""


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker: markers are strict."""
    config.addinivalue_line("markers", "kvm: runs a guest; skipped only where there is no /dev/kvm at all")


def pytest_report_header() -> str:
    """Say which CPU back end and which C core are used."""
    problem = why_no_kvm()
    return f"labkit: {f'no cpu, {problem}' if problem else 'cpu kvm'}; core {_core.__file__}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that boots a machine."""
    for item in items:
        if "boot" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kvm)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs KVM where there is none. A device that is there but refuses makes the test fail, and loudly."""
    if item.get_closest_marker("kvm") is not None and not KVM_DEVICE.exists():
        pytest.skip(why_no_kvm())


def open_files() -> set[tuple[int, str]]:
    """Every open fd of this process, with what it leads to."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add((int(entry), os.readlink(f"/proc/self/fd/{entry}")))
    return found


def our_mappings() -> list[str]:
    """The mappings that are labkit's: address range and name."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if any(name in line for name in OURS_IN_MAPS)]


def our_threads() -> set[int]:
    """Ids of the threads that belong to machines: vm0-owner, vm0-io, vm0-vcpu0 ..."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if MACHINE_THREAD.match((task / "comm").read_text()):
                found.add(int(task.name))
    return found


@pytest.fixture
def leaves_nothing() -> Iterator[None]:
    """After the test no fd, thread or mapping is there that was not there before."""
    files, threads, mappings = open_files(), our_threads(), our_mappings()
    yield
    assert open_files() - files == set()
    while our_threads() - threads:  # closing has waited for their work, the kernel takes a moment to remove them
        os.sched_yield()
    assert [mapping for mapping in our_mappings() if mapping not in mappings] == []


@pytest.fixture
def boot(leaves_nothing: None) -> Iterator[Callable[..., labkit.Machine]]:  # noqa: ARG001 - ordered around this one
    """`labkit.boot`, and every machine it booted is closed when the test is over."""
    machines: list[labkit.Machine] = []

    def boot_one(*arguments: Any, **options: Any) -> labkit.Machine:
        machine = labkit.boot(*arguments, **options)
        machines.append(machine)
        return machine

    yield boot_one
    while machines:
        machines.pop().close()
