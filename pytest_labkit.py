"""How does a test of yours get a machine? The plugin of labkit for pytest: `vm`, `two_vms`, `explore`, on either CPU.

pytest loads this module in every run where labkit is installed, so it imports labkit only for a test that uses it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from labkit import Machine
    from labkit.races import Report, Scenario

OPTION = "--labkit-cpu"
BACK_ENDS = ("kvm", "emulated")
AUTO, BOTH = "auto", "both"
MARKERS = (
    "labkit(device, **options): how the fixtures vm and two_vms are booted, as labkit.boot takes it",
    "kvm: needs KVM itself, where the test uses a fixture of labkit; skipped where it cannot be used",
    "emulated: the same for the emulated CPU",
)
THREAD = re.compile(r"vm\d+-")
FILES = ("memfd:labkit", "anon_inode:kvm", "/dev/kvm")  # guest memory, RAM disks, machines and vCPUs of KVM
GONE_S = 5.0  # the kernel takes a moment to remove a thread that has ended
POLL_S = 0.001


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--labkit-cpu`."""
    parser.getgroup("labkit").addoption(
        OPTION,
        choices=(AUTO, *BACK_ENDS, BOTH),
        default=AUTO,
        help="which CPU runs the guests of labkit's fixtures; auto: as labkit.boot chooses; both: each test twice",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Name the markers, for projects where they are strict."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Twice, where both back ends are asked for. Tests without labkit's fixtures are left alone."""
    if "labkit_cpu" in metafunc.fixturenames:
        wanted = _wanted(metafunc.definition, metafunc.config)
        if len(wanted) > 1:
            metafunc.parametrize("labkit_cpu", wanted, indirect=True)


def _wanted(node: pytest.Item, config: pytest.Config) -> tuple[str, ...]:
    """What the test's marks name, or else the option."""
    named = tuple(name for name in BACK_ENDS if node.get_closest_marker(name))
    option = str(config.getoption(OPTION))
    return named or (BACK_ENDS if option == BOTH else (option,))


# -- fixtures ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def labkit_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The CPU back end of this test, "kvm" or "emulated"; what the test boots by itself runs there, too.

    The test is skipped where it cannot be used, and where the option asks for the other one.
    """
    from labkit.cpu import CHOSEN_BY

    asked = request.config.getoption(OPTION)
    wanted = getattr(request, "param", None) or _wanted(request.node, request.config)[0]
    if wanted == AUTO:
        wanted = os.environ.get(CHOSEN_BY, AUTO)
    if asked in BACK_ENDS and asked != wanted:
        pytest.skip(f"about {wanted}, and {OPTION}={asked}")
    tried = {name: _why_not(name) for name in (BACK_ENDS if wanted == AUTO else (wanted,))}
    usable = next((name for name, why in tried.items() if not why), None)
    if usable is None:
        pytest.skip("; ".join(f"{name}: {why}" for name, why in tried.items()))
    monkeypatch.setenv(CHOSEN_BY, usable)
    return usable


def _why_not(back_end: str) -> str:
    """In labkit's own words; empty: it can be used."""
    from labkit import HostError
    from labkit.cpu import emulated, kvm

    try:
        if back_end == "kvm":
            os.close(kvm.open_device())
        else:
            emulated.load_library()
    except HostError as error:
        return str(error)
    return ""


@pytest.fixture
def labkit_leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the test no thread and no file of a machine is there that was not there before.

    Of a test that failed nothing is said: its traceback keeps what it had.
    """
    before, failed = _ours(), request.session.testsfailed
    yield
    if request.session.testsfailed > failed or not _ours() - before:
        return
    gc.collect()  # a machine in a cycle is a forgotten one, and those are closed
    deadline = time.monotonic() + GONE_S
    while (left := _ours() - before) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if left:
        names = ", ".join(sorted(name for _, name in left))
        pytest.fail(f"left behind: {names}; close what the test boots: with labkit.boot() as vm", pytrace=False)


def _ours() -> set[tuple[int, str]]:
    """Threads and open files of all machines in this process, with their numbers."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if THREAD.match(name := (task / "comm").read_text().strip()):
                found.add((int(task.name), f"thread {name}"))
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if any(ours in (leads_to := os.readlink(f"/proc/self/fd/{entry}")) for ours in FILES):
                found.add((int(entry), f"file {leads_to}"))
    return found


@pytest.fixture
def vm(request: pytest.FixtureRequest, labkit_leaves_nothing: None, labkit_cpu: str) -> Iterator[Machine]:  # noqa: ARG001
    """A machine, booted as `@pytest.mark.labkit(...)` says, and closed after the test."""
    import labkit

    arguments, options = _boot_options(request.node)
    with labkit.boot(*arguments, cpu=labkit_cpu, **options) as machine:
        yield machine


@pytest.fixture
def two_vms(
    request: pytest.FixtureRequest,
    labkit_leaves_nothing: None,  # noqa: ARG001
    labkit_cpu: str,
) -> Iterator[tuple[Machine, Machine]]:
    """Two of them; those with a net device are on one cable, unless the mark says what they are on."""
    import labkit

    (arguments, options), (again, other) = _boot_options(request.node), _boot_options(request.node)
    if "net" in (*arguments, options.get("device")) and "net" not in options:
        options["net"], other["net"] = labkit.link()
    with (
        labkit.boot(*arguments, cpu=labkit_cpu, **options) as first,
        labkit.boot(*again, cpu=labkit_cpu, **other) as second,
    ):
        yield first, second


def _boot_options(node: pytest.Item) -> tuple[list[Any], dict[str, Any]]:
    """Of all marks, the closest first. A device's class is made into a device each time."""
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    for mark in node.iter_markers("labkit"):
        arguments, options = arguments or mark.args, {**mark.kwargs, **options}
    if "cpu" in options:
        raise pytest.UsageError(f"{node.nodeid}: the CPU is named by {OPTION}, @pytest.mark.kvm or .emulated")
    made = {name: value() if isinstance(value, type) else value for name, value in options.items()}
    return [value() if isinstance(value, type) else value for value in arguments], made


@pytest.fixture
def explore(labkit_leaves_nothing: None, labkit_cpu: str) -> Callable[..., Report]:  # noqa: ARG001
    """`labkit.races.explore` on this test's CPU. It fails the test if an invariant breaks, unless `may_break=True`."""

    def search(scenario: Scenario | str, *arguments: Any, may_break: bool = False, **options: Any) -> Report:
        __tracebackhide__ = True
        from labkit import races

        report = races.explore(scenario, *arguments, cpu=labkit_cpu, **options)
        if report.interrupted:
            raise KeyboardInterrupt  # it was for pytest as well
        if report.failures and not may_break:
            pytest.fail(_broken(report, scenario if isinstance(scenario, str) else ""))
        return report

    return search


def _broken(report: Report, specimen: str) -> str:
    """The shortest schedule, what it breaks, and how it is played again."""
    worst = min(report.failures, key=lambda one: (one.decisions, one.schedule))
    others = [one.invariant for one in report.failures if one is not worst]
    of = repr(specimen) if specimen else "scenario"
    wrong = f", {list(report.mutations)!r}" if report.mutations else ""
    lines = [
        f"{report.scenario}: {worst.invariant} does not hold. {worst.meaning}",
        f"seen: {worst.seen}",
        f"shortest of {report.schedules} schedules: labkit.races.replay({of}, {worst.schedule!r}{wrong})",
        *([f"broken, too: {', '.join(others)}"] if others else []),
        *worst.stacks.splitlines(),
    ]
    return "\n".join(lines)
