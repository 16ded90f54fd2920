"""What makes a device? PCI identity, queues, features, config bytes; what it does with a kick is in the C core."""

from __future__ import annotations

from enum import IntFlag
from typing import Any, ClassVar

from labkit.abi import NUMBERS, VIRTIO_VENDOR, Feature
from labkit.errors import UsageError


class Device:
    """One device model. A subclass sets the class attributes and overrides what differs."""

    name: ClassVar[str]
    kind: ClassVar[int]  # DEVICE_* of the C core
    pci_device: ClassVar[int]
    virtio_type: ClassVar[int]
    pci_class: ClassVar[int] = 0x00FF  # unclassified
    queue_sizes: tuple[int, ...]
    vectors: int
    ioeventfd_default: ClassVar[bool] = False  # R1: off unless the device's drivers are known not to spin
    own_features: ClassVar[tuple[IntFlag, ...]] = ()  # named bits beside the transport's

    def host_features(self) -> int:
        """HOST_FEATURES: what the transport offers with every device."""
        return Feature.NOTIFY_ON_EMPTY | Feature.INDIRECT_DESC | Feature.BAD_FEATURE

    def feature_names(self, bits: int) -> str:
        """Feature bits as words: `NOTIFY_ON_EMPTY|SEG_MAX`."""
        named = {int(bit): bit.name or "" for bit in (*Feature, *self.own_features)}
        rest = bits & ~sum(named)
        words = [name for bit, name in sorted(named.items()) if bits & bit]
        return "|".join(words + ([hex(rest)] if rest else [])) or "0"

    def config(self) -> bytes:
        """The device's own config space."""
        return b""

    def attach(self, native: Any) -> None:
        """Tell the C core's device what it needs beyond its queues."""

    def resize(self, native: Any, size_bytes: int) -> None:
        """Another capacity. UsageError: the device has none."""
        raise UsageError(f"a virtio-{self.name} has no disk to resize")

    def close(self) -> None:
        """Release the backend."""

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
