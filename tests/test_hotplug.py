"""What happens when the device is pulled out of a running machine, and when it comes back? Rule R11, on a guest."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import labkit
from labkit import GuestError, Machine, UsageError
from labkit.abi import NUMBERS, PciCommand, Register, Status
from labkit.trace.events import Flag
from labkit.virtio.notifier import REVISIONS

Boot = Callable[..., Machine]
UP = Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK


def open_eventfds() -> int:
    """How many eventfds this process has; two fds of one count once."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        except FileNotFoundError:
            continue  # the listing's own
        found |= {line for line in lines if line.startswith("eventfd-id")}
    return len(found)


def test_unplug_stops_by_rule_r11(boot: Boot) -> None:
    """The notifiers stop first, by R11, and a later pause and resume find no device to start."""
    vm = boot("blk")
    vm.guest.read(0)
    vm.unplug()
    vm.pause()
    vm.resume()
    last = vm.trace.events("owner")[-1]
    assert (last["after"], last["rule"], last["cause"]) == ("none", "R11", "EXIT")


def test_an_unplugged_device_answers_nowhere(boot: Boot) -> None:
    """Config space, ports and vector table read all ones; a kick reaches nobody."""
    vm = boot("blk", ioeventfd=False)
    vm.guest.read(0)
    vm.unplug()
    assert vm.guest.pci_read(NUMBERS["PCI_VENDOR_ID"], 4) == 0xFFFFFFFF
    assert vm.guest.port_in(vm.proxy.notify_base + Register.STATUS, 1) == 0xFF
    assert vm.guest.load(NUMBERS["GPA_MSIX_BAR"], 4) == 0xFFFFFFFF
    mark = vm.trace.mark()
    vm.guest.port_out(vm.proxy.notify_base + Register.STATUS, 1, UP)
    vm.guest.kick()
    assert vm.trace.events("kick_trap", "kick_ignored", "queue_notify", "status", since=mark) == []


def test_unplug_gives_every_eventfd_back(boot: Boot) -> None:
    """Notifiers and vectors are closed; plugging in opens the vectors again, and nothing piles up."""
    vm = boot("blk")
    before = open_eventfds()
    vm.unplug()
    assert open_eventfds() == before - 1 - NUMBERS["BLK_VECTORS"]
    for _ in range(3):
        vm.plug()
        vm.guest.negotiate(driver_ok=True)
        assert open_eventfds() == before
        vm.unplug()


@pytest.mark.parametrize("irq", ["msix", "intx", "poll"])
def test_what_comes_back_is_at_power_on(boot: Boot, irq: str) -> None:
    """STATUS 0, no ring, MSI-X off, COMMAND and BARs as the firmware leaves them; then a driver brings it up."""
    vm = boot("blk", irq=irq, bring_up=False)
    vm.guest.pci_write(NUMBERS["PCI_BAR0"], 4, 0xD000)
    assert vm.guest.negotiate(driver_ok=True).bar0 == 0xD000
    vm.guest.pci_write(NUMBERS["PCI_COMMAND"], 2, sum(PciCommand))
    vm.resize_disk(1 << 20)
    vm.unplug()
    vm.plug()
    assert (vm.proxy.status, vm.proxy.queues[0].pfn, vm.proxy.msix.enabled, vm.proxy.device.isr) == (0, 0, False, 0)
    assert vm.proxy.command == PciCommand.IO | PciCommand.MEMORY
    assert vm.proxy.notify_base == NUMBERS["BAR0_FIRST"]
    assert not vm.trace.events("intx") or vm.trace.events("intx")[-1]["level"] == 0
    vm.guest.negotiate(driver_ok=True)
    assert vm.guest.storm(50, depth=4, timeout_s=60).errors == 0
    assert vm.proxy.queues[0].notifier.owner == "vmm"


@pytest.mark.parametrize("irq", ["msix", "intx"])
@pytest.mark.parametrize("ioeventfd", [True, False])
def test_pulled_out_under_load(boot: Boot, irq: str, ioeventfd: bool) -> None:
    """Two vCPUs are kicking: their requests never complete, they give up, and after a plug all goes on."""
    vm = boot("blk", irq=irq, ioeventfd=ioeventfd, vcpus=2)
    failed: list[GuestError] = []

    def load() -> None:
        try:
            vm.guest.storm(10**9, depth=4, timeout_s=0.5)
        except GuestError as error:
            failed.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    while vm.proxy.device.vq[0].requests < 10:
        assert thread.is_alive()
    vm.unplug()
    served = vm.proxy.device.vq[0].requests
    thread.join()
    assert ["TIMEOUT" in str(error) for error in failed] == [True]
    assert vm.proxy.device.vq[0].requests == served
    vm.plug()
    vm.guest.negotiate(driver_ok=True)
    assert vm.guest.storm(100, depth=4, timeout_s=60).errors == 0


def test_the_disk_survives(boot: Boot) -> None:
    """The same model comes back: what was written is there."""
    vm = boot("blk")
    vm.guest.write(5, b"kept" * 128)
    vm.unplug()
    vm.plug()
    vm.guest.negotiate(driver_ok=True)
    assert vm.guest.read(5) == b"kept" * 128


def test_a_reset_does_not_bring_it_back(boot: Boot) -> None:
    """The reset button resets what is there; the slot stays empty until the device is plugged in."""
    vm = boot("blk")
    vm.unplug()
    vm.reset()
    with pytest.raises(GuestError, match="NO_DEVICE"):
        vm.guest.negotiate()
    vm.plug()
    assert vm.guest.read(0).startswith(b"labkit")


def test_plug_while_paused(boot: Boot) -> None:
    """Both work on a paused machine, and the guest finds the change when it goes on."""
    vm = boot("blk")
    vm.pause()
    vm.unplug()
    vm.plug()
    vm.resume()
    vm.guest.negotiate(driver_ok=True)
    assert vm.guest.read(0).startswith(b"labkit")


def test_one_slot_one_device(boot: Boot) -> None:
    """Unplugging twice, plugging twice, resizing or lending what is not there: the caller's fault. Closing is fine."""
    vm = boot("blk")
    with pytest.raises(UsageError, match="nothing to plug"):
        vm.plug()
    vm.unplug()
    for use in (vm.unplug, lambda: vm.resize_disk(512), vm.hand_over, vm.take_back):
        with pytest.raises(UsageError, match="unplugged"):
            use()
    vm.close()


# -- another property --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_device_can_come_back_with_another_property(boot: Boot, revision: str) -> None:
    """R1: the property is set when a device is created. Off: its kicks trap; on: they do not; unsaid: as before."""
    vm = boot("blk", revision=revision)
    for ioeventfd, trapped in ((False, 1), (None, 1), (True, 0), (None, 0)):
        vm.unplug()
        mark = vm.trace.mark()
        vm.plug(ioeventfd=ioeventfd)
        (came,) = vm.trace.events("plug", since=mark)
        assert (came["flags"] == "USE_IOEVENTFD") is not bool(trapped)
        vm.guest.negotiate(driver_ok=True)
        notifier = vm.proxy.queues[0].notifier
        before = notifier.trapped
        assert vm.guest.read(0).startswith(b"labkit")
        assert (notifier.trapped - before, notifier.owner) == (trapped, "none" if trapped else "vmm")


def test_a_recording_knows_the_property_of_the_one_that_came(boot: Boot, tmp_path: Path) -> None:
    """The event of the plug has its flags: the replay shows them from there on, and the others before."""
    vm = boot("blk")
    vm.unplug()
    mark = vm.trace.mark()
    vm.plug(ioeventfd=False)
    vm.trace.save(tmp_path / "plugged.lab")
    replay = labkit.replay(tmp_path / "plugged.lab")
    replay.seek(mark)
    before = replay.proxy.flags
    replay.seek(vm.trace.mark())
    assert (before, replay.proxy.flags) == (Flag.USE_IOEVENTFD, Flag(0))
