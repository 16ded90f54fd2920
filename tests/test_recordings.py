"""Does a recording tell what the machine was, at its end and at every moment before?"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from backends import back_ends
from recordings import recorded, unknown, wrong
from rulebook import Boot, revisions

import labkit
from labkit import GuestError, HostError, Machine, UsageError
from labkit.abi import NUMBERS, Fault, Register
from labkit.recording import Recording
from labkit.trace.recorded import Recorded

BAR0 = NUMBERS["PCI_BAR0"]
RING_NOT_TOLD = ["avail.idx", "used.idx"]  # of a queue that was given a ring and never run
SAMPLE = Path(__file__).parent / "data" / "format1.labkit"


def saved(vm: Machine, tmp_path: Path) -> Recording:
    """Save and replay."""
    vm.trace.save(tmp_path / "recording")
    return labkit.replay(tmp_path / "recording")


def a_life(vm: Machine) -> None:
    """Much of what a disk can go through."""
    guest = vm.guest
    guest.read(0)
    guest.add()
    guest.publish()
    guest.kick()
    guest.wait()
    vm.pause()
    vm.resume()
    guest.bus_master(False)
    guest.bus_master(True)
    guest.negotiate(driver_ok=True)
    guest.storm(300, depth=4)
    vm.hand_over()
    guest.read(1)
    guest.read(2, count=3)
    vm.take_back()
    guest.clear_driver_ok()
    vm.fault.fail_assign(queue=0)
    guest.set_driver_ok()
    guest.read(3)
    vm.reset()
    guest.negotiate(driver_ok=True)
    guest.reset_device()  # or, by the rules of then, what is assigned would stay at the old port (R16)
    guest.pci_write(BAR0, 4, 0xD000)
    guest.negotiate(driver_ok=True)
    guest.read(4)
    vm.unplug()
    vm.plug()
    guest.negotiate(driver_ok=True)
    guest.read(5)
    vm.fault.fail_deassign(queue=0)  # the last thing: what KVM keeps swallows kicks (R15)


# -- the end: what the events tell is what the machine shows -----------------------------------------------------------


@revisions()
@pytest.mark.parametrize("irq", ["msix", "intx", "poll"])
def test_the_events_tell_what_the_machine_shows(boot: Boot, revision: str, irq: str) -> None:
    """After a long life nothing is told wrongly, and nothing is left untold, on a machine that runs or is paused."""
    vm = boot(revision=revision, irq=irq)
    a_life(vm)
    vm.pause()  # a kick that is on its way is known when it is taken
    found = recorded(vm)
    assert (wrong(found), unknown(found), found.lost) == ({}, [], 0)


@revisions()
def test_two_queues_and_a_backend_that_has_one(boot: Boot, revision: str) -> None:
    """Each queue has its own story, while a backend has one of them and after."""
    vm = boot("null", queues=2, ioeventfd=True, revision=revision)
    vm.hand_over([1])
    for queue in (0, 1, 1):
        vm.guest.kick(queue)
    while_it_has = recorded(vm)
    assert wrong(while_it_has, ("pending",)) == {}
    vm.take_back()
    vm.guest.kick(1)
    vm.pause()
    assert (wrong(recorded(vm)), unknown(recorded(vm))) == ({}, [])


@revisions()
def test_a_net_device(boot: Boot, revision: str) -> None:
    """Frames that are sent count as chains of the tx ring."""
    vm = boot("net", ioeventfd=True, revision=revision)
    for _ in range(3):
        vm.guest.exchange(bytes(10) + bytes(64), queue=1)
    vm.pause()
    assert wrong(recorded(vm)) == {}


def test_a_device_of_ones_own(boot: Boot) -> None:
    """Chains it gives back are told; those that it keeps are not, until the device is reset."""

    class Fickle(labkit.Device):
        queue_sizes = (8, 8)

        def handle(self, queue: object) -> None:
            for chain in queue:  # type: ignore[attr-defined]
                if chain.read() == b"keep":
                    return
                queue.push(chain, b"gone")  # type: ignore[attr-defined]

    vm = boot(Fickle())
    vm.guest.exchange(b"give", receive=8)
    assert (wrong(recorded(vm), ("pending",)), unknown(recorded(vm))) == ({}, ["queue 1 avail.idx", "queue 1 used.idx"])
    with pytest.raises(UsageError):
        vm.guest.exchange(b"keep", receive=8)
    assert wrong(recorded(vm)) == {}
    assert recorded(vm).final["in_flight", 0] == 1
    vm.reset()
    vm.pause()
    assert (wrong(recorded(vm)), unknown(recorded(vm))) == ({}, [])


def test_what_is_lost_is_not_guessed(boot: Boot) -> None:
    """A feed that ran over: counters end where they ended, what nobody told is unknown, and nothing is wrong."""
    vm = boot()
    vm.guest.storm(2000, depth=8)
    vm.guest.clear_driver_ok()
    vm.guest.set_driver_ok()
    vm.guest.storm(100, depth=8)
    vm.pause()
    whole = recorded(vm)
    for kept in (0, 1, 50, 400, 2000):
        part = whole._replace(lost=whole.position() - kept, records=whole.records[len(whole.records) - kept :])
        assert wrong(part) == {}
        assert unknown(part) == []
        told, real = Recording(part), Recording(whole)
        for position in range(told.start, told.end + 1, 1 + kept // 40):
            values = real.moment(position).values()
            known = {name: value for name, value in told.moment(position).values().items() if value is not None}
            assert known.items() <= values.items(), position
    assert whole.final["signalled", 0] > 100


def test_a_queue_that_was_never_run_has_indices_nobody_told(boot: Boot) -> None:
    """What a ring holds is told when the device looks at it."""
    vm = boot(bring_up=False, ioeventfd=False)
    vm.guest.negotiate()
    assert unknown(recorded(vm)) == [f"queue 0 {name}" for name in RING_NOT_TOLD]
    vm.guest.kick()
    assert (wrong(recorded(vm)), unknown(recorded(vm))) == ({}, [])


@pytest.mark.parametrize("frame", [0xFFFFF, 0xFFFFFFFF])
def test_a_ring_outside_ram_has_no_indices(boot: Boot, frame: int) -> None:
    """A kick of such a ring is an event like any other, and the device is broken."""
    vm = boot(bring_up=False, ioeventfd=False)
    vm.guest.negotiate()
    vm.guest.port_out(vm.proxy.notify_base + Register.QUEUE_PFN, 4, frame)
    vm.guest.kick()
    (run,) = vm.trace.events("queue_notify")
    assert (run["avail_idx"], run["used_idx"]) == ("-", "-")
    assert wrong(recorded(vm)) == {}
    assert Recording(recorded(vm)).proxy.broken is True


# -- any machine can be saved ------------------------------------------------------------------------------------------


def test_a_crashed_machine(boot: Boot, tmp_path: Path) -> None:
    """Where it crashed is in the recording."""
    vm = boot()
    with pytest.raises(GuestError):
        vm.guest.fault(Fault.TRIPLE)
    recording = saved(vm, tmp_path)
    assert recording.state == "crashed"
    assert "crash" in repr(recording)
    assert wrong(recorded(vm)) == {}
    assert recording.seek(recording.start).crash is None


def test_a_closed_machine(boot: Boot, tmp_path: Path) -> None:
    """It is kept as it was when it was closed; its trace goes on answering."""
    vm = boot()
    vm.guest.read(0)
    vm.close()
    recording = saved(vm, tmp_path)
    assert recording.state == "closed"
    assert recording.trace.events() == vm.trace.events()
    assert wrong(recorded(vm)) == {}
    assert recording.proxy.queues[0].used_idx == 1


def test_a_machine_at_work(boot: Boot) -> None:
    """A recording made in the middle of a storm is as consistent as one made after it."""
    vm = boot(vcpus=2)
    storm = threading.Thread(target=vm.guest.storm, args=(3000,))
    storm.start()
    found = [recorded(vm) for _ in range(10)]
    storm.join()
    vm.hand_over()
    storm = threading.Thread(target=vm.guest.storm, args=(3000,))
    storm.start()
    found += [recorded(vm) for _ in range(10)]
    storm.join()
    assert [wrong(each, ("pending", "avail_idx")) for each in found] == [{}] * 20
    assert all([record[0] for record in each.records] == list(range(1, each.position() + 1)) for each in found)


def test_saving_changes_nothing(boot: Boot, tmp_path: Path) -> None:
    """No event comes of it, and no file but the one asked for."""
    vm = boot()
    vm.guest.read(0)
    before = vm.trace.events()
    vm.trace.save(tmp_path / "recording")
    vm.trace.save(str(tmp_path / "recording"))
    assert vm.trace.events() == before
    assert [path.name for path in tmp_path.iterdir()] == ["recording"]


def test_a_place_that_cannot_be_written(boot: Boot, tmp_path: Path) -> None:
    """The caller's error, and what was there before stays."""
    vm = boot()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none" / "recording", tmp_path / "folder"):
        with pytest.raises(UsageError, match="recording"):
            vm.trace.save(path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_full_disk_is_the_hosts_error(boot: Boot) -> None:
    """Nothing of the file stays."""
    vm = boot()
    with pytest.raises((HostError, UsageError)):
        vm.trace.save("/proc/recording")


# -- every moment ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def life() -> Recorded:
    """One recording for all that only look at it."""
    if not back_ends():
        pytest.skip("no CPU to run a guest")
    with labkit.boot(revision="today") as vm:
        a_life(vm)
        return recorded(vm)


def test_back_is_where_one_came_from(life: Recorded) -> None:
    """The state after event n is one, by steps forward, by steps back and by any jump."""
    recording = Recording(life)
    recording.seek(recording.start)
    forward = [recording.values()] + [recording.step().values() for _ in range(recording.end - recording.start)]
    assert recording.step().position == recording.end, "and no further"
    backward = [recording.values()] + [recording.back().values() for _ in range(recording.end - recording.start)]
    assert backward == forward[::-1]
    positions = random.Random(1).choices(range(recording.start, recording.end + 1), k=500)
    assert all(Recording.moment(recording, at).values() == forward[at - recording.start] for at in positions)


def test_each_event_says_what_it_changed(life: Recorded) -> None:
    """Where STATUS, an owner or COMMAND changes, an event of that name was just passed, and says the same words."""
    recording = Recording(life)
    moment = recording.seek(recording.start)
    seen = set()
    while moment.position < recording.end:
        before, moment = moment, recording.step()
        for change in recording.diff(before, moment):
            if change.name in ("STATUS", "COMMAND", "queue 0 owner") and moment.event.name != "plug":
                assert (change.before, change.after) == (moment.event["before"], moment.event["after"])
                seen.add(change.name)
    assert seen == {"STATUS", "COMMAND", "queue 0 owner"}


def test_time_moves_the_cursor(life: Recorded) -> None:
    """`at` comes to after the last event within that time; before the first and after the last are the ends."""
    recording = Recording(life)
    for moment in (recording.moment(20), recording.moment(recording.end - 3)):
        assert recording.at(moment.time_s).time_s == moment.time_s
        assert recording.position >= moment.position
    assert recording.at(-1).position == recording.start
    assert recording.at(1e9).position == recording.end
    assert recording.at(0).event.seq == 1


@pytest.mark.parametrize(
    "wish",
    [
        lambda r: r.seek(-1),
        lambda r: r.seek(r.end + 1),
        lambda r: r.seek(1.5),
        lambda r: r.step("one"),
        lambda r: r.at(float("nan")),
        lambda r: r.at("noon"),
        lambda r: r.diff(0, 10**9),
        lambda r: r.diff(Recording(r._recorded._replace(lost=0)).moment(5)),
    ],
)
def test_no_such_moment(life: Recorded, wish: object) -> None:
    """The caller is told what there is."""
    with pytest.raises(UsageError):
        wish(Recording(life))  # type: ignore[operator]


def test_views_follow_the_cursor_and_moments_stay(life: Recorded) -> None:
    """As live views follow the machine."""
    recording = Recording(life)
    queue = recording.proxy.queues[0]
    first = recording.seek(recording.start)
    assert (queue.notifier.owner, queue.pfn, queue.used_idx) == ("none", 0, None)
    recording.seek(recording.end)
    assert (queue.notifier.owner, queue.used_idx) == ("vmm", 1)
    assert first.proxy.queues[0].notifier.owner == "none"


def test_a_replay_says_that_it_is_one(boot: Boot, tmp_path: Path) -> None:
    """The views are those of the live machine, word for word, but for the CPU and the caption."""
    vm = boot(irq="poll")
    vm.guest.read(0)
    vm.pause()
    recording = saved(vm, tmp_path)
    assert recording.cpu == f"replay of a recording made on {vm.cpu}"
    live, replayed = repr(vm).splitlines()[1:], repr(recording).splitlines()[1:]
    assert [line for line in replayed if "replay of" not in line] == [line for line in live if "  cpu " not in line]
    for one, other in (
        (vm.proxy, recording.proxy),
        (vm.proxy.queues[0], recording.proxy.queues[0]),
        (vm.proxy.queues[0].notifier, recording.proxy.queues[0].notifier),
    ):
        assert repr(one) == repr(other)
        assert one._repr_html_() == other._repr_html_()
    assert recording.name == vm.name
    assert recording.trace.events() == vm.trace.events()
    assert recording.trace.frame().equals(vm.trace.frame())
    assert repr(recording.trace) == repr(vm.trace)


def test_a_difference_prints_itself(life: Recorded) -> None:
    """As a table, as lines, and as rows; nothing at all is said too."""
    recording = Recording(life)
    difference = recording.diff(recording.start)
    assert "STATUS" in repr(difference)
    assert "<th" in difference._repr_html_()
    assert {change.name for change in difference} >= {"STATUS", "COMMAND", "queue 0 pfn"}
    assert "nothing" in repr(recording.diff(3, 3))
    assert len(recording.diff(3, 3)) == 0


# -- without ---------------------------------------------------------------------------------------------------------


WITHOUT = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name == "labkit.native._core":
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Nothing())
import labkit
recording = labkit.replay(sys.argv[1])
recording.at(0)
print(recording.step(20), recording.proxy, recording.proxy.queues[0].notifier, recording.diff(0))
recording.trace.frame(), recording.trace.timeline()._repr_png_(), recording.trace.save(sys.argv[2])
try:
    labkit.boot("blk")
except labkit.HostError as error:
    print(error)
"""


def test_replay_needs_no_core(tmp_path: Path) -> None:
    """Where the C core was not built, labkit imports and every view of a recording works; boot says what is missing."""
    command = [sys.executable, "-c", WITHOUT, str(SAMPLE), str(tmp_path / "again")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "the C core" in result.stdout
    assert labkit.replay(tmp_path / "again")._recorded == labkit.replay(SAMPLE)._recorded, "a copy holds the same"


def test_format_1_stays_readable() -> None:
    """A recording that was made with the first format: a disk, a backend, a pause."""
    recording = labkit.replay(SAMPLE)
    assert (recording.state, recording.proxy.queues[0].notifier.owner) == ("paused", "none")
    assert [(e["before"], e["after"]) for e in recording.trace.events("owner")] == [
        ("none", "vmm"),
        ("vmm", "none"),
        ("none", "backend"),
        ("backend", "none"),
    ]
    assert wrong(recording._recorded) == {}
