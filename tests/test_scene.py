"""Does a scene show what a machine is at that moment, whatever becomes of the machine, and is nothing rare missed?"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from itertools import groupby
from types import SimpleNamespace

import pytest
from screens import register, seen

import labkit
from labkit import GuestError, UsageError
from labkit.abi import Fault
from labkit.native import ffi, lib
from labkit.trace.events import Kind
from labkit.trace.feed import Feed
from labkit.trace.tally import COLUMN_NS, Tally
from labkit.virtio.notifier import REVISIONS
from labkit.widgets.scene import EVENTS_MOST, Looker, would
from labkit.widgets.timeline import Owners, timeline

Boot = Callable[..., labkit.Machine]


# -- one moment --------------------------------------------------------------------------------------------------------


def test_a_scene_is_what_a_page_can_be_sent(boot: Boot) -> None:
    """Strings, numbers, lists and tables: it comes back from JSON as it went."""
    vm = boot()
    vm.guest.read(0)
    scene = seen(vm)
    assert json.loads(json.dumps(scene)) == scene


def test_registers_and_queues_are_those_of_the_live_views(boot: Boot) -> None:
    """STATUS by its bits, the notifier with its owner, port and counts, the ring with its indices."""
    vm = boot(irq="poll")
    vm.guest.read(0)
    vm.pause()
    scene, queue = seen(vm), vm.proxy.queues[0]
    bits = {bit["name"]: bit["on"] for bit in register(scene, "STATUS")["bits"]}
    assert bits == {"ACKNOWLEDGE": True, "DRIVER": True, "DRIVER_OK": True, "FAILED": False}
    (shown,) = scene["queues"]
    assert (shown["owner"], shown["fd"], shown["port"], shown["signalled"]) == ("none", None, "-", 1)
    assert (shown["avail"], shown["used"], shown["last_avail"]) == (1, 1, queue.last_avail_idx)
    assert scene["state"] == "paused"


@pytest.mark.parametrize(
    ("revision", "take", "would_be"),
    [("v6", False, "eventfd"), ("v6", True, "backend"), ("today", False, "eventfd"), ("today", True, "backend")],
)
def test_the_next_kick_goes_where_it_is_said_to_go(boot: Boot, revision: str, take: bool, would_be: str) -> None:
    """What `would` says before a kick is the path it took."""
    vm = boot(revision=revision)
    if take:
        vm.hand_over()
    assert seen(vm)["datapath"]["would"] == would_be
    vm.guest.read(0)
    assert seen(vm)["datapath"]["path"] == would_be


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_kick_that_trapped_is_lit_as_one(boot: Boot, revision: str) -> None:
    """ioeventfd off: the trap before, and the trap after."""
    vm = boot(ioeventfd=False, revision=revision)
    before = seen(vm)["datapath"]
    vm.guest.read(0)
    after = seen(vm)["datapath"]
    assert (before["path"], before["would"], after["path"]) == ("none", "trap", "trap")


def test_a_trap_of_a_queue_that_has_a_notifier_is_forwarded(boot: Boot) -> None:
    """A kick of another width matches no ioeventfd: today it is written to the eventfd all the same."""
    vm = boot(revision="today")
    vm.guest.port_out(vm.proxy.notify_base + 16, 4, 0)
    assert seen(vm)["datapath"]["path"] == "forwarded"


def test_after_bar0_moved_the_kick_traps(boot: Boot) -> None:
    """R16 of v6: what is assigned stays at the old port, and `would` compares the two."""
    vm = boot()
    vm.guest.pci_write(0x10, 4, 0xD000)
    assert vm.proxy.queues[0].notifier.owner == "vmm"
    assert would(vm.proxy, 0) == "trap"


def test_a_pending_kick_is_seen_and_not_consumed(boot: Boot) -> None:
    """The iothread is held: the count stands in the scene twice, and the kick is served when it goes on."""
    vm = boot(irq="poll")
    vm.guest.read(0)
    vm.hold("iothread", at="before-handler")
    vm.guest.kick()
    assert vm.gates.wait("iothread")
    looker = Looker(vm._board)
    assert [looker.look()["queues"][0]["pending"] for _ in range(2)] == [1, 1]
    assert looker.scene["held"] == [{"actor": "iothread", "gate": "woken", "queue": None}]
    assert looker.scene["armed"] == ["iothread"]
    vm.release()


# -- whatever becomes of the machine -----------------------------------------------------------------------------------


def test_a_look_does_not_wait_for_the_big_lock(boot: Boot) -> None:
    """Somebody has the lock and keeps it: a look from another thread comes back."""
    vm, found = boot(), []
    with vm._board.locked():
        looking = threading.Thread(target=lambda: found.append(seen(vm)))
        looking.start()
        looking.join()
    assert found[0]["state"] == "running"


def test_a_closed_machine_says_so(boot: Boot) -> None:
    """The last scene has the last events, and is over; what was held is not held any more."""
    vm = boot()
    vm.hold("iothread")
    looker = Looker(vm._board)
    looker.look()
    vm.close()
    scene = looker.look()
    assert (scene["state"], scene["note"], looker.over, scene["held"]) == ("closed", "closed", True, [])
    assert any(one["rule"] == "R11" for one in scene["events"]), "what the close did is listed"


def test_a_forgotten_machine_is_closed_and_said_to_be(cpu: str) -> None:
    """A look keeps no machine alive; the note says what to do about it."""
    vm = labkit.boot(cpu=cpu)
    looker = Looker(vm._board)
    del vm
    assert looker.machine is None
    assert "keep it in a variable" in looker.look()["note"]


def test_a_crashed_machine_says_why(boot: Boot) -> None:
    """The note has the reason, and the rest of the scene is there."""
    vm = boot()
    with pytest.raises(GuestError):
        vm.guest.fault(Fault.TRIPLE)
    scene = seen(vm)
    assert scene["state"] == "crashed"
    assert scene["note"].startswith("crashed: vCPU 0 crashed")
    assert scene["queues"]


def test_an_unplugged_device_says_so(boot: Boot) -> None:
    """R11: nobody answers a kick."""
    vm = boot()
    vm.unplug()
    scene = seen(vm)
    assert (scene["note"], scene["datapath"]["would"]) == ("the device is unplugged", "nobody")


def test_only_what_is_asked_for_is_looked_at(boot: Boot) -> None:
    """A view of one queue has that queue alone, and no timeline."""
    vm = boot("null", queues=3)
    scene = Looker(vm._board, ("queues", "rings"), 1).look()
    assert [queue["index"] for queue in scene["queues"]] == [1]
    assert "timeline" not in scene


# -- events ------------------------------------------------------------------------------------------------------------


def test_a_change_of_owner_names_its_rule(boot: Boot) -> None:
    """In the list, and in what is announced."""
    vm = boot()
    vm.pause()
    looker = Looker(vm._board)
    events = looker.look()["events"]
    assert [(one["text"], one["rule"]) for one in events if one["name"] == "owner"] == [
        ("vmm → none because PAUSE", "R10"),
        ("none → vmm because DRIVER_OK", "R2"),
    ]
    assert looker.announced[1] == "queue 0: vmm → none because PAUSE (R10)"


def test_a_storm_does_not_drive_out_what_is_rare(boot: Boot) -> None:
    """Thousands of events came after the change of owner: it is in the list, the others are counted."""
    vm = boot()
    looker = Looker(vm._board)
    looker.look()
    vm.pause()
    vm.resume()
    vm.guest.storm(1000)
    scene = looker.look()
    assert len(scene["events"]) == EVENTS_MOST
    assert scene["skipped"] > 1000
    assert {"R10"} == {one["rule"] for one in scene["events"] if one["name"] == "owner" and "DRIVER" not in one["text"]}
    assert [one["seq"] for one in scene["events"]] == sorted((one["seq"] for one in scene["events"]), reverse=True)


def test_few_events_have_a_column_each(boot: Boot) -> None:
    """The last is the last event; owners change in the column of the event that says so."""
    vm = boot()
    vm.pause()
    shown = seen(vm)["timeline"]
    assert shown["unit"].startswith("each column is one event")
    assert shown["columns"][-1] == repr(vm.trace.events()[-1])
    assert all(len(lane["cells"]) == len(shown["columns"]) for lane in shown["lanes"] + shown["owners"])
    assert [owner for owner, _ in groupby(shown["owners"][0]["cells"])] == ["none", "vmm", "none"]
    columns = [sum(cells) for cells in zip(*(lane["cells"] for lane in shown["lanes"]), strict=True)]
    assert set(columns) == {1}


# -- the tally, on a feed alone ----------------------------------------------------------------------------------------


@pytest.fixture
def small() -> Iterator[Feed]:
    """A feed that holds 64 events."""
    native = ffi.gc(lib.lk_feed_new(64), lib.lk_feed_free)
    yield Feed(SimpleNamespace(feed=native))
    ffi.release(native)


def test_a_tally_counts_all_and_reads_the_rare(small: Feed) -> None:
    """Forty requests, two owner changes: counted together, and only the changes are there as events."""
    tally = Tally(small)
    for number in range(20):
        small.emit(Kind.REQUEST, 0, number)
    small.emit(Kind.OWNER, 0, 0, 1, 2, 1)
    for number in range(20):
        small.emit(Kind.REQUEST, 0, number)
    small.emit(Kind.OWNER, 0, 1, 0, 10, 8)
    tally.look()
    assert (tally.seen, tally.new, tally.lost) == (42, 42, 0)
    assert [one["rule"] for one in tally.rare] == ["R2", "R10"]
    tally.look()
    assert (tally.new, len(tally.rare)) == (42, 2), "nothing is counted twice"


def test_a_tally_that_fell_behind_says_how_many_it_missed(small: Feed) -> None:
    """The ring has wrapped since the last look: what was overwritten is lost, and told; the owner is not known then."""
    tally = Tally(small)
    small.emit(Kind.OWNER, 0, 0, 1, 2, 1)
    tally.look()
    for number in range(100):
        small.emit(Kind.REQUEST, 0, number)
    tally.look()
    assert tally.lost == 100 - 64
    owners = Owners()
    owners.hear([], tally.lost)
    assert owners.at(0, seq=1) == "?"


def test_a_tally_goes_on_when_the_feed_is_kept(small: Feed) -> None:
    """The machine was closed between two looks: what came in between is counted from the copy."""
    tally = Tally(small)
    small.emit(Kind.REQUEST, 0)
    tally.look()
    small.emit(Kind.RUNSTATE, -1, 1, 4)
    small.keep()
    tally.look()
    assert (tally.seen, tally.new, [one.name for one in tally.rare]) == (2, 2, ["runstate"])
    assert [one.seq for one in tally.newest(5)] == [1, 2]


def test_a_kick_that_nobody_made_is_not_the_newest(small: Feed) -> None:
    """A synthetic kick (R3) is served like one, and is none of the guest's."""
    tally = Tally(small)
    small.emit(Kind.KICK_EVENTFD, 0, 0, 1)
    tally.look()
    assert tally.kick is None
    small.emit(Kind.KICK_TRAP, 0, 0, 2, 0xC010)
    small.emit(Kind.KICK_EVENTFD, 0, 0, 1)
    tally.look()
    assert tally.kick is not None and tally.kick.kind is Kind.KICK_TRAP


def test_a_storm_has_columns_of_time(small: Feed) -> None:
    """More events than columns: they are counted by 20 ms, and all of them are in some column."""
    tally = Tally(small)
    for _ in range(5):
        for number in range(50):
            small.emit(Kind.REQUEST, 0, number)
        tally.look()
    newest = tally.newest(120)
    shown = timeline(tally, Owners(), newest, [0], 1)
    assert shown["unit"] == f"each column is {COLUMN_NS // 1_000_000} ms"
    assert sum(sum(lane["cells"]) for lane in shown["lanes"]) == 250
    assert len(shown["columns"]) <= 120


def test_a_recording_has_no_live_view(boot: Boot, tmp_path: object) -> None:
    """Nothing in it moves: it says what to use instead."""
    vm = boot()
    vm.trace.save(f"{tmp_path}/moment.lab")
    with pytest.raises(UsageError, match="recording stands still"):
        labkit.replay(f"{tmp_path}/moment.lab").trace.view()
