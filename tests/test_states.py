"""Can a device be taken up where it was left? What each part saves, and what it refuses to load.

A machine's memory and CPU are other parts: here the driver is told by hand, and the rings lie in memory that is copied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rulebook import Boot

import labkit
from labkit import Machine, UsageError
from labkit.abi import NUMBERS, Status
from labkit.state import U8, Blob, Bytes, Many, State, checked

UP = Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK


def at_rest(vm: Machine, work: Callable[[], Any]) -> Any:
    """Work on the device in the owner thread, under the big lock."""

    def locked() -> Any:
        with vm._board.locked():
            return work()

    return vm._board.owner.call(locked)


def saved(vm: Machine) -> State:
    """The device's state; the machine is paused."""
    state: State = at_rest(vm, vm.proxy.save_device)
    return state


def moved(source: Machine, target: Machine) -> None:
    """Device and memory of one paused machine into another."""
    state = saved(source)
    target.memory.write(0, source.memory.read(0, source.memory.size_bytes))
    at_rest(target, lambda: (target.proxy.load_device(state), target.proxy.tell_loaded()))


# -- shapes ------------------------------------------------------------------------------------------------------------

SHAPE = {"number": U8, "bytes": Bytes(2), "blob": Blob(3), "many": Many(2, {"n": U8}), "one": {"n": U8}}
GOOD: State = {"number": 255, "bytes": b"ab", "blob": b"", "many": [{"n": 0}, {"n": 1}], "one": {"n": 2}}
WRONG: list[tuple[Any, str]] = [
    (None, "part is NoneType"),
    (GOOD | {"more": 1}, "part has not the fields of this version: more"),
    ({"number": 1}, "blob, bytes, many, one"),
    (GOOD | {"\x1b\ud800": 1}, r"this version: \\x1b\\ud800;"),
    (GOOD | {"x" * 1000: 1}, f"this version: {'x' * 40};"),
    (GOOD | {f"{n}": 1 for n in range(1000)}, "this version: 0, 1, 10, 100, 101, 102, 103, 104;"),
    (GOOD | {"number": 256}, "part.number is no whole number from 0 to 255"),
    (GOOD | {"number": -1}, "part.number"),
    (GOOD | {"number": 1.0}, "part.number"),
    (GOOD | {"bytes": b"abc"}, "part.bytes is not 2 bytes"),
    (GOOD | {"bytes": "ab"}, "part.bytes"),
    (GOOD | {"blob": b"abcd"}, "part.blob is not bytes, at most 3"),
    (GOOD | {"blob": bytearray(1)}, "part.blob"),
    (GOOD | {"blob": None}, "part.blob"),
    (GOOD | {"many": [{"n": 0}]}, "part.many is not a list of 2"),
    (GOOD | {"many": [{"n": 0}, {"n": 256}]}, r"part.many\[1\].n"),
    (GOOD | {"one": {"n": "x"}}, "part.one.n"),
]


def test_a_state_of_the_shape_is_believed() -> None:
    """As it is; bytes of any number as far as they may."""
    for good in (GOOD, GOOD | {"blob": b"abc"}):
        assert checked("part", SHAPE, good) == good


@pytest.mark.parametrize(("found", "said"), WRONG)
def test_any_other_is_refused_and_named(found: object, said: str) -> None:
    """UsageError says which field of which part."""
    with pytest.raises(UsageError, match=said):
        checked("part", SHAPE, found)


# -- a device is taken up where it was left ----------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "blk": {"device": "blk"},
    "net": {"device": "net", "mac": "52:54:00:12:34:56"},
    "console": {"device": "console"},
    "null": {"device": "null", "queues": 3},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("irq", ["msix", "intx"])
def test_what_is_saved_is_what_was_loaded(boot: Boot, kind: str, irq: str) -> None:
    """Save, load into another machine that has gone another way, save again: the same, to the last number."""
    source, target = (boot(irq=irq, **KINDS[kind]) for _ in range(2))
    target.guest.reset_device()
    for vm in (source, target):
        vm.pause()
    before = saved(source)
    assert before != saved(target)
    moved(source, target)
    assert saved(target) == before
    assert target.proxy.status == UP


@pytest.mark.parametrize("revision", labkit.rules.names())
def test_a_request_in_the_ring_is_served_when_the_machine_goes_on(boot: Boot, revision: str) -> None:
    """Published and never kicked: R10 starts the notifiers, and the one synthetic kick of the start finds it (R3)."""
    source = boot(revision=revision, irq="poll")
    target = boot(revision=revision, irq="poll", bring_up=False)
    source.guest.read(0)
    source.guest.add()
    source.guest.publish()
    for vm in (source, target):
        vm.pause()
    moved(source, target)
    queue = target.proxy.queues[0]
    assert (queue.notifier.owner, queue.last_avail_idx, queue.avail_idx) == ("none", 1, 2)
    target.resume()
    while queue.used_idx != 2:
        assert target.state == "running"
    assert (queue.notifier.owner, queue.notifier.synthetic, queue.notifier.signalled) == ("vmm", 1, 0)
    last = target.trace.events("owner", queue=0)[-1]
    assert (last["after"], last["rule"], last["cause"]) == ("vmm", "R10", "RESUME")


def test_the_notifier_goes_where_the_bar_is(boot: Boot) -> None:
    """BAR0 was moved before the save: the other machine's registers and kicks are there."""
    source, target = boot(irq="poll", ioeventfd=False), boot(irq="poll", ioeventfd=False, bring_up=False)
    source.guest.pci_write(NUMBERS["PCI_BAR0"], 4, 0xD001)
    for vm in (source, target):
        vm.pause()
    moved(source, target)
    assert (target.proxy.notify_base, target.proxy.status) == (0xD000, UP)


# -- what is refused, and changes nothing ------------------------------------------------------------------------------


@pytest.fixture
def paused(boot: Boot) -> Iterator[Machine]:
    """A machine with a state of its own."""
    vm = boot("blk")
    vm.pause()
    yield vm
    vm.resume()
    assert vm.guest.read(0).startswith(b"labkit")


def spoil_config(state: State) -> None:
    """The vendor is another."""
    state["pci"]["config"] = b"\1" + state["pci"]["config"][1:]


SPOILS: dict[str, Callable[[State], None]] = {
    "another device": spoil_config,
    "a feature that is not offered": lambda state: state["virtio"].update(guest_features=1 << 20),
    "a vector that is not there": lambda state: state["virtio"]["queues"][0].update(vector=40),
    "a config vector that is not there": lambda state: state.update(config_vector=40),
    "a queue that cannot be selected": lambda state: state.update(queue_sel=64),
    "a queue more": lambda state: state["virtio"]["queues"].append(state["virtio"]["queues"][0]),
    "a larger disk": lambda state: state["model"].update(sectors=1 << 40),
    "a table that is too short": lambda state: state["msix"].update(table=b""),
    "no status": lambda state: state.pop("status"),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_state_that_does_not_fit_changes_nothing(paused: Machine, spoil: str) -> None:
    """UsageError; the device is as it was, and goes on."""
    before = saved(paused)
    state = copy.deepcopy(before)
    SPOILS[spoil](state)
    with pytest.raises(UsageError, match="saved state"):
        at_rest(paused, lambda: paused.proxy.load_device(state))
    assert saved(paused) == before


def test_chains_that_the_devices_own_code_holds_are_in_the_way(boot: Boot) -> None:
    """A state cannot hold what Python code keeps: UsageError names the queue."""

    class Keeps(labkit.Device):
        queue_sizes = (8,)
        kept: list[Any]

        def handle(self, queue: Any) -> None:
            self.kept = list(queue)

    vm = boot(Keeps(), irq="poll")
    vm.guest.add_buffers(send_bytes=4)
    vm.guest.publish()
    vm.guest.kick()
    vm.pause()
    with pytest.raises(UsageError, match="queue 0: the device's own code holds"):
        saved(vm)


def test_any_numbers_in_a_ring_are_the_rings_affair(paused: Machine) -> None:
    """Indices and a page frame far outside: loaded, and the device is broken when it looks there."""
    before = saved(paused)
    state = copy.deepcopy(before)
    state["virtio"]["queues"][0].update(pfn=0xFFFFFFFF, last_avail=0xFFFF, used_idx=7)
    at_rest(paused, lambda: paused.proxy.load_device(state))
    paused.resume()
    while not paused.proxy.device.broken:
        assert paused.state == "running"
    paused.pause()
    at_rest(paused, lambda: paused.proxy.load_device(before))
