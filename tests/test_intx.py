"""Is INTx a level that follows ISR? The rules of the line in the C core, then the line on a real guest."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from rings import Rig

from labkit import Machine
from labkit.abi import GUEST_IMAGES, NUMBERS, BlkStatus, Irq, PciCommand, Register
from labkit.answers import Completion
from labkit.cpu.ioctl import ioctl
from labkit.cpu.statistics import read_statistics
from labkit.native import lib

Boot = Callable[..., Machine]
QUEUE, CONFIG = NUMBERS["ISR_QUEUE"], NUMBERS["ISR_CONFIG"]
LAPIC_TIMER_COUNT = NUMBERS["GPA_LAPIC"] + 0x380  # 0 stops the timer
PIC_MASTER_MASK, PIC_SLAVE_MASK = 0x21, 0xA1
LAPIC_PENDING = NUMBERS["GPA_LAPIC"] + 0x220  # of vectors 0x40 to 0x5f


# -- the rules of the line ---------------------------------------------------------------------------------------------


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A device whose line leads to a file that is no VM: the level is decided here, and nobody hears of it."""
    with closing(Rig()) as rig, open(os.devnull, "rb") as nobody:
        rig.device.intx_fd = nobody.fileno()
        yield rig


def levels(rig: Rig) -> list[object]:
    """Every change of the line."""
    return [event["level"] for event in rig.events("intx")]


def test_isr_raises_the_line_and_its_read_lowers_it(rig: Rig) -> None:
    """The line is high from the first bit in ISR to the read that clears it; more bits meanwhile change nothing."""
    rig.serve(rig.request())
    rig.serve(rig.request())
    lib.lk_config_changed(rig.device, 0)
    assert levels(rig) == [1]
    assert [event["way"] for event in rig.events("interrupt", "config_changed")] == ["intx"] * 3
    assert lib.lk_isr_take(rig.device) == QUEUE | CONFIG
    assert (levels(rig), rig.device.isr) == ([1, 0], 0)
    assert lib.lk_isr_take(rig.device) == 0
    assert levels(rig) == [1, 0]


def test_a_reset_of_the_device_lowers_the_line(rig: Rig) -> None:
    """ISR is cleared by a reset, and the line goes with it."""
    rig.serve(rig.request())
    lib.lk_device_reset(rig.device)
    assert levels(rig) == [1, 0]


@pytest.mark.parametrize("reason", ["msix_enabled", "intx_disabled"])
def test_msix_and_command_hold_the_line_low(rig: Rig, reason: str) -> None:
    """While MSI-X is on, or COMMAND forbids INTx, the line is low; ISR keeps its bits, and the line comes back."""
    rig.serve(rig.request())
    setattr(rig.device, reason, 1)
    lib.lk_intx_update(rig.device)
    assert (levels(rig), rig.device.isr) == ([1, 0], QUEUE)
    rig.serve(rig.request())
    assert levels(rig) == [1, 0]
    setattr(rig.device, reason, 0)
    lib.lk_intx_update(rig.device)
    assert levels(rig) == [1, 0, 1]


def test_an_interrupt_that_command_forbids_shows_in_isr(rig: Rig) -> None:
    """The event says that only ISR tells of it."""
    rig.device.intx_disabled = 1
    rig.serve(rig.request())
    assert [event["way"] for event in rig.events("interrupt")] == ["isr"]


def test_a_line_that_leads_nowhere_has_no_level(rig: Rig) -> None:
    """Without an I/O APIC nothing is raised, and nothing is told."""
    rig.device.intx_fd = -1
    rig.serve(rig.request())
    assert (levels(rig), rig.device.isr) == ([], QUEUE)


def test_a_bit_set_while_isr_is_read_is_seen_now_or_next_time(rig: Rig) -> None:
    """Read-and-clear is one step: of the bits set by another thread none is lost between the read and the clear."""
    seen, over = threading.Semaphore(0), threading.Event()

    def reader() -> None:
        while not over.is_set():
            if lib.lk_isr_take(rig.device):
                seen.release()

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        for _ in range(1000):
            lib.lk_config_changed(rig.device, 0)
            assert seen.acquire(timeout=60)
    finally:
        over.set()
        thread.join()


# -- on a real guest ---------------------------------------------------------------------------------------------------


def isr_port(vm: Machine) -> int:
    """The port of ISR."""
    return vm.proxy.notify_base + Register.ISR


def guest_levels(vm: Machine) -> list[object]:
    """Every change of the line."""
    return [event["level"] for event in vm.trace.events("intx")]


@contextmanager
def halt_counter(vm: Machine) -> Iterator[Callable[[], int]]:
    """How often vCPU 0 has halted; asking waits for nobody, whatever the vCPU does."""
    cpu = vm._board.cpu
    if cpu.name == "emulated":
        yield lambda: cpu.statistics()["halt_exits"]
        return
    statistics = ioctl(cpu.vcpus[0].fd, "KVM_GET_STATS_FD")
    try:
        yield lambda: read_statistics(statistics)["halt_exits"]
    finally:
        os.close(statistics)


def complete_while_halted(vm: Machine) -> Completion:
    """A request that completes when the waiting guest has halted, with no timer to wake it but the completion itself.

    What is pending before ends one halt at once, so there is one more then.
    """
    vm.guest.store(LAPIC_TIMER_COUNT, 4, 0)
    halts = 1 + bool(vm.guest.load(LAPIC_PENDING, 4))
    found: list[Completion] = []
    waiter = threading.Thread(target=lambda: found.append(vm.guest.wait()))
    with halt_counter(vm) as halted:
        before = halted()
        with vm._board.locked():  # the iothread cannot serve it, be it for this kick or for the synthetic one of START
            vm.guest.add()
            vm.guest.publish()
            vm.guest.kick()
            waiter.start()
            while halted() < before + halts:
                assert waiter.is_alive()
        waiter.join()
    return found[0]


@pytest.mark.parametrize("irq", ["msix", "intx"])
@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_halted_waiter_wakes(boot: Boot, irq: str, vcpus: int) -> None:
    """The completion's interrupt, and nothing else, ends the halt; it is counted once."""
    done = complete_while_halted(boot("blk", irq=irq, vcpus=vcpus))
    assert (done.status, done.interrupts) == (BlkStatus.OK, 1)


def test_the_handler_lowers_the_line(boot: Boot) -> None:
    """One completion, one rise, one fall: the guest's handler has read ISR."""
    vm = boot("blk", irq="intx")
    complete_while_halted(vm)
    assert guest_levels(vm) == [1, 0]
    assert [event["way"] for event in vm.trace.events("interrupt")] == ["intx"]
    assert vm.proxy.device.isr == 0


@pytest.mark.parametrize("vcpus", [1, 2, 4])
@pytest.mark.parametrize("ioeventfd", [True, False])
def test_a_storm_by_intx_completes(boot: Boot, vcpus: int, ioeventfd: bool) -> None:
    """One request at a time, each waited for: with the slow timer alone this would take half a minute."""
    vm = boot("blk", irq="intx", vcpus=vcpus, ioeventfd=ioeventfd)
    storm = vm.guest.storm(300, depth=1, timeout_s=60)
    assert (storm.requests, storm.errors) == (300, 0)


@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_reset_in_the_middle_of_an_interrupt_does_not_stop_the_next(boot: Boot, vcpus: int) -> None:
    """The line is high and the interrupt not taken when the machine is reset: the I/O APIC forgets it too."""
    vm = boot("blk", irq="intx", vcpus=vcpus)
    for _ in range(3):
        vm.guest.read(0)
        vm.guest.add()
        vm.guest.publish()
        vm.guest.kick()
        vm.reset()
        vm.guest.negotiate(driver_ok=True)
        assert complete_while_halted(vm).interrupts == 1


def test_the_guest_finds_the_line_in_config_space(boot: Boot) -> None:
    """INTA, at the pin where the firmware says it leads; without an I/O APIC the same device."""
    for irq in ("intx", "poll"):
        vm = boot("blk", irq=irq)
        assert vm.guest.pci_read(NUMBERS["PCI_INTERRUPT_PIN"], 1) == NUMBERS["PCI_INTERRUPT_PIN_A"]
        assert vm.guest.pci_read(NUMBERS["PCI_INTERRUPT_LINE"], 1) == NUMBERS["INTX_PIN"]


def test_pci_status_says_what_the_line_wants(boot: Boot) -> None:
    """The interrupt bit of STATUS is ISR's shadow: COMMAND's INTx-disable lowers the line and leaves the bit."""
    vm = boot("blk", irq="intx")

    def wanted() -> bool:
        return bool(vm.guest.pci_read(NUMBERS["PCI_STATUS"], 2) & NUMBERS["PCI_STATUS_INTERRUPT"])

    def forbid(bit: int) -> None:
        vm.guest.pci_write(NUMBERS["PCI_COMMAND"], 2, vm.proxy.command & ~PciCommand.INTX_DISABLE | bit)

    assert not wanted()
    vm.resize_disk(1 << 20)
    assert (wanted(), guest_levels(vm)) == (True, [1])
    forbid(PciCommand.INTX_DISABLE)
    assert (wanted(), guest_levels(vm)) == (True, [1, 0])
    forbid(0)
    assert (wanted(), guest_levels(vm)) == (True, [1, 0, 1])
    assert vm.guest.port_in(isr_port(vm), 1) == QUEUE | CONFIG
    assert (wanted(), guest_levels(vm)) == (False, [1, 0, 1, 0])


def test_msix_takes_over_from_the_line(boot: Boot) -> None:
    """Enabled by the guest while the line is high: the line falls, and it is back when MSI-X is off again."""
    vm = boot("blk", irq="intx")
    control = NUMBERS["MSIX_CAP_OFFSET"] + NUMBERS["MSIX_CONTROL"]
    vm.resize_disk(1 << 20)
    vm.guest.pci_write(control, 2, NUMBERS["MSIX_CONTROL_ENABLE"])
    assert guest_levels(vm) == [1, 0]
    vm.guest.pci_write(control, 2, 0)
    assert guest_levels(vm) == [1, 0, 1]


def test_messages_work_beside_the_lines(boot: Boot) -> None:
    """With the full irqchip MSI-X is routed behind the pins: a driver that prefers it wakes by it."""
    vm = boot("blk", irq="intx", bring_up=False)
    vm._irq = Irq.MSIX
    vm.guest.negotiate(driver_ok=True)
    assert vm.proxy.msix.enabled
    assert complete_while_halted(vm).interrupts == 1
    assert guest_levels(vm) == []


def test_without_an_io_apic_the_driver_polls(boot: Boot) -> None:
    """A driver that asks for INTx on a machine without the full irqchip finds no I/O APIC and goes on by polling."""
    vm = boot("blk", irq="poll", bring_up=False)
    vm._irq = Irq.INTX
    vm.guest.negotiate(driver_ok=True)
    assert len(vm.guest.read(0)) == 512
    assert vm.memory.u16(vm.proxy.device.vq[0].avail) == NUMBERS["AVAIL_NO_INTERRUPT"]
    assert vm.trace.events("intx") == []


@pytest.mark.parametrize(("irq", "used"), [("intx", Irq.INTX), ("msix", Irq.POLL), ("poll", Irq.POLL)])
def test_a_kernel_finds_an_io_apic_only_with_intx(boot: Boot, irq: str, used: Irq) -> None:
    """`kernel=` guests have the split irqchip as before, unless the machine was booted with irq="intx"."""
    load = "requests=50 depth=1 irq=intx"
    vm = boot("blk", irq=irq, kernel=GUEST_IMAGES / "storm.elf", cmdline=load)
    assert vm.wait(timeout_s=60) == 1
    assert f" irq={int(used)}" in vm.console
    assert "requests=50" in vm.console
    assert "errors=0" in vm.console


def test_a_kernel_finds_the_pics_masked(boot: Boot) -> None:
    """No line reaches a PIC's guest before it asks: both mask registers read all ones, and take what is written."""
    vm = boot("blk", irq="intx")
    for mask in (PIC_MASTER_MASK, PIC_SLAVE_MASK):
        assert vm.guest.port_in(mask, 1) == 0xFF
        vm.guest.port_out(mask, 1, 0xFB)
        assert vm.guest.port_in(mask, 1) == 0xFB
    vm.reset()
    assert [vm.guest.port_in(mask, 1) for mask in (PIC_MASTER_MASK, PIC_SLAVE_MASK)] == [0xFF, 0xFF]
