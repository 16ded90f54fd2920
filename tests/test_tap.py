"""Does a guest get onto the host's network? A TAP, in a network namespace that lives as long as the test."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from frames import ECHO_REPLY, ECHO_REQUEST, echo, read_arp, read_echo, read_pcap

import labkit
from labkit import HostError, Machine
from labkit.virtio.backends import tap

Boot = Callable[..., Machine]
T = TypeVar("T")
InNamespace = Callable[[Callable[[], T]], T]

CLONE_NEWNET = 0x40000000
HOST_IP, GUEST_IP = "192.0.2.1", "192.0.2.2"  # TEST-NET-1: no real network's
NAME = "labkit-tap0"
PATH = os.environ["PATH"] + ":/sbin:/usr/sbin"


def tool(name: str, package: str) -> str:
    """Where a tool is; skips where it is not installed."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"{name} is not installed (package {package})")
    return found


def namespaces() -> set[str]:
    """The network namespaces that threads of this process are in."""
    found = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found.add(os.readlink(thread / "ns" / "net"))
    return found


@pytest.fixture
def in_namespace(leaves_nothing: None) -> Iterator[InNamespace]:  # noqa: ARG001 - ordered around this one
    """Runs a function in a thread with a network namespace of its own; the namespace goes with thread and machines."""
    if os.geteuid() != 0:
        pytest.skip("not root: a network namespace takes CAP_SYS_ADMIN")
    if not Path(tap.TUN_DEVICE).exists():
        pytest.skip(f"no {tap.TUN_DEVICE}: modprobe tun, or give it to the container")
    before = namespaces()
    with ThreadPoolExecutor(1) as pool:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
        refused = pool.submit(lambda: ctypes.get_errno() if unshare(CLONE_NEWNET) else 0).result()
        if refused:
            pytest.skip(f"no network namespace: {os.strerror(refused)}")
        yield lambda work: pool.submit(work).result()
    while namespaces() - before:  # closing has waited for the threads' work, the kernel takes a moment to remove them
        os.sched_yield()


def wait_for(happened: Callable[[], object]) -> None:
    """Until it has happened; a test that waits in vain is ended by its own time limit."""
    while not happened():
        os.sched_yield()


def bring_up(name: str) -> None:
    """The host's side of the cable: an address, and up."""
    ip = tool("ip", "iproute2")
    for command in (f"addr add {HOST_IP}/24 dev {name}", f"link set {name} up"):
        subprocess.run([ip, *command.split()], check=True, capture_output=True)


def serving(boot: Boot, **options: object) -> Machine:
    """A guest on a TAP that answers pings; in the namespace of the calling thread."""
    vm = boot("net", net=f"tap:{NAME}", kernel=labkit.guest_image("ping"), cmdline=f"ip={GUEST_IP}", **options)
    bring_up(NAME)
    return vm


@pytest.mark.parametrize("ioeventfd", [False, True])
def test_the_host_pings_a_guest(in_namespace: InNamespace, boot: Boot, tmp_path: Path, ioeventfd: bool) -> None:
    """ARP and echo by the host's own stack: the guest's reply passes its checks, and the capture holds both."""

    def ping() -> bytes:
        serving(boot, pcap=tmp_path / "tap.pcap", ioeventfd=ioeventfd)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.settimeout(60)
            raw.connect((GUEST_IP, 0))
            raw.send(echo(ECHO_REQUEST, 0x4242, 5, b"from the host"))
            return raw.recv(4096)[20:]

    assert in_namespace(ping) == echo(ECHO_REPLY, 0x4242, 5, b"from the host")
    frames = read_pcap(tmp_path / "tap.pcap")
    assert any(read_arp(frame) for frame in frames)
    assert [found.type for frame in frames if (found := read_echo(frame))] == [ECHO_REQUEST, ECHO_REPLY]


def test_the_hosts_ping_is_answered(in_namespace: InNamespace, boot: Boot) -> None:
    """ping(8) counts three replies and no loss."""
    command = [tool("ping", "iputils-ping"), "-c", "3", "-i", "0.2", "-W", "10", GUEST_IP]

    def ping() -> str:
        serving(boot)
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    assert "3 received, 0% packet loss" in in_namespace(ping)


def test_a_guest_pings_the_host(in_namespace: InNamespace, boot: Boot) -> None:
    """The other way round: the host's stack answers ARP and echo."""

    def ping() -> str:
        options = f"ip={GUEST_IP} ping={HOST_IP} count=2"
        vm = boot("net", net=f"tap:{NAME}", kernel=labkit.guest_image("ping"), cmdline=options)
        bring_up(NAME)
        assert vm.wait(timeout_s=60) == 1
        return vm.console

    assert in_namespace(ping).endswith("ping replies=2\n")


def test_an_interface_goes_with_its_machine(in_namespace: InNamespace, boot: Boot) -> None:
    """Made by the boot, in the namespace of the thread that booted, and gone when the machine is closed."""

    def names() -> list[str]:
        return [name for _, name in socket.if_nameindex()]

    def check() -> None:
        vm = boot("net", net=f"tap:{NAME}")
        assert NAME in names()
        assert vm.proxy.values()["cable"] == f"tap:{NAME}"
        vm.close()
        assert NAME not in names()

    in_namespace(check)
    assert NAME not in names()


def test_an_interface_that_is_taken_away_hurts_nobody(in_namespace: InNamespace, boot: Boot) -> None:
    """`ip link del` under a running guest: nothing comes any more, what is sent is dropped, the machine goes on."""

    def check() -> None:
        vm, ip = serving(boot), tool("ip", "iproute2")
        net = vm.proxy.device.net
        wait_for(lambda: net.watched)
        subprocess.run([ip, "link", "del", NAME], check=True, capture_output=True)
        wait_for(lambda: net.gone and not net.watched)
        vm.reset()
        wait_for(lambda: net.live)
        assert not net.watched

    in_namespace(check)


def test_an_interface_in_use_is_the_hosts_fault(in_namespace: InNamespace, boot: Boot) -> None:
    """Two machines for one TAP, or a name that is no TAP's: HostError with the reason and what to do."""

    def check() -> None:
        boot("net", net=f"tap:{NAME}", bring_up=False)
        with pytest.raises(HostError, match=rf"TUNSETIFF {NAME}: EBUSY.*another program"):
            boot("net", net=f"tap:{NAME}")
        with pytest.raises(HostError, match=r"EINVAL.*no TAP"):
            boot("net", net="tap:lo")

    in_namespace(check)


@pytest.mark.usefixtures("leaves_nothing")
def test_a_host_without_tap_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """/dev/net/tun is missing, or is not permitted: HostError names it and says how to get it."""
    monkeypatch.setattr(tap, "TUN_DEVICE", str(tmp_path / "tun"))
    with pytest.raises(HostError, match=r"ENOENT.*modprobe tun"):
        labkit.boot("net", net="tap:x")
    monkeypatch.setattr(tap, "TUN_DEVICE", os.devnull)  # opens, and is no TAP
    with pytest.raises(HostError, match="TUNSETIFF x: ENOTTY") as caught:
        labkit.boot("net", net="tap:x")
    assert caught.value.errno == errno.ENOTTY
