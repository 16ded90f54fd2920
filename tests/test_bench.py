"""Is every figure of the bench beside a floor of the same run, and is nothing left behind? Times are never judged."""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from jupyter_core.utils import ensure_event_loop

import labkit
from labkit import bench
from labkit.abi import BlkType, Command
from labkit.bench import BY_NAME, Report, qemu, run, table
from labkit.bench.bare import BareVcpu, boot, paused
from labkit.bench.row import (
    PAGES_PER_S,
    QUICK,
    REQUESTS_PER_S,
    Effort,
    Peer,
    Row,
    Samples,
    Spec,
    Target,
    interleaved,
    spread,
)
from labkit.bench.rows import rows_on

TINY = Effort(2, 2, kicks=20, trap_batches=2, ioeventfd_batches=4, requests=40, events=1000)
NEEDS_NO_GUEST = {"event", "import"}
NAMES = [
    *("trap_kick", "ioeventfd_kick", "requests_on_1", "requests_on_8", "requests_on_32"),
    *("requests_off_1", "requests_off_8", "requests_off_32", "threads_on", "threads_off", "blocked_on", "blocked_off"),
    *("spin", "boot", "reset", "reset_in_use", "pause_resume", "snapshot", "restore", "restore_running"),
    *("migrate_total_idle", "migrate_downtime_idle", "migrate_total_storm", "migrate_downtime_storm", "pages"),
    *("schedule", "screen", "screen_cpu", "event", "import"),
]
LEFT_OUT = ["threads_on", "threads_off", "blocked_on", "blocked_off"]  # on the emulated CPU
ON_BOTH = [pytest.param(cpu, marks=getattr(pytest.mark, cpu)) for cpu in ("kvm", "emulated")]


def rows_of(cpu: str) -> list[Any]:
    """A test's parameters: every row of that back end that needs a guest."""
    mark = getattr(pytest.mark, cpu)
    names = [name for name in NAMES if name not in NEEDS_NO_GUEST and not (cpu == "emulated" and name in LEFT_OUT)]
    return [pytest.param(name, cpu, marks=mark) for name in names]


def spec(unit: str = "ns", target: Target | None = None) -> Spec:
    """A row whose measurement is never made."""
    return Spec("x", unit, "something", "its floor", lambda _: Samples((), ()), target)


# -- rows -------------------------------------------------------------------------------------------------------------


def test_the_rows_are_the_promised_ones() -> None:
    """Their names are a contract."""
    assert list(BY_NAME) == NAMES


@pytest.fixture
def event_loop_there() -> None:
    """The client of a kernel makes one for this thread, and keeps it."""
    ensure_event_loop()


@pytest.mark.usefixtures("event_loop_there", "leaves_nothing")
@pytest.mark.parametrize(
    ("name", "back_end"),
    [*((name, "auto") for name in NAMES if name in NEEDS_NO_GUEST), *rows_of("kvm"), *rows_of("emulated")],
)
def test_a_row_has_value_floor_and_ratio(name: str, back_end: str) -> None:
    """The shape is as documented, the floor is real, the ratio is that of the two, and all of it is plain JSON."""
    affinity = os.sched_getaffinity(0)
    told = json.loads(json.dumps(run([name], TINY, cpu=back_end).as_json(), allow_nan=False))
    (row,) = told["rows"]
    assert back_end in ("auto", told["cpu"])
    assert {"row", "value", "unit", "floor", "ratio", "peer"} <= row.keys()
    assert (row["row"], row["peer"], row["repetitions"]) == (name, None, TINY.repetitions)
    assert row["value"] > 0 and row["floor"] > 0
    more_is_better = row["unit"] in ("requests/s", "pages/s")
    expected = row["floor"] / row["value"] if more_is_better else row["value"] / row["floor"]
    assert math.isclose(row["ratio"], expected)
    assert os.sched_getaffinity(0) == affinity


@pytest.mark.emulated
@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_row_that_a_back_end_cannot_have(name: str) -> None:
    """Who asks for it is told why there is none; nothing is measured."""
    with pytest.raises(labkit.UsageError, match="One thread executes all vCPUs"):
        run([name, "event"], TINY, cpu="emulated")


@pytest.mark.emulated
def test_all_rows_of_the_emulated_cpu() -> None:
    """Who asks for all gets those that say something, a note on the others, and no promise made about KVM."""
    specs, left_out = rows_on("emulated")
    assert [name for name in NAMES if name not in specs] == list(left_out) == LEFT_OUT
    assert {name for name, row in specs.items() if row.target} == NEEDS_NO_GUEST
    chosen, notes = bench._chosen(None, "emulated")
    assert [row.name for row in chosen] == list(specs)
    assert len(notes) == 1 and notes[0].startswith("threads, blocked: left out")


def test_the_floor_of_an_emulated_row_speaks_of_no_kvm() -> None:
    """Each back end has its own floors, and says which."""
    specs, _ = rows_on("emulated")
    assert [name for name, row in specs.items() if "KVM" in row.floor_is or "irqchip" in row.floor_is] == []
    assert rows_on("kvm") == (BY_NAME, {})


def test_values_and_floors_take_turns() -> None:
    """A B A B, and the first pair only warms up."""
    order: list[str] = []

    def take(name: str) -> float:
        order.append(name)
        return float(len(order))

    samples = interleaved(lambda: take("value"), lambda: take("floor"), 3)
    assert order == ["value", "floor"] * 4
    assert samples == Samples((3.0, 5.0, 7.0), (4.0, 6.0, 8.0))


@pytest.mark.parametrize(("unit", "ratio"), [("ns", 2.0), (REQUESTS_PER_S, 0.5), (PAGES_PER_S, 0.5)])
def test_larger_is_worse(unit: str, ratio: float) -> None:
    """The ratio is turned round for throughputs, and so is the peer's."""
    row = Row(spec(unit), Samples((10.0, 200.0, 20.0), (10.0, 10.0, 500.0)), Peer(value=5.0, own=10.0))
    assert (row.value, row.floor) == (20.0, 10.0)
    assert row.ratio == ratio
    assert row.peer_ratio == ratio


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (None, None),
        (Target("ratio", 2.0), True),
        (Target("ratio", 1.99), False),
        (Target("value", 20.0), True),
        (Target("value", 19.0), False),
    ],
)
def test_targets(target: Target | None, met: bool | None) -> None:
    """A target is about the ratio or about the value, and reaching it exactly is enough."""
    assert Row(spec(target=target), Samples((20.0,), (10.0,))).met is met


def test_spread() -> None:
    """Half of the figures lie within it, as a share of the median."""
    assert spread((5.0,)) == 0.0
    assert spread((1.0, 2.0, 3.0, 4.0, 5.0)) == pytest.approx(2 / 3)


@pytest.mark.parametrize("names", [["speed"], ["event", "speed"], []])
def test_unknown_rows(names: list[str]) -> None:
    """A row that does not exist is the caller's mistake, and is found before anything is measured."""
    with pytest.raises(labkit.UsageError, match="the rows are trap_kick"):
        run(names)


def test_an_unknown_peer() -> None:
    """So is a peer."""
    with pytest.raises(labkit.UsageError, match="qemu"):
        run(["event"], TINY, peer="bochs")


def test_an_unknown_cpu() -> None:
    """And a back end."""
    with pytest.raises(labkit.UsageError, match="kvm, emulated"):
        run(["event"], TINY, cpu="z80")


@pytest.mark.usefixtures("no_unicorn")
def test_a_cpu_that_is_not_here() -> None:
    """Asked for by name it is the host's fault, also for a row that needs no guest: the report would name it."""
    with pytest.raises(labkit.HostError, match="no emulated CPU here"):
        run(["event"], TINY, cpu="emulated")


def test_progress_is_told_row_by_row() -> None:
    """Whoever waits hears which row is measured."""
    heard: list[str] = []
    run(["event"], TINY, progress=heard.append)
    assert heard == ["event"]


# -- the bare loops and the machine they borrow -----------------------------------------------------------------------


@pytest.mark.usefixtures("leaves_nothing", "cpu")
@pytest.mark.parametrize("ioeventfd", [True, False])
def test_the_machine_goes_on_after_a_bare_storm(ioeventfd: bool) -> None:
    """A bare loop serves requests behind the device's back; device and driver agree again afterwards."""
    storm = (0, 20, 4, BlkType.IN, labkit.abi.SECTOR_BYTES, 1, 0, 64)
    with boot("blk", ioeventfd=ioeventfd) as bare:
        vm = bare.machine
        for _ in range(3):
            _, done, errors, *_ = bare.serve(Command.STORM, *storm, ioeventfd=ioeventfd)
            assert (done, errors) == (20, 0)
            assert vm.guest.read(0).startswith(b"labkit RAM disk")
            assert vm.guest.storm(20, 4).requests == 20
        queue = vm.proxy.queues[0]
        assert queue.used_idx == queue.last_avail_idx == queue.avail_idx == 3 * (20 + 1 + 20)


@pytest.mark.usefixtures("leaves_nothing", "cpu")
def test_a_step_after_a_bare_one_is_really_done() -> None:
    """A command that comes after a bare step reaches the guest: its kicks are counted."""
    with boot("null", ioeventfd=False) as bare:
        notifier = bare.machine.proxy.queues[0].notifier
        for done in range(1, 4):
            bare.ignore(Command.KICK_LOOP, bare.notify_port, 2, 0, 2, 10, ioeventfd=False)
            assert notifier.trapped == (done - 1) * 20
            bare.machine.guest.kick_loop(2, 10, bare.notify_port)
            assert notifier.trapped == done * 20


@pytest.mark.usefixtures("leaves_nothing", "cpu")
def test_a_bare_step_that_the_guest_refuses() -> None:
    """It is an error, and the machine runs again."""
    with boot("null", ioeventfd=True) as bare:
        with pytest.raises(labkit.GuestError, match="PORT_IN"):
            bare.ignore(Command.PORT_IN, 0, 3, ioeventfd=True)
        assert bare.machine.state == "running"
        assert bare.machine.proxy.queues[0].notifier.owner == "vmm"


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.emulated
def test_a_driver_that_nobody_interrupts() -> None:
    """Its kicks are ignored and it halts: the bare loop gives up, and the machine serves what was left."""
    storm = (0, 20, 4, BlkType.IN, labkit.abi.SECTOR_BYTES, 1, 1 << 40, 64)
    with boot("blk", ioeventfd=True, cpu="emulated") as bare:
        with pytest.raises(labkit.HostError, match="ETIME"):
            bare.ignore(Command.STORM, *storm, ioeventfd=False)
        vm = bare.machine
        assert vm.state == "running"
        assert vm.guest.read(0).startswith(b"labkit RAM disk")


@pytest.mark.usefixtures("leaves_nothing", "cpu")
def test_the_cpu_that_was_lent_is_as_it_was() -> None:
    """Between two steps nothing of the vCPU has changed but the clock."""
    with boot("null", ioeventfd=False) as bare:
        vm = bare.machine
        vm.guest.parked()
        bare.ignore(Command.KICK_LOOP, bare.notify_port, 2, 0, 2, 10, ioeventfd=False)
        vm.pause()
        stack = vm._board.owner.call(lambda: vm._board.look_at(0))["rsp"]
        vm.resume()
        bare.ignore(Command.KICK_LOOP, bare.notify_port, 2, 0, 2, 10, ioeventfd=False)
        vm.pause()
        assert vm._board.owner.call(lambda: vm._board.look_at(0))["rsp"] == stack


@pytest.mark.usefixtures("leaves_nothing", "cpu")
def test_an_interrupt_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a row: the machine is closed, and the thread may run everywhere again."""
    affinity, rounds = os.sched_getaffinity(0), []

    def interrupted(self: BareVcpu, *_: object) -> tuple[int, ...]:
        rounds.append(self.machine)
        raise KeyboardInterrupt

    monkeypatch.setattr(BareVcpu, "_step", interrupted)
    for name in ("trap_kick", "requests_on_8"):
        with pytest.raises(KeyboardInterrupt):
            run([name], TINY)
    assert [vm.state for vm in rounds] == ["closed", "closed"]
    assert os.sched_getaffinity(0) == affinity


def test_paused_resumes_whatever_happens(boot: Callable[..., labkit.Machine]) -> None:
    """A machine paused for a bare loop does not stay paused."""
    vm = boot("null")
    states = []

    def fail_while_paused() -> None:
        with paused(vm):
            states.append(vm.state)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_paused()
    assert [*states, vm.state] == ["paused", "running"]


# -- the peer ---------------------------------------------------------------------------------------------------------


def test_without_qemu_there_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench runs all the same, its peer column is empty, and the note says what to install."""
    monkeypatch.setenv("PATH", "")
    report = run(["event"], TINY, peer="qemu")
    assert report.rows[0].peer is None
    assert report.peer is None
    assert "qemu-system-x86" in report.notes[0]


def test_what_the_guest_prints_becomes_figures() -> None:
    """Ticks of the guest's clock, at 2 GHz here, in the units of the rows."""
    text = "storm driver_ok_ticks=5 irq=1\nstorm kicks=10 ticks=200\nstorm kicks=10 ticks=400\n"
    text += "storm requests=50 depth=4 ticks=2000000 errors=0 kicks=9 interrupts=3\n"
    figures = qemu._figures(text, 2_000_000, 7_000_000)
    assert figures == {"boot_ms": 7.0, "kick_ns": 20.0, "requests_per_s": pytest.approx(50_000)}


def test_which_rows_are_compared() -> None:
    """Kicks, requests, boot and migrations; a peer has no slow disk, spinning driver, reset, schedule or screen."""
    compared = [name for name in NAMES if qemu._trial(BY_NAME[name]) is not None]
    states = ("reset", "pause_resume", "snapshot", "restore")
    ours_alone = ("threads", "blocked", "spin", *states, "pages", "schedule", "screen", "event", "import")
    assert compared == [name for name in NAMES if not name.startswith(ours_alone)]


@pytest.mark.usefixtures("cpu")
def test_a_peer_that_fails_leaves_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not tried again, and labkit's own figures stand."""
    monkeypatch.setattr(qemu, "PROGRAM", "false")
    report = run(["trap_kick", "requests_on_1"], TINY, peer="qemu")
    assert [row.peer for row in report.rows] == [None, None]
    assert [note for note in report.notes if "nothing is compared from trap_kick on" in note]


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.slow
@pytest.mark.parametrize("back_end", ON_BOTH)
@pytest.mark.skipif(shutil.which(qemu.PROGRAM) is None, reason=f"no {qemu.PROGRAM} on the path")
def test_the_same_guest_under_qemu(back_end: str) -> None:
    """The one binary reports the same keys under both, and the ratio is that of the two figures."""
    report = run(["requests_on_8"], replace(TINY, repetitions=1), peer="qemu", cpu=back_end)
    assert report.peer is not None and report.peer.startswith("QEMU ")
    (row,) = report.rows
    assert row.peer is not None and row.peer.value > 0 and row.peer.own > 0
    assert row.as_json()["peer"] == row.peer.value / row.peer.own


@pytest.mark.parametrize(("accelerator", "back_end"), [("kvm", "kvm"), ("tcg", "emulated")])
def test_like_is_compared_with_like(accelerator: str, back_end: str) -> None:
    """KVM with KVM, and an emulator with an emulator."""
    command = qemu._command("qemu", qemu.ACCELERATORS[back_end], "", True, 3)
    assert command[command.index("-accel") + 1] == accelerator


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_table() -> None:
    """Every figure stands beside its floor; what has no target or peer shows a dash."""
    rows = (
        Row(spec(target=Target("ratio", 1.1)), Samples((12345.6,), (12000.0,))),
        Row(spec(REQUESTS_PER_S), Samples((5.123,), (50.0,)), Peer(10.0, 5.0)),
    )
    text = table.markdown(Report("kvm", rows, "QEMU 1.2", ("a note",)))
    assert text.splitlines()[2:4] == [
        "| x | 12,346 ns | 12,000 ns | 1.03 | ≤ 1.10 × | yes | – |",
        "| x | 5.12 /s | 50.0 /s | 9.76 | – | – | 2.00 |",
    ]
    assert "- a note" in text


def test_a_share_is_told_with_what_it_is_of() -> None:
    """A row in percent brings its line of the legend, and what a machine cannot show stands there once."""
    rows = (
        Row(spec("%"), Samples((60.0,), (2.0,)), note="one CPU"),
        Row(spec("%"), Samples((5.0,), (2.0,)), note="one CPU"),
    )
    lines = table.markdown(Report("kvm", rows)).splitlines()
    assert lines[2] == "| x | 60.0 % | 2.00 % | 30.00 | – | – | – |"
    assert sum("of the vCPUs' time" in line for line in lines) == lines.count("- one CPU") == 1


@pytest.mark.parametrize(("back_end", "is_told"), [("kvm", False), ("emulated", True)])
def test_times_of_an_emulator_are_never_shown_as_hardware(back_end: str, is_told: bool) -> None:
    """Title, table and JSON name the CPU, and of an emulated one each says in words what its times are."""
    report = Report(back_end, (Row(spec(), Samples((1.0,), (1.0,))),))
    title, text = table.title(report), table.markdown(report)
    assert back_end in title and f"- cpu: {back_end}." in text and report.as_json()["cpu"] == back_end
    assert ("times of an emulator" in title) is ("say nothing about hardware" in text) is is_told
    assert text.startswith("Times of an emulated CPU") is is_told


@pytest.mark.parametrize("cpus", [{0}, {0, 1}])
def test_one_cpu_is_not_passed_over_in_silence(monkeypatch: pytest.MonkeyPatch, cpus: set[int]) -> None:
    """Two vCPUs need two CPUs to show what they do to each other: the row is measured, and its note says so."""
    row = BY_NAME["threads_on"]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cpus)
    assert ("one usable CPU" in row.why_not()) is (len(cpus) < 2)


def test_quick_is_quick() -> None:
    """The quick run is the same bench with less of everything but the events, which must go once round the feed."""
    assert QUICK.repetitions < 5 and QUICK.requests <= 100
    assert QUICK.events > labkit.memory.FEED_CAPACITY
