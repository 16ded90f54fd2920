"""How does one wait for a machine that comes from elsewhere? `receive` waits for it, `listen` does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from labkit.machine import Machine, next_name
from labkit.virtio.backends.link import LinkEnd
from labkit.virtio.devices.base import Device

if TYPE_CHECKING:
    from labkit.migration import Arrival, Progress


def receive(
    address: str,
    *,
    disk: str | os.PathLike[str] | None = None,
    device: Device | None = None,
    net: str | LinkEnd | None = None,
    pcap: str | os.PathLike[str] | None = None,
    cpu: str = "auto",
    expect: Mapping[str, Any] | None = None,
    tls: str | os.PathLike[str] | None = None,
    timeout_s: float = 10.0,
    progress: Callable[[Progress], object] | None = None,
) -> Machine:
    """Wait at `address` for a machine that migrates, and go on with it; `listen` is the same without waiting.

    address: "unix:/path", "tcp:port" on the loopback, or "tcp:host:port", beyond the loopback only with `tls`.
    disk: where the machine's disk is here; may be left out on a unix socket, where the source is this user's own.
    device: an object of the same class, if the machine's device is one of your own. net, pcap: as `boot` takes them.
    cpu: must be what the machine ran on.
    expect: what the machine has to be, by `boot`'s names: {"revision": "today", "vcpus": 2}; another is refused.
    tls, timeout_s, progress: as `Machine.migrate` takes them.

    UsageError: it does not fit here, or what came was no machine or a damaged one. HostError: the connection broke. The
    source runs on then.
    """
    with listen(
        address,
        disk=disk,
        device=device,
        net=net,
        pcap=pcap,
        cpu=cpu,
        expect=expect,
        tls=tls,
        timeout_s=timeout_s,
        progress=progress,
    ) as arrival:
        machine: Machine = arrival.machine()
        return machine


def listen(
    address: str,
    *,
    disk: str | os.PathLike[str] | None = None,
    device: Device | None = None,
    net: str | LinkEnd | None = None,
    pcap: str | os.PathLike[str] | None = None,
    cpu: str = "auto",
    expect: Mapping[str, Any] | None = None,
    tls: str | os.PathLike[str] | None = None,
    timeout_s: float = 10.0,
    progress: Callable[[Progress], object] | None = None,
) -> Arrival[Machine]:
    """Listen at `address` for a machine, and return at once: `arrival.machine()` waits for it. See `receive`.

    With port 0 the kernel chooses one: `arrival.address` is what to migrate to.
    """
    from labkit import migration

    here = migration.Here(disk=disk, device=device, net=net, pcap=pcap, cpu=cpu)
    return migration.arrive(
        address,
        here,
        next_name(),
        Machine,
        expect=expect or {},
        tls=tls,
        timeout_s=timeout_s,
        progress=progress,
    )
