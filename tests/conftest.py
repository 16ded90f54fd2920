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
from labkit.cpu import CHOSEN_BY, emulated
from labkit.native import WHERE

sys.path.append(str(Path(__file__).parent))  # helpers such as rings.py are imported by their own name

from backends import back_ends, why_no_kvm, why_not_emulated

MACHINE_THREAD = re.compile(r"vm\d+-")
OURS_IN_MAPS = ("memfd:labkit", "anon_inode:kvm")  # guest memory and RAM disks, run pages of vCPUs


def pytest_configure(config: pytest.Config) -> None:
    """Name the markers: markers are strict."""
    config.addinivalue_line("markers", "kvm: needs KVM itself; skipped where there is none")
    config.addinivalue_line("markers", "emulated: needs the emulated CPU itself")
    config.addinivalue_line("markers", "guest: runs a guest on whatever back end is here")


def pytest_report_header() -> str:
    """Say which CPU back ends and which C core are used."""
    return f"labkit: cpu {' and '.join(back_ends()) or f'none, {why_no_kvm()}'}; core {WHERE}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that boots a machine by `boot` on each back end, unless it is about one of them."""
    if "cpu" in metafunc.fixturenames:
        marks = {mark.name for mark in metafunc.definition.iter_markers()} & {"kvm", "emulated"}
        metafunc.parametrize("cpu", sorted(marks) or back_ends() or ("none",), indirect=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a back end that is not used here."""
    needed = {mark.name for mark in item.iter_markers()} & {"kvm", "emulated"}
    for name in needed - set(back_ends()):
        pytest.skip(f"about {name}, which is not used here: {why_no_kvm() if name == 'kvm' else why_not_emulated()}")
    if item.get_closest_marker("guest") is not None and not back_ends():
        pytest.skip(f"no CPU to run a guest: {why_no_kvm()}")


@pytest.fixture
def no_unicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra `emulated` is not installed, for this test."""
    monkeypatch.setitem(sys.modules, "unicorn", None)
    monkeypatch.setattr(emulated, "load_library", emulated.load_library.__wrapped__)  # what is cached was found before


@pytest.fixture
def cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The back end that `cpu="auto"` is for this test."""
    name = str(request.param)
    if name == "none":
        pytest.skip(f"no CPU to run a guest: {why_no_kvm()}")
    monkeypatch.setenv(CHOSEN_BY, name)
    return name


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


@pytest.fixture(scope="session")
def fonts() -> None:
    """matplotlib opens its fonts with the first picture and keeps them."""
    sample = Path(__file__).parent / "data" / "format1.labkit"
    labkit.replay(sample).trace.timeline()._repr_png_()


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
def boot(leaves_nothing: None, cpu: str) -> Iterator[Callable[..., labkit.Machine]]:  # noqa: ARG001 - around this one
    """`labkit.boot`, and every machine it booted is closed when the test is over."""
    machines: list[labkit.Machine] = []

    def boot_one(*arguments: Any, **options: Any) -> labkit.Machine:
        machine = labkit.boot(*arguments, **options)
        machines.append(machine)
        return machine

    yield boot_one
    while machines:
        machines.pop().close()


@pytest.fixture
def shown(boot: Callable[..., labkit.Machine]) -> Iterator[Callable[..., tuple[labkit.Machine, Any]]]:
    """Boot a machine and show it on a dashboard; what was clicked has ended when the test is over."""
    screens: list[Any] = []

    def show(**options: Any) -> tuple[labkit.Machine, Any]:
        vm = boot(**options)
        screens.append(vm.dashboard())
        return vm, screens[-1]

    yield show
    for screen in screens:
        screen.stop()
        screen._hand.idle(30)
        screen.close()


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Listen on a unix socket of the test's own, or where it says; every machine that comes is closed at the end."""
    arrivals: list[Any] = []

    def begin(at: str = "", **options: Any) -> Any:
        arrivals.append(labkit.listen(at or f"unix:{tmp_path}/{len(arrivals)}.sock", **options))
        return arrivals[-1]

    yield begin
    for arrival in arrivals:
        arrival.close()
        if arrival.state == "here":
            arrival.machine().close()
