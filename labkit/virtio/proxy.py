"""What does a guest see at BAR0? The register map of a legacy virtio-pci device; no policy, that is notifier.py.

No register checks the width of an access: whatever starts at its offset reaches it. An unknown read gives all ones.
With MSI-X on, two vector registers appear at 20 and 22, and the device's own config moves from 20 to 24.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from labkit.abi import (
    CONFIG_MSIX,
    CONFIG_NO_MSIX,
    NO_VECTOR,
    NUMBERS,
    QUEUE_MAX,
    Feature,
    PciCommand,
    Register,
    Status,
)
from labkit.errors import UsageError
from labkit.memory import GuestMemory
from labkit.native import lib
from labkit.pc.bus import ALL_ONES, Bus
from labkit.pc.msix import BAR_BYTES as MSIX_BAR_BYTES
from labkit.pc.msix import CONTROL as MSIX_CONTROL
from labkit.pc.msix import Msix
from labkit.pc.pci import COMMAND, Bar, PciFunction
from labkit.state import U8, U16, Shape, State, checked
from labkit.trace.events import NO_INDEX, Cause, Flag, Kind
from labkit.trace.feed import Feed
from labkit.virtio import saved
from labkit.virtio.backends.worker import Worker
from labkit.virtio.devices.base import Device
from labkit.virtio.faults import Faults
from labkit.virtio.looks import ProxyLook
from labkit.virtio.mutations import Mutations, core_bits, mutated
from labkit.virtio.notifier import HostNotifiers, Situation
from labkit.virtio.queue import Queue

_BAD_FEATURE, _DRIVER_OK = int(Feature.BAD_FEATURE), int(Status.DRIVER_OK)
_MASTER, _INTX_DISABLE = int(PciCommand.MASTER), int(PciCommand.INTX_DISABLE)
PCI_STATUS, STATUS_INTERRUPT = NUMBERS["PCI_STATUS"], NUMBERS["PCI_STATUS_INTERRUPT"]


class Access(NamedTuple):
    """A row of the register map: natural width in bytes, and what a read or a write does (None: ignored)."""

    width: int
    read: Callable[[Proxy], int] | None
    write: Callable[[Proxy, int], None] | None
    msix_only: bool = False


class Proxy(PciFunction, ProxyLook):
    """One virtio device on the PCI bus: config space, BAR0 registers, MSI-X, and its host notifiers."""

    def __init__(
        self,
        model: Device,
        native: Any,
        memory: GuestMemory,
        buses: tuple[Bus, Bus],
        cpu: Any,
        loop: Any,
        feed: Feed,
        *,
        revision: str,
        ioeventfd: bool,
        name: str = "vm",
        mutations: Mutations = (),
    ) -> None:
        super().__init__(model.pci_header(), *buses)
        self.model, self.device, self.memory, self.feed = model, native, memory, feed
        self.status = 0
        self.queue_sel = 0
        self.config_vector = NO_VECTOR
        self.notify_base = 0
        self._told_command = self._told_msix = 0
        self.faults = Faults(cpu, feed)
        for index, num in enumerate(model.queue_sizes):
            native.vq[index].num = num
        native.mutations = core_bits(mutations)
        self.notifiers = mutated(HostNotifiers, [one.engine for one in mutations])(
            self,
            native,
            self.faults,
            loop,
            feed,
            revision=revision,
            ioeventfd=ioeventfd,
            starts_on_kick=model.starts_on_kick,
            mutations=mutations,
        )
        self.host_features = int(model.host_features()) | self.notifiers.rules.offers
        worker = mutated(Worker, [one.worker for one in mutations])
        self.backend = worker(native, self.notifiers, f"{name}-backend")
        self.queues = [Queue(native, index, self.notifiers, memory) for index in range(len(model.queue_sizes))]
        self.add_bar(Bar(0, _power_of_two(CONFIG_MSIX + len(model.config())), io=True, handler=_Registers(self)))
        self.msix = Msix(self, model.vectors, native, cpu)  # has fds: what may fail, a user's device too, is done
        self.add_bar(Bar(NUMBERS["MSIX_BAR"], MSIX_BAR_BYTES, io=False, handler=self.msix))
        self._heed_command()

    # -- what the rules act on (notifier.Transport) --------------------------------------------------------------------

    @property
    def bus_master(self) -> bool:
        """Bus-master in COMMAND."""
        return bool(self.get(COMMAND, 2) & _MASTER)

    def set_bus_master(self) -> None:
        """Bus-master on, whatever the guest thinks of it."""
        self.put(COMMAND, 2, self.command | PciCommand.MASTER)
        self._heed_command()

    def _heed_command(self) -> None:
        """Where the rules heed it, a device without bus-master leaves its rings alone. Tells of a change."""
        self.device.disabled = self.notifiers.rules.heeds_bus_master and not self.bus_master
        before, self._told_command = self._told_command, self.get(COMMAND, 2)
        if self._told_command != before:
            self.feed.emit(Kind.COMMAND, -1, before, self._told_command)

    def _tell_msix(self) -> None:
        before, self._told_msix = self._told_msix, int(self.msix.enabled)
        if self._told_msix != before:
            self.feed.emit(Kind.MSIX, -1, before, self._told_msix)

    @property
    def decoded(self) -> bool:
        """Does BAR0 answer anywhere?"""
        return bool(self.device.notify_port)

    def follow(self, live: bool) -> None:
        """The machine runs and the driver is up, or not; a device that may not touch memory is as good as not up."""
        may_work = live and not self.device.disabled
        self.model.follow(may_work)
        self.backend.follow(may_work)

    def reset_virtio(self) -> None:
        """Rings, features, ISR, selection and vectors as at power-on."""
        lib.lk_device_reset(self.device)
        self.model.reset()
        self.queue_sel = 0
        self.config_vector = NO_VECTOR

    def release_vectors(self) -> None:
        """Nothing to count here: a vector is in use while a register names it, and the reset has cleared them."""

    def reset_msix(self) -> None:
        """MSI-X off, all vectors masked."""
        self.msix.reset()
        self._tell_msix()

    # -- registers -----------------------------------------------------------------------------------------------------

    def read_register(self, offset: int, width: int) -> int:
        """A read in BAR0."""
        config = self._config_at()
        if offset >= config:
            return self._read_device_config(offset - config, width)
        access = self._access(offset)
        value = ALL_ONES[width] if access is None or access.read is None else access.read(self)
        self.feed.emit(Kind.REGISTER, -1, offset, width, value & ALL_ONES[width], 0)
        return value

    def write_register(self, offset: int, width: int, value: int) -> None:
        """A write in BAR0; most devices ignore one in their own config."""
        config = self._config_at()
        if offset >= config:
            self.model.write_config(offset - config, (value & ALL_ONES[width]).to_bytes(width, "little"))
            return
        if offset == Register.QUEUE_NOTIFY:
            self.notifiers.kick(value, width, self.device.notify_port)
            return
        self.feed.emit(Kind.REGISTER, -1, offset, width, value, 1)
        access = self._access(offset)
        if access is not None and access.write is not None:
            access.write(self, value)

    def _access(self, offset: int) -> Access | None:
        access = REGISTERS.get(offset)
        return None if access is None or (access.msix_only and not self.msix.enabled) else access

    def _config_at(self) -> int:
        return CONFIG_MSIX if self.msix.enabled else CONFIG_NO_MSIX

    def _read_device_config(self, offset: int, width: int) -> int:
        config = self.model.config()
        return int.from_bytes(config[offset : offset + width].ljust(width, b"\xff"), "little")

    @property
    def _selected(self) -> Any:
        return self.device.vq[self.queue_sel] if self.queue_sel < QUEUE_MAX else self.device.absent

    def _write_features(self, value: int) -> None:
        self.device.guest_features = 0 if value & _BAD_FEATURE else value & self.host_features

    def _write_pfn(self, value: int) -> None:
        if value == 0:
            self.notifiers.happens(Situation(Cause.PFN_ZERO))
        else:
            lib.lk_queue_set_pfn(self.device, self.queue_sel, value)

    def _write_sel(self, value: int) -> None:
        if value < self.notifiers.rules.queue_indices:
            self.queue_sel = value

    def _write_status(self, value: int) -> None:
        status = value & 0xFF
        if status & _DRIVER_OK:
            cause = Cause.DRIVER_OK
        else:
            cause = Cause.DRIVER_NOT_OK if status else Cause.STATUS_ZERO
        self.notifiers.happens(Situation(cause, status=status))

    def _read_isr(self) -> int:
        """Read-and-clear, which lowers INTx."""
        return int(lib.lk_isr_take(self.device))

    def _write_config_vector(self, value: int) -> None:
        self.config_vector = self._known_vector(value)

    def _write_queue_vector(self, value: int) -> None:
        self._selected.vector = self._known_vector(value)

    def _known_vector(self, value: int) -> int:
        return value if value < self.msix.count else NO_VECTOR

    def config_changed(self) -> None:
        """The model's config says something new: the guest is told, once its driver is up. Under the big lock."""
        if self.status & _DRIVER_OK:
            lib.lk_config_changed(self.device, self.config_vector)

    # -- PCI config ----------------------------------------------------------------------------------------------------

    def write_config(self, offset: int, width: int, value: int) -> None:
        """A config write; one of COMMAND goes by rule R8, and MSI-X control takes effect."""
        self.feed.emit(Kind.PCI_WRITE, -1, offset, width, value)

        def write() -> None:
            PciFunction.write_config(self, offset, width, value)
            self._heed_command()

        if offset == COMMAND:
            cause = Cause.BUS_MASTER_ON if value & _MASTER else Cause.BUS_MASTER_OFF
            self.notifiers.happens(Situation(cause, write_config=write))
        else:
            write()
        self._intx_follows_command()
        if offset < MSIX_CONTROL + 2 and offset + width > MSIX_CONTROL:
            self.msix.control_written()
            self._tell_msix()

    def read_config(self, offset: int, width: int) -> int:
        """A config read. STATUS says whether INTx is wanted, and says so while COMMAND forbids the line too."""
        wanted = self.device.isr and not self.msix.enabled
        status = self.get(PCI_STATUS, 2) & ~STATUS_INTERRUPT
        self.put(PCI_STATUS, 2, status | (STATUS_INTERRUPT if wanted else 0))
        return super().read_config(offset, width)

    def _intx_follows_command(self) -> None:
        self.device.intx_disabled = bool(self.get(COMMAND, 2) & _INTX_DISABLE)
        lib.lk_intx_update(self.device)

    def bar_moved(self, bar: Bar) -> None:
        """The trap path of a kick follows BAR0 at once; what is assigned in KVM goes by rule R16."""
        if bar.index == 0:
            self.device.notify_port = bar.mapped.start + Register.QUEUE_NOTIFY if bar.mapped else 0
            if bar.mapped:
                self.notify_base = bar.mapped.start
            self.notifiers.happens(Situation(Cause.BAR0_MOVED))

    def reset(self) -> None:
        """R7, then config space as the firmware left it."""
        self.notifiers.happens(Situation(Cause.DEVICE_RESET))
        super().reset()
        self._heed_command()
        self._intx_follows_command()

    def arrive(self) -> None:
        """The firmware has assigned the BARs: the feed hears of a device at power-on."""
        self._told_command = int(self.command)
        self.feed.emit(Kind.PLUG, -1, 1, self.flags, self._told_command)

    # -- saved and loaded ----------------------------------------------------------------------------------------------

    @property
    def _shape(self) -> Shape:
        own: Shape = {"status": U8, "queue_sel": U16, "config_vector": U16}
        virtio = saved.shape(len(self.queues))
        parts: Shape = {"pci": PciFunction.SHAPE, "msix": self.msix.shape, "notifiers": HostNotifiers.SHAPE}
        return {**own, **parts, "virtio": virtio, "model": self.model.state_shape()}

    def save_device(self) -> State:
        """The whole device, at rest and under the big lock. UsageError: its own code holds chains of the guest's."""
        self.read_config(PCI_STATUS, 2)
        return {
            "status": self.status,
            "queue_sel": self.queue_sel,
            "config_vector": self.config_vector,
            "pci": {"config": self._without_interrupt(bytes(self.config))},
            "msix": self.msix.save(),
            "notifiers": self.notifiers.save(),
            "virtio": saved.save(self.device, len(self.queues)),
            "model": self.model.save_state(),
        }

    def load_device(self, state: State) -> None:
        """The same, into a machine that is paused, under the big lock. UsageError: nothing has changed.

        By R18. R10 does the rest when the machine goes on: START if DRIVER_OK is set, one kick for each queue.
        """
        self.load_checked(self.check_device(state))

    def load_checked(self, found: State) -> None:
        """What `check_device` gave: nothing of it is looked at once more."""
        self.notifiers.happens(Situation(Cause.LOAD, status=found["status"], load=lambda: self._load(found)))
        self.notifiers.load(found["notifiers"])

    def _load(self, found: State) -> None:
        """Into a device that was reset: all but its status. Code of the user's own comes last, for it may break it."""
        self.config[:] = found["pci"]["config"]
        self.map_bars()
        self.queue_sel, self.config_vector = found["queue_sel"], found["config_vector"]
        saved.load(self.device, found["virtio"])
        self.msix.load(found["msix"])
        self._tell_msix()
        self._heed_command()
        self._intx_follows_command()
        self.model.load_state(found["model"])

    def tell_loaded(self) -> None:
        """To whoever listens: what no register write has told. After memory, where the rings are, was loaded too."""
        device = self.device
        told = (device.guest_features, device.isr, self.queue_sel, self.config_vector, device.broken)
        self.feed.emit(Kind.LOADED, -1, *map(int, told))
        for queue in self.queues:
            indices = (NO_INDEX if index is None else index for index in (queue.avail_idx, queue.used_idx))
            self.feed.emit(Kind.QUEUE_LOADED, queue.index, queue.pfn, queue.vector, queue.last_avail_idx, *indices)

    def check_device(self, state: object) -> State:
        """UsageError: whatever the parts would refuse, before any of them is loaded."""
        found = checked("device", self._shape, state)
        self.notifiers.check(found["notifiers"])
        self.model.check_state(found["model"])
        self.config[:] = self._without_interrupt(bytes(self.config))
        PciFunction.check(self, found["pci"])
        saved.check(len(self.queues), self.msix.count, self.host_features, found["virtio"])
        vector = found["config_vector"]
        if self._known_vector(vector) != vector or found["queue_sel"] >= self.notifiers.rules.queue_indices:
            raise UsageError("saved state: it names a vector or a queue that the device has not")
        return found

    @staticmethod
    def _without_interrupt(config: bytes) -> bytes:
        """STATUS says whether INTx is wanted when it is read; it is no state."""
        status = int.from_bytes(config[PCI_STATUS : PCI_STATUS + 2], "little") & ~STATUS_INTERRUPT
        return config[:PCI_STATUS] + status.to_bytes(2, "little") + config[PCI_STATUS + 2 :]

    def close(self) -> None:
        """R11; then the vectors."""
        self.notifiers.close()
        self.msix.close()
        self.feed.emit(Kind.PLUG, -1, 0, self.flags, self._told_command)

    def remove(self) -> None:
        """After `close`, with the machine going on: no BAR answers any more, and what comes back begins at power-on."""
        self.put(COMMAND, 2, 0)
        self.map_bars()
        self._heed_command()
        self._intx_follows_command()
        self.reset_virtio()

    # -- for people ----------------------------------------------------------------------------------------------------

    board: Any = None  # the machine it is in

    def belongs_to(self, board: Any) -> None:
        """Which machine a live view shows."""
        for part in (self, *self.queues, *(queue.notifier for queue in self.queues)):
            part.board = board

    def view(self) -> Any:
        """Its registers, live in a cell."""
        from labkit.widgets import part

        return part(self.board, "proxy")

    @property
    def flags(self) -> Flag:
        """USE_IOEVENTFD (the property) and BUS_MASTER_BUG, as far as set."""
        return self.notifiers.flags

    @property
    def ioeventfd_started(self) -> bool:
        """Are the host notifiers started?"""
        return self.notifiers.started

    @property
    def name(self) -> str:
        """What kind of device: "blk", "net" ..."""
        return self.model.name

    @property
    def broken(self) -> bool:
        """Did the guest break a ring, or the device's own code fail? Then it does nothing until it is reset."""
        return bool(self.device.broken)

    @property
    def why_broken(self) -> str:
        """What to do, or where its own code failed."""
        return self.model.failure or "reset it"

    @property
    def revision(self) -> str:
        """Whose rules."""
        return self.notifiers.revision

    @property
    def features(self) -> str:
        """GUEST_FEATURES in words."""
        return self.model.feature_names(self.device.guest_features)

    @property
    def isr(self) -> int:
        """ISR, without clearing it."""
        return int(self.device.isr)

    @property
    def msix_enabled(self) -> bool:
        """Is MSI-X on?"""
        return self.msix.enabled

    def _values(self) -> dict[str, object]:
        errors = "; ".join(map(str, self.notifiers.errors))
        return {**super()._values(), **({"host errors": errors} if errors else {}), **self.model.values()}


class _Registers:
    """BAR0 as the port bus sees it. Where the rules say so, an access comes in naturally aligned pieces."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def read(self, offset: int, width: int) -> int:
        if offset % width == 0:
            return self._proxy.read_register(offset, width) & ALL_ONES[width]
        pieces = [
            self._proxy.read_register(offset + at, size) & ALL_ONES[size] for at, size in self._pieces(offset, width)
        ]
        places = [8 * at for at, _ in self._pieces(offset, width)]
        return sum(piece << place for piece, place in zip(pieces, places, strict=True))

    def write(self, offset: int, width: int, value: int) -> None:
        for at, size in self._pieces(offset, width):
            self._proxy.write_register(offset + at, size, value >> 8 * at & ALL_ONES[size])

    def _pieces(self, offset: int, width: int) -> list[tuple[int, int]]:
        """Where each piece begins, from the start of the access, and its size. BAR0 itself is aligned."""
        if offset % width == 0 or not self._proxy.notifiers.rules.splits_unaligned:
            return [(0, width)]
        half = width // 2
        return [(0, half), (half, half)] if offset % half == 0 else [(at, 1) for at in range(width)]


# register -> (width, read, write). A write of QUEUE_NOTIFY is no row: it is a kick, and the C core serves most of them.
REGISTERS: dict[int, Access] = {
    Register.HOST_FEATURES: Access(4, lambda p: p.host_features, None),
    Register.GUEST_FEATURES: Access(4, lambda p: int(p.device.guest_features), Proxy._write_features),
    Register.QUEUE_PFN: Access(4, lambda p: int(p._selected.pfn), Proxy._write_pfn),
    Register.QUEUE_NUM: Access(2, lambda p: int(p._selected.num), None),
    Register.QUEUE_SEL: Access(2, lambda p: p.queue_sel, Proxy._write_sel),
    Register.QUEUE_NOTIFY: Access(2, None, None),
    Register.STATUS: Access(1, lambda p: p.status, Proxy._write_status),
    Register.ISR: Access(1, Proxy._read_isr, None),
    Register.MSI_CONFIG_VECTOR: Access(2, lambda p: p.config_vector, Proxy._write_config_vector, msix_only=True),
    Register.MSI_QUEUE_VECTOR: Access(2, lambda p: int(p._selected.vector), Proxy._write_queue_vector, msix_only=True),
}


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
