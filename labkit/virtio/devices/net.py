"""virtio-net: a cable behind three queues. Frames are moved, filtered and counted in native/net.c."""

from __future__ import annotations

import itertools
import struct
from typing import Any, NamedTuple

from labkit import views
from labkit.abi import NUMBERS, NetFeature
from labkit.errors import UsageError
from labkit.native import ffi, lib
from labkit.state import FLAG, Bytes, Shape, State
from labkit.trace.events import Frame
from labkit.virtio.backends.cable import Cable
from labkit.virtio.backends.pcap import FILE_HEADER, Capture
from labkit.virtio.devices.base import Device

MAC_BYTES = NUMBERS["MAC_BYTES"]
MULTICAST = 0x01  # in the first byte of an address
OUR_MACS = bytes.fromhex("026c6162")  # locally administered, then "lab"; two bytes follow
_boots = itertools.count(1)


class Frames(NamedTuple):
    """What became of the frames so far."""

    sent: int
    received: int
    dropped_to_host: int
    dropped_to_guest: int
    filtered: int
    not_captured: int


class Net(Device):
    """A network card with `mac`, on `cable` (None: one that leads nowhere), its frames kept in `capture` if given."""

    name = "net"
    kind = lib.DEVICE_NET
    pci_device = NUMBERS["VIRTIO_DEVICE_NET"]
    virtio_type = NUMBERS["VIRTIO_TYPE_NET"]
    pci_class = 0x0200  # Ethernet controller
    queue_sizes = (NUMBERS["NET_QUEUE_SIZE"], NUMBERS["NET_QUEUE_SIZE"], NUMBERS["NET_CTRL_QUEUE_SIZE"])
    vectors = NUMBERS["NET_VECTORS"]
    own_features = tuple(NetFeature)

    def __init__(self, mac: bytes | None = None, cable: Cable | None = None, capture: Capture | None = None) -> None:
        self.address = next_mac() if mac is None else mac
        self.cable, self.capture = cable, capture
        self._device: Any = None
        self._native = net = ffi.new("lk_net *")
        net.mac = self.address
        net.fd, net.is_socket = (-1, False) if cable is None else (cable.fd, cable.is_socket)
        net.capture_fd = -1 if capture is None else capture.fd
        net.capture_bytes = FILE_HEADER.size
        net.promiscuous = 1

    @property
    def mac(self) -> str:
        """The address, as `02:6c:61:62:00:01`."""
        return self.address.hex(":")

    @property
    def frames(self) -> Frames:
        """How many frames went which way; live."""
        count = self._native.frames
        return Frames(
            sent=int(count[Frame.SENT]),
            received=int(count[Frame.RECEIVED]),
            dropped_to_host=int(count[Frame.DROPPED_TO_HOST]),
            dropped_to_guest=int(count[Frame.DROPPED_TO_GUEST]),
            filtered=int(count[Frame.FILTERED]),
            not_captured=int(self._native.not_captured),
        )

    def host_features(self) -> int:
        """MAC, STATUS, CTRL_VQ and CTRL_RX: no offloads, no mergeable buffers."""
        return super().host_features() | sum(NetFeature)

    def config(self) -> bytes:
        """mac, status: the link is up."""
        return self.address + struct.pack("<H", NUMBERS["NET_S_LINK_UP"])

    def attach(self, native: Any) -> None:
        """Cable, address and counters to the C core."""
        self._device = native
        native.net = self._native

    def state_shape(self) -> Shape:
        """What the driver set through the control queue, and the address, which must be the card's own."""
        return {"mac": Bytes(MAC_BYTES), "promiscuous": FLAG, "all_multicast": FLAG}

    def save_state(self) -> State:
        """The same."""
        net = self._native
        return {"mac": self.address, "promiscuous": int(net.promiscuous), "all_multicast": int(net.all_multicast)}

    def check_state(self, state: State) -> None:
        """UsageError: another card's."""
        if state["mac"] != self.address:
            raise UsageError(f"saved state: it is of a card with the address {state['mac'].hex(':')}: boot with mac=")

    def load_state(self, state: State) -> None:
        """The same."""
        self._native.promiscuous, self._native.all_multicast = state["promiscuous"], state["all_multicast"]

    def follow(self, live: bool) -> None:
        """The iothread watches the cable while the guest may get frames."""
        if self._device is not None:
            lib.lk_net_follow(self._device, live)

    def values(self) -> dict[str, object]:
        """Address, cable, and what became of the frames."""
        frames = self.frames
        shown: dict[str, object] = {
            "mac": self.mac,
            "cable": "leads nowhere" if self.cable is None else self.cable.name,
            "frames sent": frames.sent,
            "frames received": frames.received,
            "frames dropped": f"{frames.dropped_to_host} to the host, {frames.dropped_to_guest} to the guest",
            "frames filtered": frames.filtered,
        }
        if self.capture is not None:
            shown["pcap"] = self.capture.path.name
        if frames.not_captured:
            shown["frames not in the pcap"] = f"{frames.not_captured} (it could not be written)"
        return shown

    def _repr_html_(self) -> str:
        return views.named("network card", self.values())

    def __repr__(self) -> str:
        return views.lines("network card", self.values())

    def close(self) -> None:
        """Unplug the cable and close the capture."""
        for part in (self.cable, self.capture):
            if part is not None:
                part.close()


def next_mac() -> bytes:
    """An address that no other net device of this process has by default."""
    return OUR_MACS + (next(_boots) & 0xFFFF).to_bytes(2, "big")


def parse_mac(text: object) -> bytes:
    """`52:54:00:12:34:56` as six bytes. UsageError: anything else, and what cannot be one card's own address."""
    parts = text.split(":") if isinstance(text, str) else []
    if len(parts) != MAC_BYTES or not all(len(part) == 2 and part.isalnum() and part.isascii() for part in parts):
        raise UsageError(f"mac={text!r}: six bytes such as 52:54:00:12:34:56")
    try:
        mac = bytes.fromhex("".join(parts))
    except ValueError:
        raise UsageError(f"mac={text!r}: six bytes such as 52:54:00:12:34:56") from None
    if mac[0] & MULTICAST or not any(mac):
        raise UsageError(f"mac={text!r}: an address of a group or of nobody; the first byte must be even, not all zero")
    return mac
