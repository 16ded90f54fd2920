"""Does a machine go on from where it was? Snapshots of any moment, taken up there or elsewhere, and their file."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recordings import recorded, wrong
from rulebook import Boot, revisions

import labkit
from labkit import GuestError, HostError, Machine, UsageError
from labkit.abi import NUMBERS, Command, Fault, Register
from labkit.native import lib
from labkit.snapshot import MEMORY, STATE, Snapshot
from labkit.trace.events import Run

DATA = 0x600000  # where the guest reads to
IRR = slice(0x200, 0x280)  # of a local APIC


def same(before: Snapshot, after: Snapshot) -> bool:
    """The device and memory of both; clocks and what interrupts them go on."""
    differing = {change.name.partition(".")[0] for change in labkit.diff(before, after)}
    return differing <= {"cpu"}


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("irq", ["msix", "intx", "poll"])
@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_machine_goes_back_to_where_it_was(boot: Boot, irq: str, vcpus: int) -> None:
    """Memory, rings and registers, as often as one likes; and it works from there."""
    vm = boot(irq=irq, vcpus=vcpus)
    vm.guest.read(0)
    vm.pause()
    before = vm.snapshot()
    for _ in range(3):
        vm.resume()
        vm.guest.storm(50)
        vm.guest.bus_master(False)
        vm.restore(before)
        assert vm.state == "paused"
        assert same(before, vm.snapshot())
    vm.resume()
    assert vm.guest.read(0).startswith(b"labkit")
    assert vm.guest.storm(50).errors == 0


@revisions()
def test_the_notifier_goes_by_the_rules(boot: Boot, revision: str) -> None:
    """R10 stops it and starts it anew, with one synthetic kick; what was in the ring and never kicked is found."""
    vm = boot(revision=revision, irq="poll")
    vm.guest.read(0)
    vm.guest.add()
    vm.guest.publish()
    before = vm.snapshot()
    vm.guest.kick()
    vm.guest.wait()
    mark = vm.trace.mark()
    vm.restore(before)
    queue = vm.proxy.queues[0]
    changes = [(e["before"], e["after"], e["rule"], e["cause"]) for e in vm.trace.events("owner", since=mark)]
    assert changes == [("vmm", "none", "R10", "PAUSE"), ("none", "vmm", "R10", "RESUME")]
    assert vm.guest.wait().reaped == 1, "and the guest waits for it once more"
    assert (queue.used_idx, queue.avail_idx) == (2, 2)


def test_a_step_under_way_is_done_again(boot: Boot) -> None:
    """The guest waits for a completion; the snapshot is of that moment, and from there the completion comes."""
    vm = boot(ioeventfd=False)
    vm.guest.add()
    vm.guest.publish()
    vm.guest._post(Command.WAIT, (0, 1, 0), 0)
    before = vm.snapshot()
    vm._board.owner.call(lambda: kicked(vm))
    assert vm.guest._result(Command.WAIT, 0, 5.0)[0] == 1
    vm.restore(before)
    vm._board.owner.call(lambda: kicked(vm))
    while not lib.lk_step_wait(vm._board.cpu.vcpus[0].native, 20):
        assert vm.state == "running"
    assert vm.proxy.queues[0].used_idx == 1


def kicked(vm: Machine) -> None:
    """The queue runs, as by a kick of the guest."""
    with vm._board.locked():
        lib.lk_queue_run(vm.proxy.device, 0, Run.HOST)


def test_another_machine_takes_it_up(boot: Boot) -> None:
    """One of the same plan, that was never there; both go on by themselves."""
    source, target = boot(vcpus=2), boot(vcpus=2, bring_up=False)
    source.guest.read(0)
    snapshot = source.snapshot()
    target.restore(snapshot)
    assert target.proxy.queues[0].notifier.owner == "vmm"
    for vm in (source, target):
        assert vm.guest.read(0).startswith(b"labkit")
        assert vm.guest.storm(40).errors == 0


def test_a_crashed_machine_goes_on(boot: Boot) -> None:
    """What was before the crash."""
    vm = boot()
    before = vm.snapshot()
    with pytest.raises(GuestError, match="triple fault"):
        vm.guest.fault(Fault.TRIPLE)
    with pytest.raises(GuestError, match="triple fault"):
        vm.snapshot()
    vm.restore(before)
    assert (vm.state, vm.crash) == ("running", None)
    assert vm.guest.read(0).startswith(b"labkit")


def test_a_backend_gives_its_queues_and_takes_them_again(boot: Boot) -> None:
    """Its indices are in the snapshot; it has the queue before and after."""
    vm = boot()
    vm.hand_over()
    vm.guest.read(0)
    before = vm.snapshot()
    assert before.parts["device"]["virtio"]["queues"][0]["last_avail"] == 1
    assert vm.proxy.queues[0].notifier.owner == "backend"
    vm.guest.storm(20)
    vm.restore(before)
    assert vm.proxy.queues[0].notifier.owner == "backend"
    assert vm.guest.read(0).startswith(b"labkit")


@pytest.mark.parametrize("device", ["net", "console", "null"])
def test_every_device_goes_back(boot: Boot, device: str) -> None:
    """Its own state with it."""
    vm = boot(device)
    vm.pause()
    before = vm.snapshot()
    vm.resume()
    vm.guest.reset_device()
    vm.restore(before)
    assert same(before, vm.snapshot())


def test_a_recording_knows_what_was_taken_up(boot: Boot) -> None:
    """The events of a restore tell every register and index."""
    vm = boot(revision="today")
    vm.guest.read(0)
    before = vm.snapshot()
    vm.guest.storm(20)
    vm.guest.reset_device()
    vm.restore(before)
    vm.pause()
    assert wrong(recorded(vm)) == {}


def test_a_recording_of_another_machine_knows_it_too(boot: Boot) -> None:
    """One that has done nothing yet: whether MSI-X is on, it hears by the load alone."""
    source, other = boot(), boot(bring_up=False)
    other.restore(source.snapshot())
    other.pause()
    assert wrong(recorded(other)) == {}


@pytest.mark.emulated
def test_an_emulated_machine_does_the_same_again(boot: Boot) -> None:
    """From one snapshot the same steps leave the same memory, to the byte."""
    vm = boot(vcpus=2, irq="poll", ioeventfd=False)
    vm.guest.read(0)
    vm.pause()
    before, ends, port = vm.snapshot(), [], vm.proxy.notify_base + Register.QUEUE_NOTIFY
    for _ in range(2):
        vm.restore(before)
        vm.resume()
        vm.guest.add(sector=3)
        vm.guest.publish()
        vm.guest.port_out(port, 2, 0)  # a kick, without the step that times it: the clock is the host's
        vm.pause()
        after = vm.snapshot()
        ends.append((after.memory, after.parts["device"]))
    assert ends[0] == ends[1]


# -- what does not fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vcpus": 2}, "vcpus 1, here 2"),
        ({"memory_mib": 32}, "memory_mib 16, here 32"),
        ({"revision": "today"}, "revision v6, here today"),
        ({"device": "null"}, "device blk, here null"),
        ({"irq": "intx"}, "intx 0, here 1"),
    ],
)
def test_another_kind_of_machine_refuses_it(boot: Boot, options: dict[str, Any], said: str) -> None:
    """UsageError says what differs, and the machine goes on."""
    snapshot = boot("blk").snapshot()
    other = boot(**{"device": "blk", **options})
    with pytest.raises(UsageError, match=said):
        other.restore(snapshot)
    other.guest.port_in(NUMBERS["PORT_CONSOLE"], 1)


SPOILS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no cpu": lambda parts: parts.pop("cpu"),
    "no vcpus": lambda parts: parts["cpu"].update(vcpus=[]),
    "another back end": lambda parts: parts["cpu"].update(back_end="vax"),
    "a part too short": lambda parts: [vcpu.update(dict.fromkeys(vcpu, b"")) for vcpu in parts["cpu"]["vcpus"]],
    "no device": lambda parts: parts.update(device=7),
    "no text": lambda parts: parts.update(console="text"),
    "no bus": lambda parts: parts["pci"].update(address=-1),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_damaged_parts_change_nothing(boot: Boot, tmp_path: Path, spoil: str) -> None:
    """UsageError, and the running machine runs on as it was."""
    vm = boot()
    vm.guest.read(0)
    vm.snapshot().save(tmp_path / "snap")
    damaged = labkit.load(tmp_path / "snap")
    SPOILS[spoil](damaged.parts)
    with pytest.raises(UsageError):
        vm.restore(damaged)
    assert (vm.state, vm.proxy.queues[0].notifier.owner) == ("running", "vmm")
    assert vm.guest.read(0).startswith(b"labkit")


@pytest.mark.parametrize("spoil", SPOILS)
def test_ones_own_snapshot_is_doubted_when_it_was_changed(boot: Boot, spoil: str) -> None:
    """What this machine gave is taken up without a look, but only as it was given."""
    vm = boot()
    snapshot = vm.snapshot()
    vm.restore(snapshot)
    SPOILS[spoil](snapshot.parts)
    with pytest.raises(UsageError):
        vm.restore(snapshot)
    assert (vm.state, vm.proxy.queues[0].notifier.owner) == ("running", "vmm")
    assert vm.guest.read(0).startswith(b"labkit")


def test_ones_own_snapshot_with_another_memory_is_taken_up_whole(boot: Boot) -> None:
    """Every page of it, not only those that were written since."""
    vm = boot()
    vm.pause()
    snapshot = vm.snapshot()
    vm.restore(snapshot)
    memory = bytearray(snapshot.memory)
    memory[DATA : DATA + 4] = b"here"
    snapshot.memory = bytes(memory)
    vm.restore(snapshot)
    assert vm.memory.read(DATA, 4) == b"here"
    vm.restore(snapshot)
    assert vm.snapshot().memory == snapshot.memory


def test_ones_own_snapshot_does_not_fit_a_disk_that_was_resized(boot: Boot) -> None:
    """What can change beside the guest is looked at each time."""
    vm = boot("blk", bring_up=False)
    snapshot = vm.snapshot()
    vm.resize_disk(1 << 20)
    with pytest.raises(UsageError, match="sectors"):
        vm.restore(snapshot)
    vm.resize_disk(16 << 20)
    vm.restore(snapshot)


@pytest.mark.parametrize("raised", [HostError("KVM_SET_REGS", errno.ENOMEM), UsageError("it is none")])
def test_a_machine_that_was_loaded_by_half_is_not_entered(
    boot: Boot, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    """The CPU, which is loaded last, fails: HostError, and a crashed machine, which another restore mends."""
    vm = boot()
    snapshot = vm.snapshot()

    def fails(*_: object, **__: object) -> None:
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(vm._board.cpu, "load", fails)
        with pytest.raises(HostError):
            vm.restore(snapshot)
    assert (vm.state, isinstance(vm.crash, HostError)) == ("crashed", True)
    vm.restore(snapshot)
    assert (vm.state, vm.crash) == ("running", None)
    assert vm.guest.read(0).startswith(b"labkit")


@pytest.mark.parametrize("from_file", [False, True])
def test_what_a_device_raises_meanwhile_is_not_heard(boot: Boot, tmp_path: Path, from_file: bool) -> None:
    """A message that is sent while the notifiers stop was sent to a guest that is gone: none waits in the new one."""
    vm = boot(irq="msix")
    vm.pause()
    before = vm.snapshot()
    vm.resume()
    if from_file:
        before.save(tmp_path / "snap")
        before = labkit.load(tmp_path / "snap")
    vm.restore(before)
    board, vector, quiet = vm._board, vm.proxy.queues[0].vector, interrupts(vm)
    vm.resume()
    heard = []

    def send(running: bool) -> None:
        if not running:
            lib.lk_vector_raise(vm.proxy.device, vector)
            heard.append(interrupts(vm) != quiet)

    board.runstate.listen(send)
    vm.restore(before)
    board.runstate.forget(send)
    assert (heard, interrupts(vm)) == ([True], quiet)


def interrupts(vm: Machine) -> bytes:
    """What waits for vCPU 0 of a machine with nothing half done."""
    state = vm._board.cpu.save()
    return state.vcpus[0]["LAPIC"][IRR] if vm.cpu == "kvm" else state.shared["IRQCHIP"]


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_file_holds_all_of_it(boot: Boot, tmp_path: Path) -> None:
    """Saved and loaded it is the same, small, and can be taken up."""
    vm = boot()
    before = vm.snapshot()
    before.save(tmp_path / "snap")
    again = labkit.load(tmp_path / "snap")
    assert (again.plan, again.running, again.parts, again.memory) == (
        before.plan,
        before.running,
        before.parts,
        before.memory,
    )
    assert (tmp_path / "snap").stat().st_size < 1 << 20
    assert len(labkit.diff(before, again)) == 0
    vm.restore(again)
    assert vm.guest.read(0).startswith(b"labkit")


@pytest.fixture
def packed(boot: Boot, tmp_path: Path) -> bytes:
    """A snapshot's file."""
    boot(bring_up=False).snapshot().save(tmp_path / "snap")
    return (tmp_path / "snap").read_bytes()


def test_a_file_that_lies_is_refused(packed: bytes, tmp_path: Path) -> None:
    """Cut anywhere, any byte changed: UsageError, or it still says the same."""
    chance, path = random.Random(1), tmp_path / "lies"
    whole = labkit.load(_put(path, packed))
    for _ in range(150):
        at = chance.randrange(len(packed))
        spoiled = packed[:at] if chance.random() < 0.3 else _flipped(packed, at, chance)
        with contextlib.suppress(UsageError):
            loaded = labkit.load(_put(path, spoiled))
            assert (loaded.memory, loaded.plan.keys()) == (whole.memory, whole.plan.keys())


def _put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _flipped(content: bytes, at: int, chance: random.Random) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def _rewritten(path: Path, change: Callable[[dict[str, Any]], object], memory: bytes) -> Path:
    with zipfile.ZipFile(path) as file:
        head = json.loads(file.read(STATE))
    change(head)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(STATE, json.dumps(head))
        file.writestr(MEMORY, memory)
    return path


@pytest.mark.parametrize(
    ("change", "memory", "said"),
    [
        (lambda head: head.update(format=99), b"", "update labkit"),
        (lambda head: head.update(format="1"), b"", "no snapshot"),
        (lambda head: head["plan"].update(memory_mib=1 << 40), b"", "memory_mib"),
        (lambda head: head["plan"].update(more=1), b"", "more"),
        (lambda head: head.pop("plan"), b"", "damaged"),
        (lambda head: head, bytes(1 << 20), "1048576 bytes of memory, and should have"),
        (lambda head: head, bytes((16 << 20) + 1), "larger than"),
    ],
)
def test_what_a_head_may_not_say(
    packed: bytes, tmp_path: Path, change: Callable[[dict[str, Any]], object], memory: bytes, said: str
) -> None:
    """A newer format, sizes that cannot be, memory that does not fit: each named."""
    with pytest.raises(UsageError, match=said):
        labkit.load(_rewritten(_put(tmp_path / "head", packed), change, memory))


def test_what_is_no_snapshot(tmp_path: Path) -> None:
    """No such file, a file of something else, an empty one."""
    for content in (b"", b"something else", b"PK\5\6" + bytes(18)):
        with pytest.raises(UsageError, match="damaged, or none"):
            labkit.load(_put(tmp_path / "none", content))
    with pytest.raises(UsageError, match="No such file"):
        labkit.load(tmp_path / "missing")


def test_a_difference_names_what_changed(boot: Boot) -> None:
    """Registers and indices by name, memory by page; a table in a cell."""
    vm = boot()
    before = vm.snapshot()
    vm.guest.read(0)
    difference = labkit.diff(before, vm.snapshot())
    assert {"device.virtio.queues[0].last_avail", "memory"} <= {change.name for change in difference}
    assert DATA // NUMBERS["PAGE_BYTES"] in difference.pages
    assert "last_avail" in repr(difference) and "<table>" in difference._repr_html_()
    assert "pages in use" in before._repr_html_()
