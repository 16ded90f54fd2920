"""QEMU as a process: its monitor, the guest at its serial port, and how either fails."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from oracle import qemu
from oracle.qmp import Qmp, QmpError

Far = socket.socket
GREETING: dict[str, dict[str, str]] = {"QMP": {}}
DONE: dict[str, dict[str, str]] = {"return": {}}
ENOUGH_S, AT_ONCE_S = 60.0, 0.01


def say(far: Far, *messages: object) -> None:
    """What a monitor says, before or after it was asked: the client reads it in order."""
    far.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))


@pytest.fixture
def ends() -> Iterator[tuple[Qmp, Far]]:
    """A client that has said hello, and the monitor's end of its connection."""
    near, far = socket.socketpair()
    near.settimeout(ENOUGH_S)
    with near, far:
        say(far, GREETING, DONE)
        client = Qmp(near)
        assert json.loads(far.recv(4096)) == {"execute": "qmp_capabilities"}
        yield client, far
        client.close()


def test_a_command_is_answered(ends: tuple[Qmp, Far]) -> None:
    """The answer is what `return` holds; events that come before it are not taken for one."""
    client, far = ends
    say(far, {"event": "STOP", "data": {}}, {"return": {"running": False}})
    assert client.command("query-status") == {"running": False}
    assert json.loads(far.recv(4096)) == {"execute": "query-status"}


def test_a_refusal_names_the_command(ends: tuple[Qmp, Far]) -> None:
    """What the monitor says is in the error, with what was asked."""
    client, far = ends
    say(far, {"error": {"class": "CommandNotFound", "desc": "there is no such thing"}})
    with pytest.raises(QmpError, match="dance: there is no such thing"):
        client.command("dance")


def test_a_silent_monitor_is_an_error() -> None:
    """A monitor that does not even greet is not waited for for ever."""
    near, far = socket.socketpair()
    near.settimeout(AT_ONCE_S)
    with near, far, pytest.raises(QmpError, match="does not answer"):
        Qmp(near)


def test_a_monitor_that_hangs_up_is_an_error(ends: tuple[Qmp, Far]) -> None:
    """The end of QEMU is told as such."""
    client, far = ends
    far.close()
    with pytest.raises(QmpError):
        client.command("stop")


@pytest.mark.parametrize(
    ("installed", "problem"),
    [("7.2.22 (Debian 1:7.2)", ""), ("8.2.0", "the recording is of QEMU 7.2, and this is QEMU 8.2"), ("?", "unknown")],
)
def test_only_the_recorded_version_is_compared(
    installed: str, problem: str, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another QEMU may rightly do something else, and a skip says which one it is."""
    program = os.path.join(tmp_path, qemu.PROGRAM)
    with open(program, "w") as script:
        script.write(f"#!/bin/sh\necho 'QEMU emulator version {installed}'\n")
    os.chmod(program, 0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert (problem in qemu.why_not()) if problem else qemu.why_not() == ""


def test_a_missing_qemu_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of the skip is the way out of it."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install qemu-system-x86" in qemu.why_not()


@pytest.mark.usefixtures("needs_qemu", "leaves_nothing")
def test_a_qemu_that_does_not_start_says_why() -> None:
    """Its own words are in the error, and nothing of it is left."""
    with pytest.raises(qemu.QemuError, match="'nonsense' is not a valid device model name"):
        qemu.Qemu("-device", "nonsense")


@pytest.mark.usefixtures("needs_qemu", "leaves_nothing")
def test_a_guest_that_is_told_nonsense_says_so_and_goes_on() -> None:
    """A word that is no step and a line that is too long are answered, and the next step is done."""
    with qemu.Qemu() as process:
        for text, said in (("dance", "no step: dance"), ("load:" + "0" * 300, "no step: the line is too long")):
            with pytest.raises(qemu.QemuError, match=said):
                process.step(text)
        assert process.step("load:0x100000:4") == "step load answer=0 value=0x1badb002"


def run_alone(options: str) -> tuple[int, list[str]]:
    """The agent with what it finds on its command line: its exit code, and what it printed on the console port."""
    machine = [qemu.PROGRAM, "-accel", qemu.accelerator(), "-bios", qemu.FIRMWARE, "-m", "64", "-no-reboot"]
    nothing_else = ["-nodefaults", "-display", "none", "-debugcon", "stdio"]
    ends = ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(qemu.AGENT), "-append", options]
    command = [*machine, *nothing_else, *ends]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ENOUGH_S, check=False)
    return done.returncode, done.stdout.decode().splitlines()


@pytest.mark.usefixtures("needs_qemu")
@pytest.mark.parametrize(
    ("options", "ends_with", "printed"),
    [
        ("steps=load:0x100000:4", 0, "step load answer=0 value=0x1badb002"),
        ("steps=negotiate:poll", 1, "step negotiate answer=2 offered=0x0 accepted=0x0 queues=0x0 bar0=0x0 status=0x0"),
        ("steps=dance", 2, "no step: dance"),
        ("steps=serial", 1, "there is no serial port"),
        ("", 1, "this guest is driven by labkit, and nobody is there"),
    ],
)
def test_the_agent_alone_says_how_it_went(options: str, ends_with: int, printed: str) -> None:
    """guests/README.md: 0 if every step answered 0, 1 if one did not or nobody can tell it any, 2 for no step."""
    assert run_alone(options) == (ends_with << 1 | 1, [printed])
