"""Does a machine move from one shell to another? Real processes: what both say, and whose fault it is if not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import folder
from click.testing import CliRunner
from journal import ALL_WELL, GPA, WORD

from labkit import abi, cli

NUMBERS, SECTOR = abi.NUMBERS, abi.SECTOR_BYTES
WAIT_S = 100.0
STORM = str(abi.GUEST_IMAGES / "storm.elf")
# A kernel that cannot have ended before it moves: it writes its disk until the host has it stop.
ENDLESS = ("--kernel", str(abi.GUEST_IMAGES / "journal.elf"), "--cmdline", "span=16", "--writable")
CAUTION = "whose times say nothing about hardware"

Start = Callable[..., "Shell"]


class Shell:
    """`labkit` with these arguments, in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "labkit.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def first_line(self) -> str:
        """Of stderr: with -v that somebody listens."""
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        out, err = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out, err

    def story(self) -> Any:
        """What it said with --json, and no word else."""
        code, out, err = self.end()
        assert (code, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def shell() -> Iterator[Start]:
    """Start shells; none is left at the end. They inherit $LABKIT_CPU, which `cpu` sets."""
    shells: list[Shell] = []

    def start(*arguments: str) -> Shell:
        shells.append(Shell(*arguments))
        return shells[-1]

    yield start
    for one in shells:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def listening(shell: Start) -> Callable[..., tuple[Shell, str]]:
    """Somebody who waits for a machine, at a port that the kernel has chosen; and the address."""

    def start(verb: str, *arguments: str) -> tuple[Shell, str]:
        where = ["--incoming", "tcp:0"] if verb == "boot" else ["tcp:0"]
        waits = shell(verb, *where, "-v", *arguments)
        line = waits.first_line()
        assert line.startswith("listening at tcp:127.0.0.1:")
        return waits, line.split()[-1]

    return start


Listening = Callable[..., tuple[Shell, str]]


def fails(ended: tuple[int, str, str], exit_code: int) -> str:
    """Check an error: nothing on stdout, the reason in the last line of stderr. Return that line."""
    code, out, err = ended
    assert (code, out) == (exit_code, "")
    return next(line for line in reversed(err.splitlines()) if line.startswith("labkit: "))


def owners(story: Any) -> list[tuple[str, str, str, str]]:
    """Each change of owner of queue 0."""
    return [(c["before"], c["after"], c["cause"], c["rule"]) for c in story["notifier"]]


# -- it moves ----------------------------------------------------------------------------------------------------------


def test_both_sides_tell_of_r10(shell: Start, listening: Listening, cpu: str) -> None:
    """Source: vmm -> none because PAUSE. Destination: none -> vmm because RESUME, one synthetic kick, a sector read."""
    waits, address = listening("receive", "--sector", "3", "--json")
    left = shell("migrate", address, "--json").story()
    code, out, _ = waits.end()
    came = json.loads(out)

    assert code == 0
    assert owners(left) == [("none", "vmm", "DRIVER_OK", "R2"), ("vmm", "none", "PAUSE", "R10")]
    assert owners(came) == [("none", "vmm", "RESUME", "R10")]
    assert came["kicks"] == {"trapped": 0, "signalled": 1, "drained": 0, "synthetic": 1}
    assert (came["came"], came["cpu"], came["device"], came["sector"]) == ("running", cpu, "blk", 3)
    assert (len(left["rounds"]), left["address"]) == (came["rounds"], address)
    assert left["rounds"][0]["pages"] > 0 and came["pages"] == left["pages"]


def test_a_move_in_plain_words(shell: Start, tmp_path: Path, cpu: str) -> None:
    """The same in sentences, over a unix socket, with progress by round; an emulator's times with their caveat."""
    waits = shell("receive", f"unix:{tmp_path}/socket", "-v")
    assert waits.first_line() == f"listening at unix:{tmp_path}/socket\n"
    code, out, err = shell("migrate", f"unix:{tmp_path}/socket", "-v").end()
    assert code == 0
    assert "Queue 0: notifier vmm -> none, because the machine was paused (R10)." in out
    last = out.splitlines()[-1]
    assert last.startswith(f"Moved to unix:{tmp_path}/socket: ")
    assert (CAUTION in last, CAUTION in err) == (cpu == "emulated", cpu == "emulated")
    assert "round sent: round 1, " in err and "dirty again" in err

    code, out, err = waits.end()
    assert code == 0 and "round stored: round 1, " in err
    for sentence in (
        f"1 vCPU on {cpu}, 16 MiB, virtio-blk, agent, rules v6; it came in 1 round, ",
        "notifier none -> vmm, because the machine was resumed (R10): kicks of port 0x",
        "1 synthetic kick, made by the start itself",
        "The guest read sector 0: 512 bytes, beginning",
        "Closed.",
    ):
        assert sentence in out
    assert not (tmp_path / "socket").exists()


@pytest.mark.guest
def test_its_disk_is_found_again(shell: Start, listening: Listening, tmp_path: Path) -> None:
    """A writable image by another name on the other side: what is read there is what stands in it."""
    image, also = tmp_path / "disk.img", tmp_path / "same.img"
    image.write_bytes(b"".join(bytes([n]) * SECTOR for n in range(8)))
    also.symlink_to(image)
    waits, address = listening("receive", "--disk", str(also), "--sector", "5", "--json")
    left = shell("migrate", address, "--disk", str(image), "--writable", "--sector", "4", "--json").story()
    came = json.loads(waits.end()[1])
    assert [bytes.fromhex(side["data"]) for side in (left, came)] == [bytes([4]) * SECTOR, bytes([5]) * SECTOR]


def ask_to_stop(shell: Shell) -> None:
    """Reach into its guest's memory, from outside."""
    files = Path(f"/proc/{shell.process.pid}/fd").iterdir()
    (memory,) = [path for path in files if "memfd:labkit-ram" in os.path.realpath(path)]
    with memory.open("r+b", buffering=0) as file:
        file.seek(GPA + NUMBERS["JOURNAL_STOP"])
        file.write((1).to_bytes(WORD, "little"))


@pytest.mark.usefixtures("cpu")
def test_a_kernel_ends_where_it_came_to(shell: Start, listening: Listening) -> None:
    """Its console came along and goes on, and its exit code is the receiver's."""
    waits, address = listening("boot", *ENDLESS, "--json")
    left = shell("migrate", address, *ENDLESS, "--after", "0", "--json").story()
    ask_to_stop(waits)
    code, out, _ = waits.end()
    came = json.loads(out)
    assert (code, came["exit_code"], came["guest"]) == (ALL_WELL, ALL_WELL, "journal.elf")
    assert came["console"].startswith(left["console"]) and "errors=0" in came["console"]
    assert "errors=0" not in left["console"]


@pytest.mark.guest
def test_a_kernel_in_plain_words(shell: Start, listening: Listening) -> None:
    """What came, its whole console, and how its kicks came."""
    waits, address = listening("receive")
    assert shell("migrate", address, *ENDLESS, "--after", "0").end()[0] == 0
    ask_to_stop(waits)
    code, out, _ = waits.end()
    lines = out.splitlines()
    assert code == ALL_WELL
    assert "journal.elf, rules v6; it came in " in lines[0]
    assert "journal acked=" in out and "kicks of the guest: " in lines[-1]


@pytest.mark.guest
def test_with_tls(shell: Start, listening: Listening, tmp_path: Path) -> None:
    """Each side shows its certificate."""
    import trustme

    authority = trustme.CA()
    here, there = (str(folder(tmp_path / name, authority, authority)) for name in ("here", "there"))
    waits, address = listening("receive", "--tls", there, "--json")
    assert shell("migrate", address, "--tls", here, "--json").story()["address"] == address
    assert waits.end()[0] == 0


# -- it does not -------------------------------------------------------------------------------------------------------


@pytest.mark.guest
def test_another_machine_than_expected(shell: Start, listening: Listening, tmp_path: Path) -> None:
    """What was given counts, though it be the default; both sides hear of all that differs, and end with 2."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(SECTOR))
    expected = ("--revision", "v6", "--vcpus", "1", "--irq", "intx", "--ioeventfd", "on", "--writable")
    waits, address = listening("boot", "--memory-mib", "16", "--kernel", STORM, *expected)
    other = ("--revision", "today", "--vcpus", "2", "--irq", "poll", "--ioeventfd", "off", "--disk", str(disk))
    sides = [fails(side.end(), 2) for side in (shell("migrate", address, "--memory-mib", "17", *other), waits)]
    for said in (
        "revision='v6', it has revision='today'",
        "vcpus=1, it has vcpus=2",
        "memory_mib=16, it has memory_mib=17",
        "irq='intx', it has irq='poll'",
        "ioeventfd=True, it has ioeventfd=False",
        "writable=True, it has writable=False",
    ):
        assert all(said in side for side in sides)
    assert "it runs the lab's own guest" in sides[1]  # the other side is told the first 400 characters


@pytest.mark.guest
def test_what_was_not_given_is_not_expected(shell: Start, listening: Listening) -> None:
    """`--incoming` alone takes any machine with a disk; an option that is true of it does no harm."""
    waits, address = listening("boot", "--vcpus", "2", "--json")
    shell("migrate", address, "--vcpus", "2", "--revision", "today", "--json").story()
    code, out, _ = waits.end()
    assert (code, json.loads(out)["revision"]) == (0, "today")


@pytest.mark.guest
def test_another_kernel_than_expected(shell: Start, listening: Listening) -> None:
    """Another file, or another command line."""
    spin = str(abi.GUEST_IMAGES / "spin.elf")
    waits, address = listening("boot", "--kernel", spin, "--cmdline", "chars=1")
    moved = shell("migrate", address, *ENDLESS, "--after", "0").end()
    line = fails(waits.end(), 2)
    assert "spin.elf" in line and "cmdline='chars=1'" in line and "span=16" in line
    assert moved[0] == 2 and "spin.elf" in moved[2]


@pytest.mark.kvm
@pytest.mark.emulated
def test_another_cpu_than_expected(shell: Start, listening: Listening) -> None:
    """`--cpu` says what CPU has to come, too: both sides end with 2, and say so."""
    waits, address = listening("receive", "--cpu", "emulated")
    moved = fails(shell("migrate", address, "--cpu", "kvm").end(), 2)
    assert all("runs on the back end 'kvm'" in side for side in (moved, fails(waits.end(), 2)))


@pytest.mark.guest
def test_nobody_is_there(shell: Start, tmp_path: Path) -> None:
    """Exit code 3, and what to start first."""
    address = f"unix:{tmp_path}/nobody"
    assert f"labkit receive {address}" in fails(shell("migrate", address).end(), 3)


@pytest.mark.guest
def test_a_disk_that_is_not_there(shell: Start, listening: Listening, tmp_path: Path) -> None:
    """The receiver's mistake: 2 on both sides, and each says which disk."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(SECTOR))
    waits, address = listening("receive", "--disk", "/no/such/disk.img")
    left = shell("migrate", address, "--disk", str(disk)).end()
    assert "/no/such/disk.img" in fails(waits.end(), 2)
    assert "/no/such/disk.img" in fails(left, 2)


@pytest.mark.guest
def test_a_kernel_that_ends_before_it_can_move(shell: Start, tmp_path: Path) -> None:
    """Exit code 2: there is nothing to move."""
    storm = ("--kernel", STORM, "--cmdline", "requests=20 depth=4", "--after", "600")
    code, out, err = shell("migrate", f"unix:{tmp_path}/nobody", *storm).end()
    assert code == 2 and "requests=20" in out and "take a smaller --after" in err


@pytest.mark.guest
@pytest.mark.parametrize("verb", ["receive", "boot"])
def test_an_interrupt_ends_the_waiting(shell: Start, tmp_path: Path, verb: str) -> None:
    """Ctrl-C: no traceback, and nothing is left at the path."""
    path = tmp_path / "socket"
    waits = shell(verb, *(["--incoming"] if verb == "boot" else []), f"unix:{path}", "-v")
    assert "listening at" in waits.first_line() and path.exists()
    os.kill(waits.process.pid, signal.SIGINT)
    code, out, err = waits.end()
    assert (code, out, path.exists()) == (1, "", False)
    assert err.strip() == "Aborted!"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["receive", "tcp:example.org:1:2"], "tcp:example.org:1:2"),
        (["receive", "unix:"], "no path"),
        (["receive", "tcp:0", "--tls", "/no/such/folder"], "/no/such/folder"),
        (["receive", "tcp:0", "--timeout", "-1"], "timeout_s=-1.0"),
        (["receive", "tcp:0.0.0.0:0"], "beyond this machine"),
        (["migrate", "nowhere"], "nowhere"),
        (["migrate", "tcp:1", "--rounds", "0"], "rounds=0"),
        (["migrate", "tcp:1", "--downtime-ms", "-1"], "downtime_s=-0.001"),
        (["migrate", "tcp:1", "--vcpus", "99"], "vcpus=99"),
        (["migrate", "tcp:1", "--cmdline", "quiet"], "--kernel"),
        (["boot", "--incoming", "tcp:0", "--kernel", "/no/such/kernel.elf"], "kernel.elf"),
        (["boot", "--timeout", "3"], "--timeout is for a machine that comes"),
        (["boot", "--tls", "here"], "--incoming"),
    ],
)
@pytest.mark.guest
def test_a_mistake_of_the_user(arguments: list[str], said: str) -> None:
    """Exit code 2 and one clear line."""
    result = CliRunner().invoke(cli.main, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("labkit: ") and result.stderr.count("\n") == 1
    assert said in result.stderr
