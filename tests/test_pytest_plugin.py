"""Does a project get the fixtures of docs/pytest.md where labkit is installed, and nothing if it does not use them?"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from backends import back_ends, why_not_emulated

from labkit import museum

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "pytest.md"
OTHERS = ("cacheprovider", "xdist", "nbval", "hypothesispytest", "anyio")  # plugins that are not asked
QUIET = (*(word for name in OTHERS for word in ("-p", f"no:{name}")), "--strict-markers", "-ra")
STRICT = "[pytest]\nfilterwarnings = error\n"


class Project:
    """A project of somebody's, in a folder of its own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester
        pytester.makeini(STRICT)

    def run(self, tests: str, *options: str, conftest: str = "") -> pytest.RunResult:
        """In this process."""
        self._pytester.makepyfile(test_it=f"import pytest\nimport labkit\n{textwrap.dedent(tests)}")
        self._pytester.makeconftest(conftest)
        return self._pytester.runpytest_inprocess(*QUIET, *options)


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    """One that has warnings as errors, and strict markers."""
    return Project(pytester)


def text(result: pytest.RunResult) -> str:
    """What a run has printed, with its line ends as blanks."""
    return " ".join(str(result.stdout).split())


def test_a_run_without_labkit_does_not_import_it(pytester: pytest.Pytester) -> None:
    """In a process of its own: the plugin is there, its option and its markers too, and labkit is not."""
    pytester.makeini(STRICT)
    pytester.makepyfile(
        """
        import sys
        def test_it(request):
            assert request.config.getoption("--labkit-cpu") == "auto"
            assert "pytest_labkit" in sys.modules
            assert [name for name in sys.modules if name.partition(".")[0] == "labkit"] == []
        """
    )
    pytester.runpytest_subprocess(*QUIET).assert_outcomes(passed=1)


@pytest.mark.usefixtures("leaves_nothing")
def test_a_machine_is_booted_as_the_marks_say(project: Project, cpu: str) -> None:
    """The test's mark before that of its class and module; it is closed after the test."""
    result = project.run(
        """
        pytestmark = pytest.mark.labkit("null", queues=3, vcpus=2)
        before = []

        @pytest.mark.labkit(revision="today", queues=1)
        class TestIt:
            @pytest.mark.labkit(queues=2)
            def test_marks(self, vm, labkit_cpu):
                assert len(vm.proxy.queues) == 2
                assert vm.proxy.notifiers.revision == "today"
                assert vm.registers(1)
                assert vm.cpu == labkit_cpu
                before.append(vm)

            def test_closed(self, vm):
                assert before[0].state == "closed"
                assert vm.state == "running"

        def test_own_boot(labkit_cpu):
            with labkit.boot() as own:
                assert own.cpu == labkit_cpu
        """,
        f"--labkit-cpu={cpu}",
    )
    result.assert_outcomes(passed=3)


@pytest.mark.usefixtures("leaves_nothing")
def test_two_machines_are_on_one_cable(project: Project, cpu: str) -> None:
    """Those with a net device; others have nothing in common. A device's class is made twice."""
    result = project.run(
        """
        class Own(labkit.Device):
            queue_sizes = (64,)
            def handle(self, queue):
                for chain in queue:
                    queue.push(chain, chain.read())

        @pytest.mark.labkit("net")
        def test_cable(two_vms):
            here, there = two_vms
            frame = bytes([255] * 6) + bytes(range(54))
            here.guest.exchange(bytes(10) + frame, queue=1)
            assert there.guest.exchange(receive=1524, queue=0)[10:] == frame

        @pytest.mark.labkit(device=Own)
        def test_own(two_vms):
            first, second = two_vms
            assert first.guest.exchange(b"a", receive=1) == second.guest.exchange(b"a", receive=1)
            assert first.proxy.device is not second.proxy.device
        """,
        f"--labkit-cpu={cpu}",
    )
    result.assert_outcomes(passed=2)


CPUS = """
def test_any(labkit_cpu):
    print("on", labkit_cpu)

@pytest.mark.kvm
def test_kvm(labkit_cpu):
    assert labkit_cpu == "kvm"

@pytest.mark.emulated
def test_emulated(labkit_cpu):
    assert labkit_cpu == "emulated"

@pytest.mark.kvm
def test_of_somebody_else():
    pass
"""


def test_the_option_says_on_which_cpu(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both: twice. One: what is about the other is skipped. Somebody else's mark of that name means nothing."""
    usable = {name: name in back_ends() for name in ("kvm", "emulated")}
    monkeypatch.delenv("LABKIT_CPU", raising=False)
    here = sum(usable.values())
    project.run(CPUS, "--labkit-cpu=both").assert_outcomes(passed=2 * here + 1, skipped=2 * (2 - here))
    result = project.run(CPUS, "--labkit-cpu=kvm")
    result.assert_outcomes(passed=2 * usable["kvm"] + 1, skipped=3 - 2 * usable["kvm"])
    assert "about emulated, and --labkit-cpu=kvm" in text(result)


def test_auto_is_what_boot_chooses(project: Project, cpu: str) -> None:
    """$LABKIT_CPU; no test has another name for it, and none is run twice."""
    result = project.run(CPUS, "-v", "-s")
    result.stdout.fnmatch_lines([f"*on {cpu}*"])
    assert "test_any[" not in str(result.stdout)


@pytest.mark.usefixtures("no_unicorn")
def test_a_cpu_that_is_not_there_is_a_skip_with_the_reason(project: Project) -> None:
    """In labkit's own words, with the mend; with a mark as with the option."""
    result = project.run(CPUS, "--labkit-cpu=emulated")
    result.assert_outcomes(passed=1, skipped=3)
    assert why_not_emulated() and why_not_emulated() in text(result)


@pytest.mark.usefixtures("cpu", "leaves_nothing")
def test_a_machine_that_is_left_is_told_of(project: Project) -> None:
    """As an error of the test; one that failed has its failure, and its traceback keeps what it had."""
    result = project.run(
        """
        kept = []

        def test_leaves(vm):
            kept.append(labkit.boot())

        def test_passes(vm):
            assert len(kept) == 1

        def test_fails(vm):
            kept.append(labkit.boot())
            assert False, "its own failure"

        @pytest.mark.usefixtures("labkit_leaves_nothing")
        def test_by_itself():
            with labkit.boot():
                pass

        def test_ends():
            for one in kept:
                one.close()
        """
    )
    result.assert_outcomes(passed=4, failed=1, errors=1)
    assert re.search(r"left behind: file .*memfd:labkit-ram.*, thread vm\d+-owner", text(result))


@pytest.mark.usefixtures("leaves_nothing")
def test_a_schedule_that_breaks_something_fails_the_test(project: Project, cpu: str) -> None:
    """With the shortest, and the line that plays it again; not where the test may see it broken."""
    scenario = museum.find("lost-kick-at-deassign").scenario
    result = project.run(
        """
        WRONG = ["lost-kick-at-deassign"]

        def test_holds(explore):
            assert explore("lost-kick-at-deassign").complete

        def test_breaks(explore):
            explore("lost-kick-at-deassign", mutations=WRONG)

        def test_may_break(explore, labkit_cpu):
            report = explore("lost-kick-at-deassign", "dfs", WRONG, may_break=True)
            assert report.failures and report.cpu == labkit_cpu

        def test_own_scenario(explore):
            explore(labkit.museum.find("lost-kick-at-deassign").scenario, mutations=WRONG, until_broken=True)
        """,
        f"--labkit-cpu={cpu}",
    )
    result.assert_outcomes(passed=2, failed=2)
    order = f"{scenario.name}:{scenario.fingerprint}:vx10"
    assert f"'lost-kick-at-deassign', '{order}', ['lost-kick-at-deassign'])" in text(result)
    assert "labkit.races.replay(scenario, '" in text(result)
    assert "The guest waits for ever for a request that the device was told of." in text(result)


def test_a_fixture_of_the_projects_own_is_used(project: Project) -> None:
    """Of the same name, in its conftest; then labkit boots nothing."""
    own = "import pytest\n@pytest.fixture\ndef vm():\n    return 'mine'\n"
    project.run("def test_it(vm):\n    assert vm == 'mine'\n", conftest=own).assert_outcomes(passed=1)


def test_a_mark_does_not_name_the_cpu(project: Project) -> None:
    """For that there are the option and two marks; and it is said."""
    result = project.run("@pytest.mark.labkit(cpu='kvm')\ndef test_it(vm):\n    pass\n")
    if back_ends():
        result.assert_outcomes(errors=1)
        assert "the CPU is named by --labkit-cpu, @pytest.mark.kvm or .emulated" in text(result)


@pytest.mark.usefixtures("leaves_nothing")
def test_the_page_says_what_works(pytester: pytest.Pytester, cpu: str) -> None:
    """The example of docs/pytest.md, in a process of its own."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    pytester.makeini(STRICT)
    pytester.makepyfile(test_lab=example)
    pytester.runpytest_subprocess(*QUIET, f"--labkit-cpu={cpu}").assert_outcomes(passed=5)
