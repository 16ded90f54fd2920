"""Is a cell a guest, a schedule, a rule, as docs/ipython.md says; and does a Tab know the words of labkit?"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import start_new_kernel
from orders import KICK_AND_STOP, LOST_KICK, PAUSE
from traitlets.config import Config

import labkit
from labkit import GuestError, UsageError
from labkit.ipython import call, guest, race
from labkit.ipython.completion import Completion
from labkit.museum import names
from labkit.trace import gates

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "ipython.md"
HELLO = """
#include "report.h"
#include "abi.h"

_Noreturn void guest_main(uint32_t vcpu, uint32_t vcpus, uint32_t info)
{
    (void)vcpu, (void)vcpus, (void)info;
    say("hello");
    say_pair("exit_port", PORT_EXIT);
    finish(3);
}
"""
SPINS = """
    .globl guest_main
guest_main:
    jmp guest_main
"""
WAIT = "--wait 120"  # the end of a wait that only a hang meets


def new_shell() -> InteractiveShell:
    """As a kernel has it, but without a history."""
    return InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """A shell of IPython that has loaded labkit; its machines are closed with it."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    made = new_shell()
    made.run_line_magic("load_ext", "labkit")
    yield made
    for found in made.user_ns.values():
        if isinstance(found, labkit.Machine | labkit.races.Stepper):
            found.close()
    made.run_line_magic("unload_ext", "labkit")
    atexit.unregister(made.atexit_operations)


Shell = InteractiveShell


def value(shell: Shell, cell: str) -> Any:
    """Of a cell that must succeed."""
    result = shell.run_cell(cell)
    result.raise_error()
    return result.result


def refusal(shell: Shell, cell: str) -> str:
    """What a cell is refused with, as it is shown: a UsageError, without a traceback."""
    result = shell.run_cell(cell)
    error = result.error_in_exec
    assert isinstance(error, UsageError), error
    (shown,) = error._render_traceback_()
    assert shown == f"UsageError: {error}"
    return str(error)


# -- %%guest -----------------------------------------------------------------------------------------------------------


def test_a_cell_in_c_is_a_guest(shell: Shell, cpu: str) -> None:
    """It is compiled with the guests' library and abi.h, booted, and shows what it printed and its exit code."""
    ended = value(shell, f"%%guest {WAIT}\n{HELLO}")
    assert (ended.exit_code, ended.console, ended.cpu) == (7, "hello exit_port=244", cpu)
    assert "7 (the guest wrote 3)" in repr(ended) and "hello exit_port=244" in ended._repr_html_()
    vm = shell.user_ns["vm"]
    assert (vm.state, vm.cpu, vm.exit_code) == ("exited", cpu, 7)


@pytest.mark.usefixtures("cpu")
def test_a_cell_in_assembly_is_a_guest(shell: Shell) -> None:
    """With abi.h and the library, in 64-bit mode; options of boot are those of the line."""
    body = """
        #include "abi.h"
            .globl guest_main
        guest_main:
            movl $text, %edi
            call say
            movl $PORT_EXIT - 0xf4, %edi
            call finish
        text: .asciz "from assembly"
    """
    ended = value(shell, f"%%guest --asm {WAIT} --name it --device null --queues 2\n{textwrap.dedent(body)}")
    assert (ended.exit_code, ended.console) == (1, "from assembly")
    assert len(shell.user_ns["it"].proxy.queues) == 2


@pytest.mark.usefixtures("cpu")
def test_a_guest_that_goes_on_is_shown_as_a_machine(shell: Shell) -> None:
    """It is booted with what --cmdline and others say, and runs; an older one that the magic made is closed first."""
    first = value(shell, f"%%guest --asm --wait 0 --revision today --ioeventfd off --vcpus 2\n{SPINS}")
    assert first is shell.user_ns["vm"]
    assert (first.state, first.proxy.notifiers.revision, first.proxy.notifiers.ioeventfd) == ("running", "today", False)
    second = value(shell, f"%%guest --asm --wait 0\n{SPINS}")
    assert (first.state, second.state) == ("closed", "running")


@pytest.mark.usefixtures("cpu")
def test_a_machine_of_the_users_own_is_not_closed(shell: Shell) -> None:
    """Only the name is another one's then."""
    with labkit.boot() as mine:
        shell.user_ns["vm"] = mine
        value(shell, f"%%guest --asm --wait 0\n{SPINS}")
        assert shell.user_ns["vm"] is not mine
        assert mine.state == "running"


@pytest.mark.usefixtures("cpu")
def test_a_guest_reads_its_command_line(shell: Shell) -> None:
    """--cmdline arrives, and $name of Python is expanded in the line."""
    body = """
        #include "options.h"
        #include "report.h"
        _Noreturn void guest_main(uint32_t vcpu, uint32_t vcpus, uint32_t info)
        {
            (void)vcpu, (void)vcpus;
            finish(option_number(command_line(info), "answer", 0));
        }
    """
    shell.user_ns["answer"] = 42
    cell = textwrap.dedent(body)
    assert value(shell, f'%%guest {WAIT} --cmdline "answer=$answer"\n{cell}').exit_code == 85


@pytest.mark.usefixtures("cpu")
def test_a_guest_that_crashes_is_its_own_fault(shell: Shell) -> None:
    """A GuestError says where, and what was printed before; the machine is there to be looked at."""
    cell = HELLO.replace("finish(3);", 'for (;;) asm volatile("ud2");')
    error = shell.run_cell(f"%%guest {WAIT}\n{cell}").error_in_exec
    assert isinstance(error, GuestError)
    (shown,) = error._render_traceback_()
    assert re.fullmatch(r"GuestError: vCPU 0 crashed at rip=0x1\w+: triple fault\nit had printed:\nhello .*", shown)
    assert shell.user_ns["vm"].state == "crashed"


def test_the_compiler_is_quoted_by_the_lines_of_the_cell(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line 1 is that of the magic, as a notebook counts. Nothing is booted, and no folder stays."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said = refusal(shell, '%%guest\n#include "report.h"\nint x = ;\n')
    assert "cell.c:3:9: error: " in said and "int x = ;" in said
    assert "vm" not in shell.user_ns
    assert "cell.S:3: Error: no such instruction" in refusal(shell, "%%guest --asm\n\n  fly %eax\n")
    linked = refusal(shell, "%%guest\nint x;\n")
    assert "undefined reference to `guest_main'" in linked and tempfile.gettempdir() not in linked
    assert list(tmp_path.glob("labkit-cell-*")) == []


@pytest.mark.usefixtures("cpu")
def test_the_library_is_compiled_once(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all cells of a process; anew if its folder was tidied away."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    guest._tools.cache_clear()
    try:
        value(shell, f"%%guest {WAIT}\n{HELLO}")
        (folder,) = tmp_path.glob("labkit-library-*")
        made = (folder / "lib" / "report.o").stat().st_mtime_ns
        value(shell, f"%%guest {WAIT}\n{HELLO}")
        assert (folder / "lib" / "report.o").stat().st_mtime_ns == made
        shutil.rmtree(folder)
        assert value(shell, f"%%guest {WAIT}\n{HELLO}").exit_code == 7
    finally:
        guest._tools.cache_clear()


@pytest.mark.usefixtures("cpu")
def test_a_warning_is_shown_and_the_guest_is_booted(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the compiler's, with the cell's line."""
    ended = value(shell, f"%%guest {WAIT}\n{HELLO.replace('say(', 'int unused; say(', 1)}")
    assert ended.exit_code == 7
    assert re.search(r"cell\.c:9:\d+: warning: unused variable 'unused'", capsys.readouterr().out)


def test_without_a_compiler_it_is_said_what_to_install(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A UsageError with the mend, and another one where the library was not installed."""
    with monkeypatch.context() as without:
        without.setenv("PATH", "")
        assert "apt-get install gcc" in refusal(shell, f"%%guest\n{HELLO}")
    monkeypatch.setattr(guest, "LIBRARY", Path("/nowhere"))
    assert "library is not in this installation; build again" in refusal(shell, f"%%guest\n{HELLO}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--name 1vm", "no name of a variable"),
        ("--name class", "no name of a variable"),
        ("--wait soon", "invalid seconds value"),
        ("--wait -1", "'-1': seconds, from 0 on"),
        ("--wait nan", "seconds, from 0 on"),
        ("--cpu z80", "invalid choice"),
        ("--ioeventfd perhaps", "neither on nor off"),
        ("--colour blue", "unrecognized arguments"),
        ("--cmdline 'open", "No closing quotation"),
    ],
)
def test_a_wrong_option_is_refused(shell: Shell, line: str, said: str) -> None:
    """In a line, with those that there are."""
    told = refusal(shell, f"%%guest {line}\n{HELLO}")
    assert said in told and "usage: %%guest" in told


@pytest.mark.usefixtures("cpu")
def test_what_boot_refuses_is_refused(shell: Shell) -> None:
    """As boot says it, and no machine is left."""
    assert "revision='v7'" in refusal(shell, f"%%guest --revision v7\n{HELLO}")
    assert "vm" not in shell.user_ns


def test_the_library_in_the_package_is_that_of_the_tree() -> None:
    """Every file, as it is."""
    for part in ("lib", "include"):
        there = {path.name: path.read_bytes() for path in (guest.LIBRARY / part).iterdir()}
        assert there == {path.name: path.read_bytes() for path in (ROOT / "guests" / part).iterdir()}, "make install"


# -- %%race ------------------------------------------------------------------------------------------------------------


def test_a_schedule_by_hand_loses_a_kick(shell: Shell, cpu: str) -> None:
    """Each decision with what it did, and each invariant with its sentence."""
    played = value(shell, f"%%race {LOST_KICK} --mutation {LOST_KICK}\nvcpu0 x2   # publish, kick\n\nvcpu0 x8\n")
    assert (played.cpu, played.moment.outcome, len(played.moment.decisions)) == (cpu, "done", 10)
    for shown in (repr(played), played._repr_html_()):
        assert "kick(0, 1)" in shown and "deassign" in shown
        assert "The guest waits for ever for a request that the device was told of." in shown
        assert "queue 0: avail.idx 1, used.idx 0, and all are idle" in shown


@pytest.mark.usefixtures("cpu")
def test_a_schedule_is_written_in_more_than_one_way(shell: Shell) -> None:
    """Names, letters, the text that a search gives; a scenario by its own name, or in a variable."""
    shell.user_ns["mine"] = KICK_AND_STOP
    head = f"{KICK_AND_STOP.name}:{KICK_AND_STOP.fingerprint}"
    schedules = {
        value(shell, f"%%race {scenario}\n{cell}").moment.schedule
        for scenario, cell in (
            (LOST_KICK, "vcpu0\nvcpu0\niothread x2\nvcpu0"),
            (KICK_AND_STOP.name, "vx2 iothread i\nv"),
            ("mine", f"{head}:vx2 ix2 v  # as found"),
        )
    }
    assert schedules == {f"{head}:vx2 ix2 v"}


@pytest.mark.usefixtures("cpu")
def test_a_schedule_that_has_not_ended_says_who_can_go(shell: Shell) -> None:
    """--rest lets it go on to its end; --name keeps the stepper, in the place of an older one."""
    played = value(shell, f"%%race {LOST_KICK}\nvcpu0 x2\n")
    assert played.ending == "goes on: vcpu0 or iothread can go"
    assert {one.state for one in played.moment.invariants} == {"open"}
    assert value(shell, f"%%race {LOST_KICK} --rest\nvcpu0 x2\n").ending == "ended: done"
    value(shell, f"%%race {LOST_KICK} --name s\nvcpu0 x2\n")
    first = shell.user_ns["s"]
    assert first.go("iothread").decisions[-1].actor == "iothread"
    value(shell, f"%%race {LOST_KICK} --name s\nvcpu0\n")
    assert first.closed and not shell.user_ns["s"].closed


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("vcpu0 x2\niothread x30", "line 3: iothread cannot go: it is idle. vcpu0 can"),
        ("iothread", "line 2: iothread cannot go: it is idle. vcpu0 can"),
        ("vcpu0 x10\n\nvcpu0", "line 4: vcpu0 cannot go: the schedule has ended"),
        ("main", "line 2: actor 'main': there are vcpu0, iothread"),
    ],
)
def test_a_line_that_cannot_go_is_named(shell: Shell, cell: str, said: str) -> None:
    """With who could."""
    assert refusal(shell, f"%%race {LOST_KICK} --mutation {LOST_KICK}\n{cell}").startswith(said)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("# nobody\nwho", "line 3: 'who' is no actor: there are iothread, backend"),
        ("vcpu8", "line 2: 'vcpu8' is no actor"),
        ("vcpu0 x0", "line 2: schedule 'kick-and-stop:"),
        ("vcpu0 x99999", "line 2: schedule"),
        ("vcpu0 x300\nvcpu0 x101", "line 3: a schedule of kick-and-stop has at most 400"),
        ("other:1234:v", "line 2: schedule 'other:1234:v': it is of other"),
        ("ⅴcpu0 ２", "line 2: 'ⅴcpu0' is no actor"),
    ],
)
def test_a_line_that_names_nobody_is_named(shell: Shell, cell: str, said: str) -> None:
    """Before anything is played."""
    assert refusal(shell, f"%%race {LOST_KICK}\n{cell}").startswith(said)


def test_the_scenarios_are_listed(shell: Shell) -> None:
    """`%race` all of them, `%race SCENARIO` who takes part; one that is not there is refused."""
    listed = value(shell, "%race")
    assert [row[0] for row in listed.rows] == names()
    shell.user_ns["mine"] = PAUSE
    assert value(shell, "%race mine").rows == (
        ("vcpu0", "publish(0), kick(0, 1)"),
        ("iothread", "serves what it finds"),
        ("main", "pause_and_resume"),
    )
    assert "no-such" in refusal(shell, "%race no-such")
    assert "no-such" in refusal(shell, "%%race no-such\nvcpu0")
    assert "no-such" in refusal(shell, f"%%race {LOST_KICK} --mutation no-such\nvcpu0")


# -- %rule -------------------------------------------------------------------------------------------------------------


def test_a_rule_is_shown_with_its_places(shell: Shell) -> None:
    """Its text, the rows of each revision, and the source of those."""
    shown = value(shell, "%rule R2")
    assert shown.text == labkit.rules.text("R2")
    assert ("merged", "DRIVER_OK", "STORE_STATUS, START, NOTE_BUS_MASTER_BUG", "commit 25db9ebe15") in shown.rows.rows
    for text in (repr(shown), shown._repr_html_()):
        assert "commit 25db9ebe15" in text and "17 Dec 2010" in text
    assert value(shell, "%rule 2") == shown
    assert [row[0] for row in value(shell, "%rule").rows] == [f"R{number}" for number in range(1, 19)]
    assert "there are R1, R2" in refusal(shell, "%rule R99")


@pytest.mark.parametrize("number", range(1, 19))
def test_every_rule_has_a_place_in_every_revision(number: int) -> None:
    """A row, what START and STOP do, or the prose alone."""
    rows = labkit.rules.places(f"R{number}").rows
    assert list(dict.fromkeys(row[0] for row in rows)) == list(labkit.rules.names())
    assert all(all(row) for row in rows)


# -- Tab ---------------------------------------------------------------------------------------------------------------


def completed(shell: Shell, text: str) -> list[str]:
    """What a Tab offers at the end of a text: by both ways that IPython has, which agree where it is one line."""
    with provisionalcompleter():
        words = [one.text for one in shell.Completer.completions(text, len(text))]
    if "\n" not in text:
        with warnings.catch_warnings(action="ignore", category=PendingDeprecationWarning):
            _, matches = shell.complete(None, text, len(text))
        assert set(words) == set(matches)
    return words


ACTORS = ["iothread", "backend", "main", "vcpu0", "vcpu1"]


def test_words_of_a_machine_are_completed(shell: Shell, boot: Callable[..., labkit.Machine]) -> None:
    """Actors, gates, registers, specimens, errors; by position and by name, in the words of the very machine."""
    shell.user_ns["vm"] = vm = boot(vcpus=2)
    assert completed(shell, 'vm.hold("') == ACTORS
    assert completed(shell, "vm.step('vcpu") == ["vcpu0", "vcpu1"]
    assert completed(shell, 'vm.hold("iothread", at="') == list(gates.NAMES)
    assert completed(shell, 'vm.hold(\n    "iothread",  # a "comment\n    "after-d') == [
        "after-deassign",
        "after-drain",
    ]
    assert completed(shell, 'vm.gates.wait("io') == ["iothread"]
    assert completed(shell, 'x = vm.registers()["rb') == ["rbx", "rbp"]
    assert completed(shell, 'vm.registers()["') == list(vm.registers())
    assert completed(shell, 'vm.museum["dang') == ["dangling-fd"]
    assert completed(shell, 'vm.fault.fail_assign(queue=0, error="ENOS') == ["ENOSPC", "ENOSR", "ENOSTR", "ENOSYS"]
    vm.close()
    assert completed(shell, 'vm.hold("vcpu1') == ["vcpu1"]


def test_words_of_labkit_are_completed(shell: Shell) -> None:
    """Revisions, devices, back ends, mutations in a list, rules, specimens, schedulers."""
    shell.run_cell("import labkit\nfrom labkit import boot, museum, races")
    assert completed(shell, 'labkit.boot(revision="') == list(labkit.rules.names())
    assert completed(shell, 'boot("b') == ["blk"]
    assert completed(shell, "boot(cpu='") == ["auto", "kvm", "emulated"]
    assert completed(shell, 'boot(mutations=["negative-index", "dang') == ["dangling-fd"]
    assert completed(shell, 'boot(mutations=["v6:PAUSE-w') == ["v6:PAUSE-without-STOP"]
    assert completed(shell, 'labkit.museum.run("') == names()
    assert completed(shell, 'museum.find("dang') == ["dangling-fd"]
    assert completed(shell, 'races.explore("dangling-fd", scheduler="d') == ["dfs"]
    assert completed(shell, 'races.replay("dang') == ["dangling-fd"]
    assert completed(shell, 'labkit.rules.text("R1')[:3] == ["R1", "R10", "R11"]


def test_words_of_magics_are_completed(shell: Shell) -> None:
    """Options, their values, scenarios, rules, and actors in the lines of a race."""
    assert {"--asm", "--name", "--cmdline"} <= set(completed(shell, "%%guest --"))
    assert completed(shell, "%%guest --asm --revision to") == ["today"]
    assert completed(shell, "%%race lost") == [LOST_KICK]
    assert completed(shell, f"%%race {LOST_KICK} --mutation dang") == ["dangling-fd"]
    assert completed(shell, f"%%race {LOST_KICK}\nvcpu0\nio") == ["iothread"]
    assert completed(shell, "%race dang") == ["dangling-fd"]
    assert completed(shell, "%rule R18") == ["R18"]


def test_what_is_not_labkits_is_left_alone(shell: Shell) -> None:
    """A method of the same name, a string elsewhere; attributes of an object that is not labkit's are not read."""

    class Other:
        @property
        def at(self) -> Other:
            raise AssertionError("it was read")

        def hold(self, actor: str) -> None:
            """As a machine's, and not one."""

    shell.user_ns["other"] = Other()
    for text in ('other.hold("', 'print("vcpu', 'f"', 'x = "', "hold('"):
        assert not {"iothread", "vcpu0"} & set(completed(shell, text)), text
    assert Completion(shell.user_ns).words('other.at.hold("') == ([], "")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('f("', call.Argument("f", False, 0, "", "")),
        ('f(1, (2, 3), "a b', call.Argument("f", False, 2, "", "a b")),
        ('f(x, at = "y', call.Argument("f", False, 1, "at", "y")),
        ('f(x == "y', call.Argument("f", False, 0, "", "y")),
        ("f(a, b=[g(1), '", call.Argument("f", False, 1, "b", "")),
        ('a.b["c', call.Argument("a.b", True, 0, "", "c")),
        ('f("a, (", r"x', call.Argument("f", False, 1, "", "x")),
        ('f("a\\"", "', call.Argument("f", False, 1, "", "")),
        ('"f(" + g(\'', call.Argument("g", False, 0, "", "")),
        ('f("""a', None),
        ('f(f"a', None),
        ('f("a"', None),
        ('f() "', None),
        ("# f('", None),
        ('f("a\ng("', call.Argument("g", False, 0, "", "")),
        ("", None),
        ("'", None),
        (')]}"', None),
    ],
)
def test_a_call_that_is_being_written_is_understood(text: str, found: call.Argument | None) -> None:
    """Whatever is closed, nested, quoted or a comment."""
    assert call.argument(text) == found


def test_a_kernel_completes_it() -> None:
    """What JupyterLab asks: complete_request, with the place of the word; and a refusal is one line there, too."""
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        client.execute_interactive("import labkit\n%load_ext labkit", timeout=120, store_history=False)
        text = 'labkit.boot(revision="to'
        told = client.complete(text, len(text), reply=True, timeout=120)["content"]
        assert (told["matches"], told["cursor_start"], told["cursor_end"]) == (["today"], len(text) - 2, len(text))
        shown: list[Any] = []
        client.execute_interactive("%%guest --colour blue\nint x;", timeout=120, output_hook=shown.append)
        (error,) = [one["content"] for one in shown if one["msg_type"] == "error"]
        assert error["traceback"] == [f"UsageError: {error['evalue']}"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# -- the extension itself ----------------------------------------------------------------------------------------------


def what_is_there(shell: Shell) -> tuple[dict[str, set[str]], list[Any]]:
    """Magics by kind, and matchers."""
    magics = {kind: set(found) for kind, found in shell.magics_manager.magics.items()}
    return magics, list(shell.Completer.custom_matchers)


def test_it_goes_as_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded twice it is there once; unloaded it is gone, magics and completion."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    made = new_shell()
    before = what_is_there(made)
    for _ in range(2):
        labkit.load_ipython_extension(made)
    assert {"race", "rule"} <= set(made.magics_manager.magics["line"])
    assert len(made.Completer.custom_matchers) == len(before[1]) + 1
    for _ in range(2):
        labkit.unload_ipython_extension(made)
    assert what_is_there(made) == before
    atexit.unregister(made.atexit_operations)


def test_help_tells_of_the_magics_and_gates(shell: Shell) -> None:
    """`%%guest?` has its options, `vm.hold?` where the gates are listed."""
    assert "--cmdline" in shell.magics_manager.magics["cell"]["guest"].__doc__
    assert "--mutation" in shell.magics_manager.magics["cell"]["race"].__doc__
    assert "%rule R5" in shell.magics_manager.magics["line"]["rule"].__doc__
    assert "labkit.trace.gates" in labkit.Machine.hold.__doc__
    assert race.WHAT.splitlines()[0] in race.RaceMagic.play.__doc__


@pytest.mark.usefixtures("cpu")
def test_the_page_says_what_works(shell: Shell) -> None:
    """Each cell of docs/ipython.md runs, and the guests and the schedule in it do what is said of them."""
    cells = re.findall(r"```ipython\n(.*?)```", PAGE.read_text(), re.DOTALL)
    found = [value(shell, cell) for cell in cells]
    assert [type(one).__name__ for one in found] == ["NoneType", "Ended", "Machine", "Played", "Shown"]
    assert found[1].console == "sectors capacity=32768"
    assert [one.name for one in found[3].moment.invariants if one.state == "broken"] == ["every-kick-is-served"]
