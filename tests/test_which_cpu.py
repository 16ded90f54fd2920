"""Does everything that shows a machine, or a time of one, say which CPU ran its guest?"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from rulebook import Boot

import labkit
from labkit import cli, views
from labkit.trace import Trace

pytestmark = pytest.mark.usefixtures("fonts")
CAUTION = "whose times say nothing about hardware"
VCPUS = 2


def title(trace: Trace) -> str:
    """What stands above its picture."""
    return trace.timeline().axes[0].get_title(loc="left")


def test_only_an_emulated_cpu_needs_a_caution() -> None:
    """Its times are an emulator's; those of KVM are those of this machine. A replay says what it is a replay of."""
    assert views.cpu_note("kvm") == "cpu: kvm"
    assert views.cpu_note("emulated") == f"cpu: emulated, {CAUTION}"
    assert views.cpu_note("replay of a recording made on emulated").endswith(CAUTION)
    assert CAUTION not in views.cpu_note("replay of a recording made on kvm")


def test_a_machine_says_which_cpu_it_has(boot: Boot, cpu: str) -> None:
    """As a value, in words for a caption, and as the last line of a cell."""
    vm = boot(vcpus=VCPUS)
    assert (vm.cpu, vm.cpu_note) == (cpu, views.cpu_note(cpu))
    assert f"{cpu}, {VCPUS} vCPUs" in repr(vm)
    assert f"<td>{cpu}, {VCPUS} vCPUs</td>" in vm._repr_html_()


def test_a_trace_says_on_which_cpu(boot: Boot, cpu: str, tmp_path: Path) -> None:
    """The list, the table and the picture, of a live machine, of a closed one, and of its recording."""
    vm = boot()
    vm.guest.read(0)
    vm.trace.save(tmp_path / "recording")
    note = views.cpu_note(cpu)
    vm.close()
    recording = labkit.replay(tmp_path / "recording")
    for trace in (vm.trace, recording.trace):
        assert trace.cpu == trace.frame().attrs["cpu"] == cpu
        assert repr(trace).endswith(f" events, {note}>")
        assert f"<caption>last events, {note}</caption>" in trace._repr_html_()
        assert title(trace) == note


def test_a_table_and_a_picture_of_nothing_say_it_too(boot: Boot, cpu: str) -> None:
    """Where no event was asked for."""
    trace = boot().trace
    assert trace.frame("crash").attrs["cpu"] == cpu
    assert trace.timeline(since=trace.mark()).axes[0].get_title(loc="left") == views.cpu_note(cpu)


def test_a_replay_says_that_it_is_one(boot: Boot, cpu: str, tmp_path: Path) -> None:
    """No guest runs there: the machine's view says so, and which CPU it was."""
    boot().trace.save(tmp_path / "recording")
    recording = labkit.replay(tmp_path / "recording")
    assert f"replay of a recording made on {cpu}, 1 vCPU" in repr(recording)
    assert recording.cpu_note == views.cpu_note(recording.cpu)
    assert (CAUTION in recording.cpu_note) is (cpu == "emulated")


def test_a_storm_says_on_which_cpu(boot: Boot, cpu: str) -> None:
    """In words and as a table, above its times; a line for each vCPU."""
    storm = boot(vcpus=VCPUS).guest.storm(20, depth=4, think_ns=1000)
    assert (storm.cpu, storm.cpu_note) == (cpu, views.cpu_note(cpu))
    caption, *lines = repr(storm).splitlines()
    assert caption == f"storm, {storm.cpu_note}"
    assert lines[0].split(None, 1) == ["requests", "20, 4 in flight, 1 us of work on each"]
    assert [line.split()[:2] for line in lines[-VCPUS:]] == [["vCPU", "0"], ["vCPU", "1"]]
    assert f"<caption>{caption}</caption>" in storm._repr_html_()


def test_a_storm_without_errors_has_no_word_of_them(boot: Boot) -> None:
    """Nor of work that there was none of."""
    storm = boot().guest.storm(10, depth=1)
    assert "10, 1 in flight" in repr(storm).splitlines()[1]
    assert "error" not in repr(storm)
    assert "10, 1 in flight, 3 errors" in repr(storm._replace(errors=3))


@pytest.mark.usefixtures("leaves_nothing")
def test_the_command_line_says_it_beside_a_time(cpu: str) -> None:
    """`labkit boot` tells how long a boot took."""
    (first, *_) = CliRunner().invoke(cli.main, ["boot"]).stdout.splitlines()
    assert f"1 vCPU on {cpu}, " in first
    assert first.endswith(f" ms ({views.cpu_note(cpu)})." if cpu == "emulated" else " ms.")
