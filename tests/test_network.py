"""Do machines on a cable find and answer each other? Real guests: ping, and the agent."""

from __future__ import annotations

import gc
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from frames import (
    ARP,
    ARP_REPLY,
    ARP_REQUEST,
    BROADCAST,
    ECHO_REPLY,
    ECHO_REQUEST,
    IP,
    ArpFrame,
    Echo,
    arp,
    arp_request,
    echo,
    ethernet,
    packet,
    read_arp,
    read_echo,
    read_pcap,
)

import labkit
from labkit import Machine, UsageError
from labkit.abi import Feature, NetFeature, Status
from labkit.virtio.backends.link import LinkEnd
from labkit.virtio.devices.net import Frames

Boot = Callable[..., Machine]

GUEST_IP, HOST_IP = "10.0.2.15", "10.0.2.2"
GUEST_MAC = "52:54:00:12:34:56"
GUEST, HOST = bytes.fromhex(GUEST_MAC.replace(":", "")), bytes.fromhex("525400000002")


class Peer:
    """The test itself at one end of a cable, with a guest at the other."""

    def __init__(self, end: LinkEnd) -> None:
        self._end = end.plug()
        self.socket = socket.socket(fileno=os.dup(self._end.fd))
        self.socket.settimeout(60)

    def send(self, frame: bytes) -> None:
        """One frame."""
        self.socket.send(frame)

    def next_arp(self) -> ArpFrame:
        """The next ARP that comes."""
        while not (found := read_arp(self.socket.recv(4096))):
            pass
        return found

    def next_echo(self) -> Echo:
        """The next ICMP echo that comes."""
        while not (found := read_echo(self.socket.recv(4096))):
            pass
        return found

    def ping(self, data: bytes = b"data", sequence: int = 1, **options: object) -> None:
        """An echo request to the guest."""
        message = echo(ECHO_REQUEST, 7, sequence, data)
        self.send(ethernet(GUEST, HOST, IP, packet(HOST_IP, GUEST_IP, message, **options)))  # type: ignore[arg-type]

    def close(self) -> None:
        """Leave the cable."""
        self.socket.close()
        self._end.close()


@pytest.fixture
def ends(leaves_nothing: None) -> Iterator[tuple[Peer, LinkEnd]]:  # noqa: ARG001 - ordered around this one
    """The test at one end of a link, and the end for a machine."""
    near, far = labkit.link()
    peer = Peer(near)
    yield peer, far
    peer.close()
    far.close()


@pytest.fixture
def peer(ends: tuple[Peer, LinkEnd]) -> Peer:
    """The test at its end."""
    return ends[0]


@pytest.fixture
def guest(ends: tuple[Peer, LinkEnd], boot: Boot) -> Machine:
    """A guest at the other end that answers, and is up."""
    vm = boot_ping(boot, net=ends[1], mac=GUEST_MAC, cmdline=f"ip={GUEST_IP}")
    ends[0].send(arp_request(HOST, HOST_IP, GUEST_IP))  # it waits in the cable until the guest is up
    assert ends[0].next_arp().mac == GUEST
    return vm


def boot_ping(boot: Boot, **options: object) -> Machine:
    """The ping guest by its multiboot entry."""
    return boot("net", kernel=labkit.guest_image("ping"), **options)


# -- two machines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("irq", ["msix", "poll"])
@pytest.mark.parametrize("ioeventfd", [None, True])
def test_a_guest_pings_another(boot: Boot, tmp_path: Path, irq: str, ioeventfd: bool | None) -> None:
    """By a link, by trap and by eventfd: every ping is answered, and both captures hold the same ARP and ICMP."""
    first, second = labkit.link()
    captures = [tmp_path / "a.pcap", tmp_path / "b.pcap"]
    b = boot_ping(boot, net=second, pcap=captures[1], ioeventfd=ioeventfd, cmdline=f"ip={HOST_IP} irq={irq}")
    a = boot_ping(
        boot,
        net=first,
        pcap=captures[0],
        ioeventfd=ioeventfd,
        cmdline=f"ping={HOST_IP} count=3 irq={irq} ip={GUEST_IP}",
    )
    assert a.wait(timeout_s=60) == 1, a.console
    assert a.console.count(" ticks=") == 3
    assert a.console.endswith("ping replies=3\n")
    b.pause()
    ours, theirs = map(read_pcap, captures)
    for vm in (a, b):  # each way in order; how the two ways interleave is each machine's own
        assert [f for f in ours if f[6:12] == vm.proxy.model.address] == [
            f for f in theirs if f[6:12] == vm.proxy.model.address
        ]
    asked = [found for frame in ours if (found := read_arp(frame))]
    assert (asked[0].operation, asked[0].ip, asked[0].to_ip) == (ARP_REQUEST, GUEST_IP, HOST_IP)
    assert (asked[-1].operation, asked[-1].ip, asked[-1].to_ip) == (ARP_REPLY, HOST_IP, GUEST_IP)
    echoes = [found for frame in ours if (found := read_echo(frame))]
    assert [(found.type, found.sequence) for found in echoes] == [
        (type_, sequence) for sequence in range(3) for type_ in (ECHO_REQUEST, ECHO_REPLY)
    ]


def test_a_ping_that_nobody_answers_ends(boot: Boot) -> None:
    """A cable that leads nowhere: no ARP reply, and the guest says so and ends with 1."""
    vm = boot_ping(boot, cmdline=f"ping={HOST_IP} asks=2")
    assert vm.wait(timeout_s=60) == 3
    assert "ping failed=arp" in vm.console
    assert vm.proxy.model.frames == Frames(0, 0, 2, 0, 0, 0)


def test_a_lost_reply_is_told(ends: tuple[Peer, LinkEnd], boot: Boot) -> None:
    """Of three pings the second is not answered: the guest goes on, and its exit code says that not all were."""
    peer, end = ends
    vm = boot_ping(boot, net=end, mac=GUEST_MAC, cmdline=f"ip={GUEST_IP} ping={HOST_IP} count=3 wait=3000000000")
    asked = peer.next_arp()
    assert (asked.operation, asked.to_ip, asked.mac) == (ARP_REQUEST, HOST_IP, GUEST)
    peer.send(ethernet(GUEST, HOST, ARP, arp(ARP_REPLY, HOST, HOST_IP, GUEST, GUEST_IP)))
    for sequence in range(3):
        found = peer.next_echo()
        assert (found.type, found.sequence) == (ECHO_REQUEST, sequence)
        if sequence != 1:
            message = echo(ECHO_REPLY, found.id, found.sequence, found.data)
            peer.send(ethernet(GUEST, HOST, IP, packet(HOST_IP, GUEST_IP, message)))
    assert vm.wait(timeout_s=60) == 3
    assert "ping seq=1 lost" in vm.console
    assert vm.console.endswith("ping replies=2\n")


def test_a_guest_that_has_pinged_can_go_on_to_serve(ends: tuple[Peer, LinkEnd], boot: Boot) -> None:
    """`serve`: after its own pings the guest does not end, and answers others."""
    peer, end = ends
    vm = boot_ping(boot, net=end, mac=GUEST_MAC, cmdline=f"serve ip={GUEST_IP} ping={HOST_IP} count=1 wait=1000000")
    peer.send(ethernet(GUEST, HOST, ARP, arp(ARP_REPLY, HOST, HOST_IP, GUEST, GUEST_IP)))
    assert peer.next_echo().type == ECHO_REQUEST
    peer.ping(sequence=5)
    assert peer.next_echo() == Echo(ECHO_REPLY, GUEST_IP, HOST_IP, 7, 5, b"data")
    assert vm.state == "running"


@pytest.mark.slow
@pytest.mark.parametrize("irq", ["msix", "poll"])
def test_the_same_guest_pings_under_qemu(irq: str) -> None:
    """ping.elf on QEMU's card, as an independent device: what the guest asks of the lab's it asks of any."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    machine = "-m 64 -display none -nodefaults -no-reboot -debugcon stdio -device isa-debug-exit,iobase=0xf4,iosize=4"
    card = "-netdev user,id=net -device virtio-net-pci,disable-modern=on,romfile=,netdev=net"
    guest = ["-kernel", str(labkit.guest_image("ping")), "-append", f"ping=10.0.2.2 count=2 irq={irq}"]
    done = subprocess.run([qemu, *machine.split(), *card.split(), *guest], capture_output=True, text=True, check=False)
    if "user" in done.stderr and "network backend" in done.stderr:
        pytest.skip("this QEMU was built without its user network")
    assert (done.returncode, done.stdout.endswith("ping replies=2\n")) == (1, True), done.stderr


# -- a guest that answers ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("guest")
def test_arp_is_answered(peer: Peer) -> None:
    """Who has the guest's address? The reply goes to who asked, and names the guest's mac; others are not answered."""
    peer.send(arp_request(HOST, HOST_IP, "10.0.2.16"))
    peer.send(arp_request(HOST, HOST_IP, GUEST_IP))
    assert peer.next_arp() == ArpFrame(ARP_REPLY, GUEST, GUEST_IP, HOST, HOST_IP)


@pytest.mark.usefixtures("guest")
@pytest.mark.parametrize("size", [0, 1, 56, 1471, 1472])
def test_an_echo_comes_back_as_it_was(peer: Peer, size: int) -> None:
    """The same data, id and number, all checksums right, up to the longest frame."""
    data = bytes(n & 0xFF for n in range(size))
    peer.ping(data, sequence=0xFFFE)
    assert peer.next_echo() == Echo(ECHO_REPLY, GUEST_IP, HOST_IP, 7, 0xFFFE, data)


def spoiled(frame: bytes, at: int) -> bytes:
    """A frame with one byte changed."""
    return frame[:at] + bytes([frame[at] ^ 0x11]) + frame[at + 1 :]


@pytest.mark.usefixtures("guest")
def test_what_is_wrong_is_not_answered(peer: Peer) -> None:
    """Wrong sums, lengths, addresses, fragments: silence; the next good ping is answered first."""
    message = echo(ECHO_REQUEST, 7, 1, b"x" * 30)
    good = ethernet(GUEST, HOST, IP, packet(HOST_IP, GUEST_IP, message))
    for bad in (
        *(spoiled(good, at) for at in (0, 12, 14, 17, 23, 25, 33, 36, 45, 60)),
        *(good[:length] for length in (14, 15, 33, 34, 41, 42, len(good) - 1)),
        ethernet(GUEST, HOST, IP, packet(HOST_IP, GUEST_IP, message, fragment=0x2000)),
        ethernet(GUEST, HOST, IP, packet(HOST_IP, GUEST_IP, message, fragment=1)),
        ethernet(GUEST, HOST, IP, packet(HOST_IP, "10.0.2.99", message)),
        ethernet(GUEST, HOST, ARP, arp(ARP_REQUEST, HOST, HOST_IP, bytes(6), GUEST_IP)[:-1]),
    ):
        peer.send(bad)
    peer.ping(sequence=2)
    assert peer.next_echo().sequence == 2


@pytest.mark.usefixtures("guest")
def test_a_packet_with_options_and_a_tail_is_answered(peer: Peer) -> None:
    """IP options are stepped over, and what a frame holds behind its packet is left out."""
    message = echo(ECHO_REQUEST, 7, 3, b"abc")
    peer.send(ethernet(GUEST, HOST, IP, packet(HOST_IP, GUEST_IP, message, options=b"\1" * 8) + b"tail"))
    assert peer.next_echo() == Echo(ECHO_REPLY, GUEST_IP, HOST_IP, 7, 3, b"abc")


def test_garbage_does_not_harm_the_guest(guest: Machine, peer: Peer) -> None:
    """64 KiB of noise, and good frames with noise in them: afterwards the guest answers as before."""
    dice, total = random.Random(1), 0
    good = ethernet(GUEST, HOST, IP, packet(HOST_IP, GUEST_IP, echo(ECHO_REQUEST, 7, 1, b"y" * 40)))
    while total < 1 << 16:
        noise = bytearray(dice.randbytes(dice.randrange(1, 1600)))
        if dice.randrange(2):
            noise[:14] = dice.choice((GUEST, BROADCAST)) + HOST + dice.choice((b"\x08\x00", b"\x08\x06"))
        if dice.randrange(4) == 0:
            noise = bytearray(good)
            for _ in range(dice.randrange(1, 4)):
                noise[dice.randrange(12, len(noise))] = dice.randrange(256)
        peer.send(bytes(noise))
        total += len(noise)
        guest.proxy.model.frames  # noqa: B018 - a look changes nothing
    peer.ping(sequence=4, data=b"still here")
    while (found := peer.next_echo()).data != b"still here":
        pass
    assert (found.type, found.sequence, guest.state) == (ECHO_REPLY, 4, "running")


# -- pause, reset, close -----------------------------------------------------------------------------------------------


def test_a_frame_for_a_paused_machine_comes_after_resume(guest: Machine, peer: Peer) -> None:
    """While paused nothing is read from the cable and no byte of guest memory changes; then the frame is answered."""
    guest.pause()
    before = guest.memory.read(0, guest.memory.size_bytes)
    frames = guest.proxy.model.frames
    peer.ping(sequence=8)
    assert not guest.proxy.device.net.watched
    assert guest.proxy.model.frames == frames
    assert guest.memory.read(0, guest.memory.size_bytes) == before
    guest.resume()
    assert peer.next_echo().sequence == 8


@pytest.mark.parametrize("ioeventfd", [False, True])
def test_pauses_lose_no_frame(boot: Boot, ioeventfd: bool) -> None:
    """One of two guests is paused and resumed again and again while the other pings it: every ping is answered."""
    first, second = labkit.link()
    b = boot_ping(boot, net=second, ioeventfd=ioeventfd, cmdline=f"ip={HOST_IP}")
    a = boot_ping(boot, net=first, ioeventfd=ioeventfd, cmdline=f"ping={HOST_IP} count=20")
    while a.state == "running":
        b.pause()
        b.resume()
    assert a.wait() == 1
    assert a.console.endswith("ping replies=20\n")


def test_a_frame_waits_for_driver_ok(ends: tuple[Peer, LinkEnd], boot: Boot) -> None:
    """The agent has set the rings up but not DRIVER_OK: the cable is left alone, and watched never without a buffer."""
    vm = boot("net", net=ends[1], bring_up=False)
    vm.guest.negotiate()
    ends[0].send(arp_request(HOST, HOST_IP, GUEST_IP))
    assert not vm.proxy.device.net.live
    vm.guest.set_driver_ok()
    assert (vm.proxy.device.net.live, vm.proxy.device.net.watched) == (1, 0)
    vm.guest.clear_driver_ok()
    assert not vm.proxy.device.net.live
    assert vm.proxy.model.frames.received == 0


def test_a_reset_guest_comes_back_to_the_cable(guest: Machine, peer: Peer) -> None:
    """The reset button: the link stays plugged, and the guest answers again when it is up."""
    guest.reset()
    peer.ping(sequence=9)
    assert peer.next_echo().sequence == 9


def test_a_machine_whose_peer_has_closed_goes_on(boot: Boot) -> None:
    """The other machine is gone: frames are dropped and counted, the guest hears nothing and does not fail."""
    first, second = labkit.link()
    boot_ping(boot, net=second, cmdline=f"ip={HOST_IP}").close()
    vm = boot_ping(boot, net=first, cmdline=f"ping={HOST_IP} asks=2")
    assert vm.wait(timeout_s=60) == 3
    assert "ping failed=arp" in vm.console
    assert vm.proxy.model.frames.dropped_to_host == 2


@pytest.mark.parametrize("ioeventfd", [None, False, True])
def test_the_kicks_of_a_card_trap_unless_told_otherwise(boot: Boot, ioeventfd: bool | None) -> None:
    """R1: a card has ioeventfd off by default; turned on, its kicks come as eventfds."""
    vm = boot("net", ioeventfd=ioeventfd)
    vm.guest.kick(queue=1, times=5)
    vm.pause()
    notifier = vm.proxy.queues[1].notifier
    assert (notifier.trapped, notifier.signalled) == ((0, 5) if ioeventfd else (5, 0))
    assert ("USE_IOEVENTFD" in vm.proxy.flags.name if vm.proxy.flags else False) is bool(ioeventfd)


# -- what a user sees --------------------------------------------------------------------------------------------------


def test_a_card_shows_what_it_is(boot: Boot) -> None:
    """Address, cable and frames in the view of the proxy; features in words; three queues of the legacy sizes."""
    vm = boot("net", mac="52:54:00:AB:cd:01")
    shown = vm.proxy.values()
    assert (shown["mac"], shown["cable"], shown["frames sent"]) == ("52:54:00:ab:cd:01", "leads nowhere", 0)
    assert vm.proxy._repr_html_().startswith("<table>")
    assert [queue.num for queue in vm.proxy.queues] == [256, 256, 64]
    assert vm.proxy.status & Status.DRIVER_OK
    model = vm.proxy.model
    assert "MAC|STATUS|CTRL_VQ|CTRL_RX" in model.feature_names(vm.proxy.host_features)
    assert vm.proxy.host_features & NetFeature.MAC
    assert vm.proxy.host_features & Feature.NOTIFY_ON_EMPTY
    config = vm.proxy.notify_base + 24
    assert bytes(vm.guest.port_in(config + at, 1) for at in range(8)) == bytes.fromhex("525400abcd010100")


def test_every_machine_has_an_address_of_its_own(boot: Boot) -> None:
    """By default: locally administered, no group's, and different."""
    addresses = [boot("net", bring_up=False).proxy.model.address for _ in range(3)]
    assert len(set(addresses)) == 3
    assert all(address[0] & 3 == 2 for address in addresses)


def test_a_closed_machine_still_tells_its_frames(boot: Boot) -> None:
    """The counters outlive the machine."""
    vm = boot_ping(boot, cmdline=f"ip={GUEST_IP}")
    vm.close()
    assert vm.proxy.values()["frames sent"] == 0


def test_an_end_is_used_once(boot: Boot) -> None:
    """A second machine for the same end, or a machine for a closed one: the caller's mistake, and what to do."""
    first, second = labkit.link()
    boot("net", net=first, bring_up=False)
    with pytest.raises(UsageError, match="given to a machine before"):
        boot("net", net=first)
    assert "given to a machine" in repr(first)
    assert "free" in repr(second)
    with second:
        pass
    with pytest.raises(UsageError, match="closed"):
        boot("net", net=second)
    assert "closed" in repr(second)


@pytest.mark.usefixtures("leaves_nothing")
def test_an_end_that_nobody_uses_leaves_nothing() -> None:
    """Closed twice, or forgotten: its fd goes."""
    first, second = labkit.link()
    first.close()
    first.close()
    del first, second
    gc.collect()


@pytest.mark.parametrize(
    "options",
    [
        {"net": "eth0"},
        {"net": 7},
        {"net": "tap:"},
        {"net": "tap:a/b"},
        {"net": "tap:a b"},
        {"net": "tap:sixteen-letters-"},
        {"mac": "52:54:00:12:34"},
        {"mac": "52:54:00:12:34:5g"},
        {"mac": "+1:54:00:12:34:56"},
        {"mac": "01:00:5e:00:00:01"},
        {"mac": "00:00:00:00:00:00"},
        {"mac": 5},
        {"pcap": "/does/not/exist.pcap"},
        {"pcap": "/dev/null"},
        {"pcap": "/"},
        {"disk": "x.img"},
        {"queues": 2},
    ],
)
@pytest.mark.usefixtures("leaves_nothing")
def test_a_bad_option_is_the_callers_fault(options: dict[str, object]) -> None:
    """Each is a UsageError, and nothing is left behind."""
    with pytest.raises(UsageError):
        labkit.boot("net", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["net", "pcap", "mac"])
@pytest.mark.usefixtures("leaves_nothing")
def test_a_disk_has_no_cable(option: str) -> None:
    """What belongs to a card is refused by another device."""
    with pytest.raises(UsageError, match=f"{option}=.*virtio-blk"):
        labkit.boot("blk", **{option: "x"})  # type: ignore[arg-type]


def test_two_machines_do_not_share_a_capture(boot: Boot, tmp_path: Path) -> None:
    """The second is refused and nothing is lost; after the first has closed the file is free."""
    path = tmp_path / "lab.pcap"
    vm = boot("net", pcap=path, bring_up=False)
    with pytest.raises(UsageError, match="another machine"):
        boot("net", pcap=path)
    vm.close()
    boot("net", pcap=path, bring_up=False)
    assert read_pcap(path) == []


def test_a_capture_is_not_taken_when_the_boot_fails(boot: Boot, tmp_path: Path) -> None:
    """A wrong cable beside a right capture: nothing stays open."""
    path = tmp_path / "lab.pcap"
    with pytest.raises(UsageError):
        boot("net", pcap=path, net="eth0")
    boot("net", pcap=path, bring_up=False)
