"""What makes a device? PCI identity, queues, features, config bytes; and, in one of your own, what a kick does.

The kicks of the lab's devices are served in the C core; a device of your own serves them itself, in `handle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag
from typing import TYPE_CHECKING, Any, ClassVar

from labkit.abi import NUMBERS, VIRTIO_VENDOR, Feature
from labkit.errors import UsageError
from labkit.native import lib
from labkit.state import Shape, State

if TYPE_CHECKING:
    from labkit.virtio.devices.chain import DeviceQueue


class Device:
    """One device. A class of your own says what it is, overrides `handle`, and an object of it is booted.

        class Upper(labkit.Device):
            name = "upper"
            queue_sizes = (64,)

            def handle(self, queue):
                for chain in queue:
                    queue.push(chain, chain.read().upper())

        vm = labkit.boot(Upper())

    It may override too: reset(), config(), write_config(offset, data), close(); save() and load(data), if a snapshot is
    to have what it knows beside its rings.
    """

    name: str = ""  # "": the name of the class
    kind: int = lib.DEVICE_PYTHON  # DEVICE_* of the C core: who serves its queues
    pci_device: int = NUMBERS["VIRTIO_DEVICE_OWN"]
    virtio_type: int = NUMBERS["VIRTIO_TYPE_OWN"]
    pci_class: int = 0x00FF  # unclassified
    queue_sizes: Sequence[int] = (NUMBERS["NULL_QUEUE_SIZE"],)  # descriptors, powers of two; the lab's driver wants 8
    vectors: int = 0  # of MSI-X; 0: one for each queue and one for config changes
    starts_on_kick: bool = False  # R17: a kick before DRIVER_OK starts its notifiers, where the rules say so
    ioeventfd_default: bool = False  # R1: off unless the device's drivers are known not to spin
    features: int = 0  # bits 0 to 23 that it offers
    own_features: ClassVar[tuple[IntFlag, ...]] = ()  # named bits beside the transport's

    # in a device of your own, set by the lab:
    queues: Sequence[DeviceQueue] = ()  # while it is in a machine
    error: BaseException | None = None  # what its own code raised; the device is broken until it is reset
    failure: str = ""  # where, and what it says
    inside: str = ""  # the method of its own that runs now

    # -- what a device of your own does --------------------------------------------------------------------------------

    def handle(self, queue: DeviceQueue) -> None:
        """The guest kicked `queue`: take its chains and push each back. One interrupt follows if any was pushed.

        There may be no chain: a START signals each queue once (R3). This runs under the big lock, in
        whichever thread serves the kick: the vCPU that trapped, the iothread, or the one that stops the
        notifiers. While it runs no other queue is served and no register answers, so wait here for
        nothing that the guest must do. A chain is good until this returns. An exception breaks the
        device until a reset.
        """
        raise NotImplementedError

    def reset(self) -> None:
        """The driver starts anew (STATUS = 0, or a reset of the machine): forget what it was told."""

    def config(self) -> bytes:
        """The device's own config space, as the guest reads it now; its length is that at boot."""
        return b""

    def write_config(self, offset: int, data: bytes) -> None:
        """The guest wrote `data` (1, 2 or 4 bytes) into config space at `offset`. Ignored unless overridden."""

    def save(self) -> bytes:
        """What of the device a snapshot must have beside its rings: bytes, at most 1 MiB.

        Under the big lock, with no `handle` under way; it changes nothing. What it raises the caller of
        `vm.snapshot()` gets as a UsageError, and the machine goes on.
        """
        return b""

    def load(self, data: bytes) -> None:
        """Be what `save` told. ValueError, or any other: `data` cannot be loaded, and `vm.restore()` says so.

        Under the big lock, after a `reset`. A snapshot may come from a file of anybody's, so look at `data`. It is
        called once to see whether it can, then with what `save` told just before, so that a restore that fails
        changes nothing, and once more to stay.
        """
        if data:
            raise ValueError("the device has no load(self, data)")

    def close(self) -> None:
        """The machine has gone: give back what it was given."""

    # -- what else the lab asks a device; its own override some --------------------------------------------------------

    def host_features(self) -> int:
        """HOST_FEATURES: what the transport offers with every device, and `features`."""
        return Feature.NOTIFY_ON_EMPTY | Feature.INDIRECT_DESC | Feature.BAD_FEATURE | self.features

    def feature_names(self, bits: int) -> str:
        """Feature bits as words: `NOTIFY_ON_EMPTY|SEG_MAX`."""
        named = {int(bit): bit.name or "" for bit in (*Feature, *self.own_features)}
        rest = bits & ~sum(named)
        words = [name for bit, name in sorted(named.items()) if bits & bit]
        return "|".join(words + ([hex(rest)] if rest else [])) or "0"

    def attach(self, native: Any) -> None:
        """Tell the C core's device what it needs beyond its queues."""

    def follow(self, live: bool) -> None:
        """What comes by itself may come, or not: the machine runs and the driver is up. Told again and again."""

    def remark(self) -> str:
        """What a view of the machine adds to the device's name; empty where there is nothing unusual."""
        return ""

    def values(self) -> dict[str, object]:
        """What a cell shows of the device beside its registers."""
        return {}

    def resize(self, native: Any, size_bytes: int) -> None:
        """Another capacity. UsageError: the device has none."""
        raise UsageError(f"a virtio-{self.name} has no disk to resize")

    def state_shape(self) -> Shape:
        """What a saved state holds of the device beyond its queues; nothing unless it says so."""
        return {}

    def save_state(self) -> State:
        """A state of that shape."""
        return {}

    def check_state(self, state: State) -> None:
        """UsageError: it is of the shape, and does not fit all the same."""

    def load_state(self, state: State) -> None:
        """What `save_state` gave; it has been checked."""

    def pci_header(self) -> dict[str, tuple[int, int]]:
        """Config space identity: name in abi.h -> (value, bytes)."""
        return {
            "PCI_VENDOR_ID": (VIRTIO_VENDOR, 2),
            "PCI_DEVICE_ID": (self.pci_device, 2),
            "PCI_CLASS": (self.pci_class, 2),
            "PCI_SUBSYSTEM_VENDOR": (VIRTIO_VENDOR, 2),
            "PCI_SUBSYSTEM_ID": (self.virtio_type, 2),
            "PCI_INTERRUPT_PIN": (NUMBERS["PCI_INTERRUPT_PIN_A"], 1),
        }
