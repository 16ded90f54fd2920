"""What do machines say on a cable? Ethernet frames with ARP and ICMP, made and read by hand; and pcap files."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import NamedTuple

BROADCAST = b"\xff" * 6
ARP, IP = 0x0806, 0x0800
ARP_REQUEST, ARP_REPLY = 1, 2
ICMP = 1
ECHO_REPLY, ECHO_REQUEST = 0, 8


def ethernet(to: bytes, from_: bytes, type_: int, payload: bytes) -> bytes:
    """A frame."""
    return to + from_ + struct.pack(">H", type_) + payload


def arp(operation: int, mac: bytes, ip: str, to_mac: bytes, to_ip: str) -> bytes:
    """What is in an ARP frame."""
    head = struct.pack(">HHBBH", 1, IP, 6, 4, operation)
    return head + mac + socket.inet_aton(ip) + to_mac + socket.inet_aton(to_ip)


def arp_request(mac: bytes, ip: str, to_ip: str) -> bytes:
    """A frame to all: who has `to_ip`?"""
    return ethernet(BROADCAST, mac, ARP, arp(ARP_REQUEST, mac, ip, bytes(6), to_ip))


def checksum(data: bytes) -> int:
    """The Internet checksum; 0 over what holds its own already."""
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def summed(data: bytes, at: int) -> bytes:
    """`data` with its checksum put in at `at`."""
    return data[:at] + struct.pack(">H", checksum(data)) + data[at + 2 :]


def packet(from_: str, to: str, message: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    """An IPv4 packet of ICMP."""
    words, length = 5 + len(options) // 4, 20 + len(options) + len(message)
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, length, 7, fragment, 64, ICMP, 0)
    return summed(head + socket.inet_aton(from_) + socket.inet_aton(to) + options, 10) + message


def echo(type_: int, id_: int, sequence: int, data: bytes) -> bytes:
    """An ICMP message."""
    return summed(struct.pack(">BBHHH", type_, 0, 0, id_, sequence) + data, 2)


class Echo(NamedTuple):
    """An ICMP echo found in a frame."""

    type: int
    from_ip: str
    to_ip: str
    id: int
    sequence: int
    data: bytes


def read_echo(frame: bytes) -> Echo | None:
    """The echo in a frame, every length and checksum right; None: something else."""
    if frame[12:14] != struct.pack(">H", IP) or frame[23] != ICMP:
        return None
    header = (frame[14] & 15) * 4
    length = struct.unpack(">H", frame[16:18])[0]
    message = frame[14 + header : 14 + length]
    assert checksum(frame[14 : 14 + header]) == 0
    assert checksum(message) == 0
    assert len(message) == length - header
    type_, code, _, id_, sequence = struct.unpack(">BBHHH", message[:8])
    assert code == 0
    return Echo(type_, socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34]), id_, sequence, message[8:])


class ArpFrame(NamedTuple):
    """What an ARP frame says."""

    operation: int
    mac: bytes
    ip: str
    to_mac: bytes
    to_ip: str


def read_arp(frame: bytes) -> ArpFrame | None:
    """The ARP in a frame; None: something else."""
    if frame[12:14] != struct.pack(">H", ARP):
        return None
    assert frame[14:20] == struct.pack(">HHBB", 1, IP, 6, 4)
    return ArpFrame(
        struct.unpack(">H", frame[20:22])[0],
        frame[22:28],
        socket.inet_ntoa(frame[28:32]),
        frame[32:38],
        socket.inet_ntoa(frame[38:42]),
    )


def read_pcap(path: Path) -> list[bytes]:
    """All frames, the file read as its format is described: microseconds, Ethernet, whole records to the end."""
    data = path.read_bytes()
    magic, major, minor, zone, accuracy, snaplen, linktype = struct.unpack("<IHHiIII", data[:24])
    assert (magic, major, minor, zone, accuracy, linktype) == (0xA1B2C3D4, 2, 4, 0, 0, 1)
    at, frames = 24, []
    while at < len(data):
        seconds, microseconds, kept, size = struct.unpack("<IIII", data[at : at + 16])
        assert kept == size <= snaplen
        assert seconds > 0
        assert microseconds < 1_000_000
        frame = data[at + 16 : at + 16 + kept]
        assert len(frame) == kept, "the last record is cut"
        frames.append(frame)
        at += 16 + kept
    return frames
