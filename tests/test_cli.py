"""Do the verbs say in a shell what happened, in plain words and as JSON, and end with the right exit code?"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import labkit
from labkit import abi, cli
from labkit.cpu import kvm

SECTOR = abi.SECTOR_BYTES
SAMPLE = Path(__file__).parent / "data" / "format1.labkit"


def run(*arguments: str) -> Result:
    """Run `labkit` with these arguments, in this process."""
    return CliRunner().invoke(cli.main, arguments)


def story(*arguments: str) -> Any:
    """Return what `labkit boot --json` said."""
    result = run("boot", "--json", *arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return json.loads(result.stdout)


def fails(result: Result, exit_code: int) -> str:
    """Check an error: nothing on stdout, one line on stderr. Return the line."""
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert result.stderr.startswith("labkit: ") and result.stderr.count("\n") == 1
    return result.stderr


# -- boot -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.kvm
def test_the_notifier_goes_to_the_vmm_and_back() -> None:
    """Queue 0: none → vmm at DRIVER_OK, back when it is cleared, by R2; one synthetic kick and one of the guest."""
    told = story()
    changes = [(c["before"], c["after"], c["rule"], c["cause"], c["thread"]) for c in told["notifier"]]
    assert changes == [("none", "vmm", "R2", "DRIVER_OK", "vcpu0"), ("vmm", "none", "R2", "DRIVER_NOT_OK", "vcpu0")]
    assert told["kicks"] == {"trapped": 0, "signalled": 1, "drained": 0, "synthetic": 1}
    assert told["cpu"] == "kvm"


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.kvm
def test_without_ioeventfd_every_kick_traps() -> None:
    """With the property off nothing is started, and the read's kick comes as a trap."""
    told = story("--ioeventfd", "off", "--irq", "poll")
    assert (told["notifier"], told["port"]) == ([], None)
    assert told["kicks"] == {"trapped": 1, "signalled": 0, "drained": 0, "synthetic": 0}


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.kvm
def test_the_sector_is_the_disks(tmp_path: Path) -> None:
    """What the guest read is what stands in the image, at the sector asked for."""
    image = tmp_path / "disk.img"
    image.write_bytes(b"".join(bytes([n]) * SECTOR for n in range(8)))
    told = story("--disk", str(image), "--sector", "5", "--vcpus", "2", "--memory-mib", "32")
    assert bytes.fromhex(told["data"]) == bytes([5]) * SECTOR
    assert (told["vcpus"], told["memory_mib"], told["disk"]) == (2, 32, str(image))


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("ioeventfd", "sentences"),
    [
        (
            "on",
            [
                "notifier none -> vmm, because the guest wrote DRIVER_OK (R2): kicks of port 0x",
                "notifier vmm -> none, because the guest cleared DRIVER_OK (R2): kicks trap again.",
                "1 synthetic kick",
                "kicks of the guest: 0 by trap, 1 by eventfd",
            ],
        ),
        ("off", ["its notifier stays with nobody, for ioeventfd is off (R1)", "1 by trap, 0 by eventfd"]),
    ],
)
def test_boot_in_plain_words(ioeventfd: str, sentences: list[str]) -> None:
    """The same story in sentences."""
    result = run("boot", "--ioeventfd", ioeventfd)
    assert result.exit_code == 0
    assert [sentence for sentence in sentences if sentence not in result.stdout] == []


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.kvm
def test_boot_by_intx() -> None:
    """--irq intx: the same story, told of a machine with an I/O APIC."""
    result = run("boot", "--irq", "intx", "--json")
    assert result.exit_code == 0
    story = json.loads(result.stdout)
    assert (story["irq"], bytes.fromhex(story["data"])[:6]) == ("intx", b"labkit")


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.kvm
def test_a_kernel_of_ones_own() -> None:
    """Its console is shown, and its exit code by port 0xf4 is the verb's."""
    kernel = str(abi.GUEST_IMAGES / "storm.elf")
    options = ("--kernel", kernel, "--cmdline", "requests=20 depth=4")
    shown, told = run("boot", *options), run("boot", "--json", *options)
    assert (shown.exit_code, told.exit_code) == (1, 1)  # (0 << 1) | 1
    assert "requests=20" in shown.stdout
    as_json = json.loads(told.stdout)
    assert as_json["exit_code"] == 1 and "requests=20" in as_json["console"]


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--disk", "/no/such/disk.img"], "disk.img"),
        (["--disk", "/no/such/disk.img", "--json"], "disk.img"),
        (["--vcpus", "99"], "vcpus=99"),
        (["--memory-mib", "1"], "memory_mib=1"),
        (["--kernel", "/no/such/kernel.elf"], "kernel.elf"),
        (["--kernel", "kernel.elf", "--sector", "1"], "--sector"),
        (["--cmdline", "quiet"], "--kernel"),
    ],
)
def test_a_mistake_of_the_user(arguments: list[str], said: str) -> None:
    """Exit code 2 and one clear line."""
    assert said in fails(run("boot", *arguments), 2)


def test_a_host_without_kvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Exit code 3, the call, and the way to mend it."""
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    assert "load kvm_intel or kvm_amd" in fails(run("boot", "--cpu", "kvm"), 3)


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.kvm
def test_a_request_that_the_guest_cannot_do() -> None:
    """Exit code 4: a sector behind the end of the disk is answered IOERR."""
    assert "IOERR" in fails(run("boot", "--sector", "1000000"), 4)


def test_an_error_of_several_lines_becomes_one() -> None:
    """Whatever the message: one line."""
    group = cli.Verbs("labkit")

    @group.command()
    def fail() -> None:
        raise labkit.GuestError("first\n  second")

    assert fails(CliRunner().invoke(group, ["fail"]), 4) == "labkit: first second\n"


def test_every_error_of_the_package_has_an_exit_code() -> None:
    """None of them can end as a traceback, and a user can tell them apart."""
    assert set(cli.EXIT_CODES) == set(labkit.errors.LabkitError.__subclasses__())
    assert len(set(cli.EXIT_CODES.values())) == len(cli.EXIT_CODES)
    assert click.UsageError.exit_code == cli.EXIT_CODES[labkit.UsageError]


# -- doctor and bench -------------------------------------------------------------------------------------------------


@pytest.mark.kvm
def test_the_doctor_finds_a_back_end() -> None:
    """Exit code 0 where a guest can be booted; one line a check."""
    plain, told = run("doctor"), run("doctor", "--json")
    assert (plain.exit_code, told.exit_code) == (0, 0)
    assert "back end: kvm" in plain.stdout and "ok       /dev/kvm" in plain.stdout
    assert json.loads(told.stdout)["back_end"] == "kvm"


@pytest.mark.usefixtures("no_unicorn")
def test_the_doctor_finds_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Exit code 1 where none can, with what is missing and how to mend it."""
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    plain, told = run("doctor"), run("doctor", "--json")
    assert (plain.exit_code, told.exit_code) == (1, 1)
    assert "missing" in plain.stdout and "load kvm_intel or kvm_amd" in plain.stdout
    assert json.loads(told.stdout)["usable"] is False


def test_bench_as_json_and_as_markdown() -> None:
    """One row each way; JSON has the shape that others read."""
    told = json.loads(run("bench", "--quick", "--rows", "event", "--json").stdout)
    assert {"cpu", "rows"} <= told.keys()
    assert {"row", "value", "unit", "floor", "ratio", "peer"} <= told["rows"][0].keys()
    table = run("bench", "--quick", "--rows", "event", "--markdown").stdout
    assert "| row |" in table and "| event |" in table
    assert "event" in run("bench", "--quick", "--rows", "event").stdout


@pytest.mark.emulated
def test_bench_says_that_its_cpu_was_emulated() -> None:
    """In the title, in the markdown and in JSON."""
    asked = ("bench", "--quick", "--rows", "event", "--cpu", "emulated")
    assert json.loads(run(*asked, "--json").stdout)["cpu"] == "emulated"
    assert "not of hardware" in run(*asked, "--markdown").stdout
    assert "an emulator" in run(*asked).stdout


@pytest.mark.parametrize("arguments", [["--rows", "speed"], ["--rows", ","], ["--json", "--markdown"]])
def test_bench_refuses(arguments: list[str]) -> None:
    """A row that does not exist, no row at all, two forms at once."""
    fails(run("bench", *arguments), 2)


def test_help_is_light() -> None:
    """`labkit --help` loads neither tables nor the bench nor a plotting library."""
    heavy = ("rich", "pandas", "matplotlib", "labkit.bench", "labkit.doctor")
    code = f"import sys, labkit.cli; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# -- replay ------------------------------------------------------------------------------------------------------------


def test_replay_tells_the_story() -> None:
    """Facts, state and owners, at the end or at a moment, without a machine."""
    result = run("replay", str(SAMPLE))
    assert result.exit_code == 0
    for words in ("replay of a recording made on kvm", "state    paused", "none -> backend", "used.idx"):
        assert words in result.stdout
    early = run("replay", str(SAMPLE), "--at", "0")
    assert "no notifier had an owner so far" in early.stdout


def test_replay_as_json() -> None:
    """The same as data."""
    found = json.loads(run("replay", str(SAMPLE), "--json").stdout)
    assert (found["device"], found["cpu"], found["state"], found["lost"]) == ("blk", "kvm", "paused", 0)
    assert found["position"] == found["events"]
    assert found["notifiers"][0]["after"] == "vmm"
    assert found["values"]["STATUS"] == abi.Status.ACKNOWLEDGE | abi.Status.DRIVER | abi.Status.DRIVER_OK


def test_replay_writes_what_others_read(tmp_path: Path) -> None:
    """A table and a trace of perfetto's, the same as a notebook gets, beside the story."""
    result = run("replay", str(SAMPLE), "--csv", str(tmp_path / "a.csv"), "--perfetto", str(tmp_path / "a.pftrace"))
    assert "replay of a recording" in result.stdout
    recording = labkit.replay(SAMPLE)
    recording.trace.csv(tmp_path / "b.csv")
    recording.trace.perfetto(tmp_path / "b.pftrace")
    for kind in ("csv", "pftrace"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert "No such file" in fails(run("replay", str(SAMPLE), "--csv", str(tmp_path / "nowhere" / "a.csv")), 2)


def test_replay_of_something_else(tmp_path: Path) -> None:
    """One line, and the exit code of a caller's error."""
    (tmp_path / "text").write_text("not this")
    assert "is not a recording" in fails(run("replay", str(tmp_path / "text")), 2)
