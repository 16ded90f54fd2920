"""Rule R18: what a load keeps of a device and what it forgets. In the same machine, and in one that was never there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from recordings import recorded, wrong
from rulebook import NEGOTIATED, THEN, UP, Boot, names, owners, revisions

from labkit import Machine, UsageError
from labkit.abi import BlkStatus, PciCommand
from labkit.snapshot import Snapshot
from labkit.trace.events import Cause, Flag
from labkit.virtio.notifier import REVISIONS
from labkit.virtio.table import Step

Elsewhere = Callable[[Machine, Snapshot], Machine]


@pytest.fixture(params=["here", "elsewhere"])
def loaded(request: pytest.FixtureRequest, boot: Boot) -> Elsewhere:
    """Takes a snapshot up, in the machine it is of or in another that was never there."""

    def load(vm: Machine, snapshot: Snapshot) -> Machine:
        there = request.param == "elsewhere"
        target = boot("blk", bring_up=False, irq="poll", revision=vm.proxy.revision) if there else vm
        target.restore(snapshot)
        return target

    return load


def before_driver_ok(boot: Boot, revision: str) -> Machine:
    """A driver that has set its ring up and is at status 3."""
    vm = boot("blk", bring_up=False, irq="poll", revision=revision)
    vm.guest.negotiate()
    return vm


# -- BUS_MASTER_BUG ---------------------------------------------------------------------------------------------------


@revisions()
def test_r18_the_bug_is_lost_on_a_load(boot: Boot, loaded: Elsewhere, revision: str) -> None:
    """R18, R8: a driver that forgot bus-master was left alone until the load; the next COMMAND takes its DRIVER_OK."""
    vm = before_driver_ok(boot, revision)
    vm.guest.bus_master(False)
    vm.guest.set_driver_ok()
    assert (Flag.BUS_MASTER_BUG in vm.proxy.flags) is (revision in THEN)
    vm = loaded(vm, vm.snapshot())
    assert (vm.proxy.status, vm.proxy.flags) == (UP, Flag.USE_IOEVENTFD)
    assert not vm.guest.bus_master(False) & PciCommand.MASTER
    assert (vm.proxy.status, vm.proxy.ioeventfd_started) == (NEGOTIATED, False)
    assert owners(vm)[-1] == ("vmm", "none", "R8", "BUS_MASTER_OFF")


@revisions(*THEN)
def test_r18_the_bug_is_noted_again_by_the_next_driver_ok(boot: Boot, loaded: Elsewhere, revision: str) -> None:
    """R18, R13: forgotten, not forbidden."""
    vm = before_driver_ok(boot, revision)
    vm.guest.bus_master(False)
    vm.guest.set_driver_ok()
    vm = loaded(vm, vm.snapshot())
    vm.guest.set_driver_ok()
    vm.guest.bus_master(False)
    assert (vm.proxy.status, Flag.BUS_MASTER_BUG in vm.proxy.flags) == (UP, True)


@revisions("merged", "0.14")
def test_r18_it_is_looked_for_before_there_is_a_status(boot: Boot, revision: str) -> None:
    """R18: the look is dead code, whoever loads what: the status is 0 there, and stored after it."""
    steps = REVISIONS[revision].rows[Cause.LOAD].steps
    assert steps.index(Step.RESET_VIRTIO) < steps.index(Step.LOOK_FOR_BUS_MASTER_BUG) < steps.index(Step.STORE_STATUS)
    vm = before_driver_ok(boot, revision)
    vm.guest.bus_master(False)
    vm.guest.set_driver_ok()
    mark = vm.trace.mark()
    vm.restore(vm.snapshot())
    statuses = [(e["before"], e["after"]) for e in vm.trace.events("status", since=mark)]
    assert [after for _, after in statuses].count("0") == 1
    flags = [(e["before"], e["after"]) for e in vm.trace.events("flags", since=mark)]
    assert flags == [("BUS_MASTER_BUG|USE_IOEVENTFD", "USE_IOEVENTFD")]


@revisions(*THEN)
def test_r18_no_saved_state_has_the_bug(boot: Boot, revision: str) -> None:
    """R18: one that claims to is refused."""
    vm = before_driver_ok(boot, revision)
    vm.guest.bus_master(False)
    vm.guest.set_driver_ok()
    snapshot = vm.snapshot()
    notifiers = snapshot.parts["device"]["notifiers"]
    assert set(notifiers) == {"ioeventfd", "turned_off", "kicked"}
    notifiers["bus_master_bug"] = 1
    with pytest.raises(UsageError, match="bus_master_bug"):
        vm.restore(snapshot)


@revisions()
def test_r18_events_tell_of_the_load(boot: Boot, revision: str) -> None:
    """R18: reset, then what was loaded, the status last; a fold of them is what the machine shows."""
    vm = before_driver_ok(boot, revision)
    vm.guest.bus_master(False)
    vm.guest.set_driver_ok()
    snapshot = vm.snapshot()
    vm.guest.bus_master(True)
    mark = vm.trace.mark()
    vm.restore(snapshot)
    vm.pause()
    told = names(vm.trace.events("device_reset", "command", "status", "loaded", since=mark))
    assert told[told.index("device_reset") - 1 : told.index("loaded") + 1] == [
        *("status", "device_reset", "command", "status", "loaded")
    ]
    assert wrong(recorded(vm)) == {}


# -- what goes on -----------------------------------------------------------------------------------------------------


@revisions("today")
def test_r18_a_device_started_by_a_kick_goes_on(boot: Boot, loaded: Elsewhere, revision: str) -> None:
    """R18, R17: kicked at status 3, saved, loaded, and STATUS never written again: it starts and serves."""
    vm = before_driver_ok(boot, revision)
    vm.guest.add()
    vm.guest.publish()
    vm.guest.kick()
    assert vm.guest.wait().status == BlkStatus.OK
    vm = loaded(vm, vm.snapshot())
    assert (vm.proxy.status, vm.proxy.ioeventfd_started) == (NEGOTIATED, True)
    assert owners(vm)[-1] == ("none", "vmm", "R10", "RESUME")
    vm.guest.add()
    vm.guest.publish()
    vm.guest.kick()
    assert vm.guest.wait().status == BlkStatus.OK


@revisions(*THEN)
def test_r18_what_no_kick_can_start_is_not_said_to_be_started(boot: Boot, revision: str) -> None:
    """R18, R17: a state that says a kick started the device, under rules by which none does, is refused."""
    vm = before_driver_ok(boot, revision)
    snapshot = vm.snapshot()
    snapshot.parts["device"]["notifiers"]["kicked"] = 1
    with pytest.raises(UsageError, match="R17"):
        vm.restore(snapshot)
    vm.guest.set_driver_ok()
    assert vm.proxy.ioeventfd_started


@revisions()
def test_r18_a_request_without_a_kick_completes(boot: Boot, loaded: Elsewhere, revision: str) -> None:
    """R18, R3: a request in the ring that nobody kicked: the synthetic kick of the start after the load finds it."""
    vm = boot("blk", irq="poll", revision=revision)
    vm.guest.add()
    vm.guest.publish()
    vm = loaded(vm, vm.snapshot())
    assert vm.guest.wait().status == BlkStatus.OK
    assert vm.proxy.queues[0].used_idx == 1


# -- from another host ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("here", [True, False])
@revisions("merged", "today")
def test_r18_the_property_stays_with_the_device_as_it_was_made(boot: Boot, revision: str, here: bool) -> None:
    """R18, R1: a state from elsewhere is loaded with this device's own property, and the notifiers go by that."""
    source = boot("blk", revision=revision, irq="poll", ioeventfd=not here)
    target = boot("blk", revision=revision, irq="poll", ioeventfd=here, bring_up=False)
    snapshot = source.snapshot()
    device: dict[str, Any] = snapshot.parts["device"]
    device["notifiers"] = target.proxy.notifiers.as_here(device["notifiers"] | {"turned_off": 1})
    target.restore(snapshot)
    assert (Flag.USE_IOEVENTFD in target.proxy.flags, target.proxy.ioeventfd_started) == (here, here)
    assert target.guest.read(0).startswith(b"labkit")
    with pytest.raises(UsageError, match="is list, not a state"):
        target.proxy.notifiers.as_here([])  # type: ignore[arg-type]
