"""What does a guest find on the PCI bus? Config mechanism #1, sizes of BARs, and where BARs answer."""

from __future__ import annotations

import pytest

from labkit.abi import NUMBERS, PORT_PCI_ADDRESS, PORT_PCI_DATA, PciCommand
from labkit.pc import firmware
from labkit.pc.bus import Bus
from labkit.pc.pci import MECHANISM_PORTS, Bar, PciBus, PciFunction, host_bridge

BAR0, BAR1, COMMAND = (NUMBERS[name] for name in ("PCI_BAR0", "PCI_BAR1", "PCI_COMMAND"))
ENABLE = NUMBERS["PCI_CONFIG_ENABLE"]
IO_HOME, MEMORY_HOME = NUMBERS["BAR0_FIRST"], NUMBERS["GPA_MSIX_BAR"]
SLOT = 3
IO_SIZE, MEMORY_SIZE = 64, 4096
DECODE = PciCommand.IO | PciCommand.MEMORY
FREE_SLOTS = [(0, 1, 0), (0, SLOT, 1), (1, SLOT, 0), (0xFF, 31, 7)]


class Answer:
    """A part that answers one number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def read(self, offset: int, width: int) -> int:
        """The number."""
        return self.number

    def write(self, offset: int, width: int, value: int) -> None:
        """Nothing."""


class Card(PciFunction):
    """A function with an I/O BAR and a memory BAR that remembers where its BARs went."""

    def __init__(self, ports: Bus, mmio: Bus) -> None:
        super().__init__({"PCI_VENDOR_ID": (0x1AF4, 2), "PCI_DEVICE_ID": (0x1001, 2)}, ports, mmio)
        self.moves: list[tuple[int, range | None]] = []
        self.add_bar(Bar(0, IO_SIZE, io=True, handler=Answer(0x10)))
        self.add_bar(Bar(1, MEMORY_SIZE, io=False, handler=Answer(0x20)))

    def bar_moved(self, bar: Bar) -> None:
        """Remember."""
        self.moves.append((bar.index, bar.mapped))


class Pc:
    """Ports, MMIO, a PCI bus with a host bridge at slot 0 and a card at slot 3, as the firmware leaves them."""

    def __init__(self) -> None:
        self.ports, self.mmio, self.bus = Bus(1 << 16), Bus(1 << 52), PciBus()
        self.ports.claim(MECHANISM_PORTS, self.bus)
        self.bus.functions[0] = host_bridge(self.ports, self.mmio)
        self.card = Card(self.ports, self.mmio)
        self.bus.functions[SLOT] = self.card
        firmware.assign_bars(self.card)
        self.card.moves.clear()

    def select(self, register: int, *, bus: int = 0, slot: int = SLOT, function: int = 0, enable: int = ENABLE) -> None:
        """What a guest writes to port 0xcf8."""
        self.ports.write(PORT_PCI_ADDRESS, 4, enable | bus << 16 | slot << 11 | function << 8 | register & 0xFC)

    def read(self, register: int, width: int, *, slot: int = SLOT) -> int:
        """A config read."""
        self.select(register, slot=slot)
        return self.ports.read(PORT_PCI_DATA + (register & 3), width)

    def write(self, register: int, width: int, value: int) -> None:
        """A config write to the card."""
        self.select(register)
        self.ports.write(PORT_PCI_DATA + (register & 3), width, value)


@pytest.fixture
def pc() -> Pc:
    """A PC with one card."""
    return Pc()


# -- config mechanism #1 -----------------------------------------------------------------------------------------------


def test_the_guest_finds_the_functions(pc: Pc) -> None:
    """Vendor and device stand in the first register of each slot; the host bridge says that this is a PC."""
    assert pc.read(0, 4, slot=0) == 0x12378086
    assert pc.read(NUMBERS["PCI_CLASS"], 2, slot=0) == 0x0600
    assert pc.read(0, 4) == 0x10011AF4


@pytest.mark.parametrize(("bus", "slot", "function"), FREE_SLOTS)
@pytest.mark.parametrize("width", [1, 2, 4])
def test_an_empty_slot_reads_all_ones(pc: Pc, bus: int, slot: int, function: int, width: int) -> None:
    """Nobody there: all ones in every width, and writes are lost."""
    pc.select(0, bus=bus, slot=slot, function=function)
    assert pc.ports.read(PORT_PCI_DATA, width) == (1 << 8 * width) - 1
    pc.ports.write(PORT_PCI_DATA, width, 0)


def test_without_the_enable_bit_there_is_no_config_space(pc: Pc) -> None:
    """Bit 31 of the address opens the data port."""
    pc.select(0, enable=0)
    assert pc.ports.read(PORT_PCI_DATA, 4) == 0xFFFFFFFF


def test_the_address_register_takes_four_bytes_only(pc: Pc) -> None:
    """A narrower write to 0xcf8 is not the mechanism's: the selected address stays, and reads back in any part."""
    pc.select(0)
    for width in (1, 2):
        pc.ports.write(PORT_PCI_ADDRESS, width, 0)
    pc.ports.write(PORT_PCI_ADDRESS + 1, 4, 0)
    assert pc.ports.read(PORT_PCI_ADDRESS, 4) == ENABLE | SLOT << 11
    assert pc.ports.read(PORT_PCI_ADDRESS + 1, 1) == SLOT << 3
    assert pc.ports.read(PORT_PCI_ADDRESS + 3, 1) == ENABLE >> 24


def test_the_data_port_reaches_each_byte(pc: Pc) -> None:
    """Offset and width at the data port choose the bytes of the selected register."""
    assert [pc.read(at, 1) for at in range(4)] == [0xF4, 0x1A, 0x01, 0x10]
    assert [pc.read(at, 2) for at in (0, 2)] == [0x1AF4, 0x1001]


def test_the_low_bits_of_the_address_are_no_part_of_it(pc: Pc) -> None:
    """Bits 1 and 0 of 0xcf8 are ignored: the data port chooses the byte."""
    pc.ports.write(PORT_PCI_ADDRESS, 4, ENABLE | SLOT << 11 | 3)
    assert pc.ports.read(PORT_PCI_DATA, 2) == 0x1AF4


def test_past_the_end_of_config_space(pc: Pc) -> None:
    """A read that begins inside and ends beyond 256 bytes gives all ones; such a write loses what is beyond."""
    pc.select(0xFC)
    assert pc.ports.read(PORT_PCI_DATA + 3, 4) == 0xFFFFFFFF
    pc.ports.write(PORT_PCI_DATA + 3, 4, 0xFFFFFFFF)
    assert len(pc.card.config) == NUMBERS["PCI_CONFIG_BYTES"]


def test_what_is_read_only_stays(pc: Pc) -> None:
    """Identity cannot be written, in any width; the interrupt line can: it is the firmware's notepad."""
    for width in (1, 2, 4):
        pc.write(0, width, 0)
    assert pc.read(0, 4) == 0x10011AF4
    pc.write(NUMBERS["PCI_INTERRUPT_LINE"], 1, 11)
    assert pc.read(NUMBERS["PCI_INTERRUPT_LINE"], 1) == 11


def test_command_holds_only_the_bits_that_exist(pc: Pc) -> None:
    """All ones written to COMMAND leave I/O, memory, bus-master and INTx-disable."""
    pc.write(COMMAND, 2, 0xFFFF)
    assert pc.read(COMMAND, 2) == 0x407
    assert pc.card.command == sum(PciCommand)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_command_can_be_written_in_any_width(pc: Pc, width: int) -> None:
    """Bus-master is set by a write of 1, 2 or 4 bytes; the high byte alone changes only itself."""
    pc.write(COMMAND, width, DECODE | PciCommand.MASTER)
    assert pc.card.command == DECODE | PciCommand.MASTER
    pc.write(COMMAND + 1, 1, 0x04)
    assert pc.card.command == DECODE | PciCommand.MASTER | PciCommand.INTX_DISABLE


# -- BARs --------------------------------------------------------------------------------------------------------------


def test_a_bar_tells_its_size(pc: Pc) -> None:
    """All ones written read back as the size's complement, the kind in the low bits; then the address goes back."""
    homes = pc.read(BAR0, 4), pc.read(BAR1, 4)
    for register in (BAR0, BAR1, BAR1 + 4):
        pc.write(register, 4, 0xFFFFFFFF)
    assert pc.read(BAR0, 4) == 0xFFFFFFC1
    assert pc.read(BAR1, 4) == 0xFFFFF000
    assert pc.read(BAR1 + 4, 4) == 0, "there is no third BAR"
    pc.write(BAR0, 4, homes[0])
    pc.write(BAR1, 4, homes[1])
    assert (pc.ports.read(IO_HOME, 1), pc.mmio.read(MEMORY_HOME, 1)) == (0x10, 0x20)


def test_the_firmware_puts_the_bars_and_leaves_bus_master_off(pc: Pc) -> None:
    """BARs at their homes, decoded; bus-master is the driver's to set."""
    assert pc.read(BAR0, 4) == IO_HOME | NUMBERS["PCI_BAR_IO"]
    assert pc.read(BAR1, 4) == MEMORY_HOME
    assert pc.card.command == DECODE
    assert (pc.ports.read(IO_HOME + IO_SIZE - 1, 1), pc.ports.read(IO_HOME + IO_SIZE, 1)) == (0x10, 0xFF)


def test_decode_off_means_nobody_home(pc: Pc) -> None:
    """I/O and memory decode are switched apart from each other; on again, the BAR answers where it was."""
    pc.write(COMMAND, 2, PciCommand.MEMORY)
    assert (pc.ports.read(IO_HOME, 1), pc.mmio.read(MEMORY_HOME, 1)) == (0xFF, 0x20)
    pc.write(COMMAND, 2, PciCommand.IO)
    assert (pc.ports.read(IO_HOME, 1), pc.mmio.read(MEMORY_HOME, 1)) == (0x10, 0xFF)
    assert pc.card.moves == [
        (0, None),
        (0, range(IO_HOME, IO_HOME + IO_SIZE)),
        (1, None),
    ]


def test_a_moved_bar_answers_at_its_new_place_only(pc: Pc) -> None:
    """The old address is free, the new one answers, and the device hears of it once."""
    pc.write(BAR0, 4, 0xD000)
    assert (pc.ports.read(IO_HOME, 1), pc.ports.read(0xD000, 1)) == (0xFF, 0x10)
    assert pc.card.moves == [(0, range(0xD000, 0xD000 + IO_SIZE))]


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_bar_can_be_written_in_parts(pc: Pc, width: int) -> None:
    """Four, two or one bytes at a time: the BAR follows each write, and is where the last one put it."""
    for at in range(0, 4, width):
        pc.write(BAR0 + at, width, 0xD040 >> 8 * at & (1 << 8 * width) - 1)
    assert pc.read(BAR0, 4) == 0xD041
    assert pc.ports.read(0xD040, 1) == 0x10
    assert pc.ports.read(IO_HOME, 1) == 0xFF


def test_a_bar_over_a_taken_range_answers_nowhere(pc: Pc) -> None:
    """First come, first served: the other part keeps its ports, and the BAR comes back when it is moved away."""
    pc.ports.claim(range(0xD010, 0xD020), Answer(0x30))
    pc.write(BAR0, 4, 0xD000)
    assert (pc.ports.read(0xD000, 1), pc.ports.read(0xD010, 1), pc.ports.read(IO_HOME, 1)) == (0xFF, 0x30, 0xFF)
    assert pc.card.bars[0].mapped is None
    pc.write(BAR0, 4, 0xD040)
    assert pc.ports.read(0xD040, 1) == 0x10


def test_a_bar_over_the_config_ports_does_not_lock_the_guest_out(pc: Pc) -> None:
    """The mechanism's own ports cannot be covered."""
    pc.write(BAR0, 4, PORT_PCI_ADDRESS)
    pc.write(BAR0, 4, IO_HOME)
    assert pc.ports.read(IO_HOME, 1) == 0x10


@pytest.mark.parametrize("address", [0, 0x10000, 0xFFFFFFC0])
def test_a_bar_outside_the_bus_answers_nowhere(pc: Pc, address: int) -> None:
    """Address 0 means not placed yet, and beyond 64 Ki ports there is nothing."""
    pc.write(BAR0, 4, address)
    assert pc.card.bars[0].mapped is None
    assert pc.card.moves == [(0, None)]


def test_writing_the_same_again_moves_nothing(pc: Pc) -> None:
    """A config write that changes no BAR and no decode bit leaves the bus alone."""
    pc.write(BAR0, 4, IO_HOME)
    pc.write(COMMAND, 2, DECODE | PciCommand.MASTER)
    assert pc.card.moves == []


def test_a_reset_goes_back_to_what_the_firmware_left(pc: Pc) -> None:
    """Config space, BARs and decode are as after power-on, and nothing is selected."""
    before = bytes(pc.card.config)
    pc.write(BAR0, 4, 0xD000)
    pc.write(COMMAND, 2, PciCommand.MASTER)
    pc.card.reset()
    pc.bus.reset()
    assert bytes(pc.card.config) == before
    assert (pc.ports.read(IO_HOME, 1), pc.ports.read(0xD000, 1)) == (0x10, 0xFF)
    assert pc.ports.read(PORT_PCI_ADDRESS, 4) == 0
