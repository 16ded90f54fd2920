"""What does a guest find on the PCI bus? Config mechanism #1, and functions with config space, BARs and COMMAND."""

from __future__ import annotations

from typing import ClassVar, Protocol

from labkit.abi import NUMBERS, PORT_PCI_ADDRESS, PORT_PCI_DATA, PciCommand
from labkit.errors import UsageError
from labkit.pc.bus import ALL_ONES, Bus, Handler
from labkit.state import U32, Bytes, Shape, State, checked

CONFIG_BYTES = NUMBERS["PCI_CONFIG_BYTES"]
CONFIG_ENABLE = NUMBERS["PCI_CONFIG_ENABLE"]
COMMAND = NUMBERS["PCI_COMMAND"]
BAR0 = NUMBERS["PCI_BAR0"]
BAR_BYTES = 4
BAR_IO = NUMBERS["PCI_BAR_IO"]
_DECODES_IO, _DECODES_MEMORY = int(PciCommand.IO), int(PciCommand.MEMORY)
MECHANISM_PORTS = range(PORT_PCI_ADDRESS, PORT_PCI_DATA + 4)


class Bar:
    """One base address register: `size` is a power of two, `handler` answers while it is decoded."""

    def __init__(self, index: int, size: int, *, io: bool, handler: Handler) -> None:
        self.index, self.size, self.io, self.handler = index, size, io, handler
        self.mapped: range | None = None

    @property
    def register(self) -> int:
        """Its offset in config space."""
        return BAR0 + BAR_BYTES * self.index

    @property
    def writable(self) -> int:
        """Bits that hold an address; the others say size and kind."""
        return -self.size & 0xFFFFFFFF


class PciFunction:
    """A function with a type 0 header. A mask says what a guest can write; BARs follow COMMAND and their registers."""

    def __init__(self, header: dict[str, tuple[int, int]], ports: Bus, mmio: Bus) -> None:
        """`header`: name in abi.h -> (value, bytes)."""
        self.config = bytearray(CONFIG_BYTES)
        self.writable = bytearray(CONFIG_BYTES)
        self.bars: list[Bar] = []
        self._power_on = b""
        self._buses = {True: ports, False: mmio}
        for name, (value, size) in header.items():
            self.put(NUMBERS[name], size, value)
        self.allow(COMMAND, 2, sum(PciCommand))
        self.allow(NUMBERS["PCI_INTERRUPT_LINE"], 1, 0xFF)

    def put(self, offset: int, size: int, value: int) -> None:
        """Set a field, whatever a guest may write there."""
        self.config[offset : offset + size] = value.to_bytes(size, "little")

    def get(self, offset: int, size: int) -> int:
        """A field of config space."""
        return int.from_bytes(self.config[offset : offset + size], "little")

    def allow(self, offset: int, size: int, mask: int) -> None:
        """Let the guest write the bits of `mask`."""
        self.writable[offset : offset + size] = mask.to_bytes(size, "little")

    def add_bar(self, bar: Bar) -> None:
        """A BAR at its register, not mapped yet."""
        self.bars.append(bar)
        self.put(bar.register, BAR_BYTES, BAR_IO if bar.io else 0)
        self.allow(bar.register, BAR_BYTES, bar.writable)

    def remember_power_on(self) -> None:
        """What is there now is what `reset` goes back to: the firmware has done its work."""
        self._power_on = bytes(self.config)

    def reset(self) -> None:
        """Config space as the firmware left it."""
        self.config[:] = self._power_on
        self.map_bars()

    SHAPE: ClassVar[Shape] = {"config": Bytes(CONFIG_BYTES)}

    def save(self) -> State:
        """Config space; where the BARs are follows from it."""
        return {"config": bytes(self.config)}

    def load(self, state: State) -> None:
        """Config space as it was saved. UsageError, and nothing changes: see `check`."""
        self.config[:] = PciFunction.check(self, state)["config"]
        self.map_bars()

    def check(self, state: object) -> State:
        """UsageError: what no guest can write differs, so it is another device's."""
        found = checked("PCI", PciFunction.SHAPE, state)
        config = found["config"]
        saved, own, writable = (int.from_bytes(one, "little") for one in (config, self.config, self.writable))
        if odd := (saved ^ own) & ~writable:  # as one number: a restore is to be quick
            at = ((odd & -odd).bit_length() - 1) // 8
            raise UsageError(f"saved state: PCI config at {at:#x} is of another device")
        return found

    @property
    def command(self) -> PciCommand:
        """The COMMAND register."""
        return PciCommand(self.get(COMMAND, 2))

    def read_config(self, offset: int, width: int) -> int:
        """What the guest reads; past the end, all ones."""
        return self.get(offset, width) if offset + width <= CONFIG_BYTES else ALL_ONES[width]

    def write_config(self, offset: int, width: int, value: int) -> None:
        """The writable bits of what the guest writes, then the BARs follow."""
        for at, byte in enumerate(value.to_bytes(8, "little")[:width], offset):
            if at < CONFIG_BYTES:
                mask = self.writable[at]
                self.config[at] = self.config[at] & ~mask | byte & mask
        self.map_bars()

    def map_bars(self) -> None:
        """Claim on the buses what COMMAND and the BAR registers say. An address that is taken maps nothing."""
        for bar in self.bars:
            wanted = self._decoded(bar)
            if wanted == bar.mapped:
                continue
            if bar.mapped is not None:
                self._buses[bar.io].release(bar.mapped)
                bar.mapped = None
            if wanted is not None:
                try:
                    self._buses[bar.io].claim(wanted, bar.handler)
                    bar.mapped = wanted
                except UsageError:
                    pass  # the guest put the BAR over something else: first come, first served
            self.bar_moved(bar)

    def _decoded(self, bar: Bar) -> range | None:
        enabled = self.get(COMMAND, 2) & (_DECODES_IO if bar.io else _DECODES_MEMORY)
        address = self.get(bar.register, BAR_BYTES) & bar.writable
        return range(address, address + bar.size) if enabled and address else None

    def bar_moved(self, bar: Bar) -> None:
        """`bar.mapped` has just changed. For the device to override."""


class ConfigSpace(Protocol):
    """What the bus needs of a function."""

    def read_config(self, offset: int, width: int) -> int:
        """A config read."""

    def write_config(self, offset: int, width: int, value: int) -> None:
        """A config write."""


class PciBus:
    """Bus 0 behind ports 0xcf8 (address) and 0xcfc (data); a slot with nobody in it reads all ones."""

    def __init__(self) -> None:
        self.functions: dict[int, ConfigSpace] = {}
        self._address = 0

    def read(self, offset: int, width: int) -> int:
        """A read of the mechanism's ports."""
        if offset < 4:
            return self._address >> 8 * offset
        function = self._selected()
        return ALL_ONES[width] if function is None else function.read_config(self._register(offset), width)

    def write(self, offset: int, width: int, value: int) -> None:
        """A write of them; the address register takes 32-bit writes only."""
        if offset == 0 and width == 4:
            self._address = value
        elif offset >= 4:
            function = self._selected()
            if function is not None:
                function.write_config(self._register(offset), width, value)

    def reset(self) -> None:
        """Forget the selected address."""
        self._address = 0

    SHAPE: ClassVar[Shape] = {"address": U32}

    def save(self) -> State:
        """The selected address."""
        return {"address": self._address}

    def load(self, state: State) -> None:
        """The same; it has been checked."""
        self._address = state["address"]

    def check(self, state: object) -> State:
        """UsageError: it is no state of the bus."""
        return checked("PCI bus", PciBus.SHAPE, state)

    def _register(self, offset: int) -> int:
        return (self._address & 0xFC) + (offset & 3)

    def _selected(self) -> ConfigSpace | None:
        """enable 31, bus 23..16, slot 15..11, function 10..8."""
        if not self._address & CONFIG_ENABLE or self._address >> 8 & 0xFF07:
            return None
        return self.functions.get(self._address >> 11 & 0x1F)


def host_bridge(ports: Bus, mmio: Bus) -> PciFunction:
    """The function at slot 0 by which a PC guest knows that mechanism #1 is there: an i440FX, as PC guests expect."""
    return PciFunction(
        {"PCI_VENDOR_ID": (0x8086, 2), "PCI_DEVICE_ID": (0x1237, 2), "PCI_CLASS": (0x0600, 2), "PCI_REVISION": (2, 1)},
        ports,
        mmio,
    )
