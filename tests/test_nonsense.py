"""Does a machine survive a guest that writes nonsense? Random accesses of every width, on a real guest."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from labkit import LabkitError, Machine
from labkit.abi import GPA_MSIX_BAR, PORT_PCI_ADDRESS, PORT_PCI_DATA

Boot = Callable[..., Machine]
STEPS = 250
WIDTHS = (1, 2, 4)


def value(dice: random.Random) -> int:
    """Small numbers, bits, all ones, anything: in equal shares."""
    return dice.choice((dice.randrange(16), 1 << dice.randrange(32), 0xFFFFFFFF, dice.getrandbits(32)))


def poke(vm: Machine, dice: random.Random) -> None:
    """One access somewhere: registers, config space, MSI-X table, any port, ring memory."""
    guest, width = vm.guest, dice.choice(WIDTHS)
    match dice.randrange(6):
        case 0 | 1:
            guest.port_out(vm.proxy.notify_base + dice.randrange(64), width, value(dice))
        case 2:
            guest.port_in(vm.proxy.notify_base + dice.randrange(64), width)
        case 3:
            guest.port_out(PORT_PCI_ADDRESS, 4, 1 << 31 | dice.getrandbits(17))
            guest.port_out(PORT_PCI_DATA + dice.randrange(4), width, value(dice))
        case 4:
            guest.store(GPA_MSIX_BAR + dice.randrange(4096 - 8), dice.choice((1, 2, 4, 8)), value(dice))
        case 5:
            guest.store(0x200000 + dice.randrange(0x4000), width, value(dice))


@pytest.mark.parametrize("seed", range(6))
def test_nonsense_everywhere_leaves_a_machine_that_resets(boot: Boot, seed: int) -> None:
    """Whatever is written where: a typed error at most, and after a reset the disk is read as before."""
    vm, dice = boot("blk", ioeventfd=bool(seed % 2), irq="poll"), random.Random(seed)
    for _ in range(STEPS):
        try:
            poke(vm, dice)
        except LabkitError:
            vm.reset()
    vm.pause()
    vm.resume()
    vm.reset()
    assert vm.guest.read(0).startswith(b"labkit")


@pytest.mark.parametrize("width", WIDTHS)
def test_every_register_takes_every_width(boot: Boot, width: int) -> None:
    """Each offset of BAR0, read and written with each width, and far past the last register: no access is fatal."""
    vm = boot("blk", irq="poll")
    for offset in range(64):
        vm.guest.port_in(vm.proxy.notify_base + offset, width)
        vm.guest.port_out(vm.proxy.notify_base + offset, width, 0xFFFFFFFF)
    vm.reset()
    assert vm.guest.read(0).startswith(b"labkit")
