"""Which devices are there, and what does `boot` need to make one? One maker a device, imported when asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from labkit.errors import UsageError
from labkit.native import lib
from labkit.virtio.backends.cable import Cable
from labkit.virtio.backends.image import Image, open_image, ram_disk
from labkit.virtio.backends.link import LinkEnd
from labkit.virtio.backends.slow import Slow, checked_delay
from labkit.virtio.devices.base import Device

TAP = "tap:"


class Options(NamedTuple):
    """What `boot` was told about the device. None: not said; an option another device has is refused."""

    disk: str | os.PathLike[str] | None = None
    writable: bool | None = None
    queues: int | None = None
    delay_ns: int | None = None
    net: str | LinkEnd | None = None
    pcap: str | os.PathLike[str] | None = None
    mac: str | None = None
    locked: bool | None = None  # False: the disk is another machine's until it lets go


class Maker(NamedTuple):
    """How a device is made, and which options it takes."""

    takes: frozenset[str]
    make: Callable[[Options], Device]


def make(device: str | Device, options: Options) -> Device:
    """The model of `device`, opened. UsageError: no such device, or an option it does not take."""
    if isinstance(device, Device):
        return _own(device, options)
    maker = next((maker for name, maker in MAKERS.items() if name == device), None)
    if maker is None:
        raise UsageError(
            f"device {device!r}: {', '.join(map(repr, MAKERS))}, or an instance of a labkit.Device of yours"
        )
    for name, value in options._asdict().items():
        if value is not None and name not in maker.takes:
            raise UsageError(f"{name}={value!r}: a virtio-{device} has no such thing")
    return maker.make(options)


def _own(device: Device, options: Options) -> Device:
    from labkit.virtio.devices.python import PythonDevice

    told = [f"{name}={value!r}" for name, value in options._asdict().items() if value is not None]
    if told:
        raise UsageError(f"{', '.join(told)}: a device of your own is told such things when you make it")
    return PythonDevice(device) if device.kind == lib.DEVICE_PYTHON else device


def _console(_: Options) -> Device:
    from labkit.virtio.devices.console import Console

    return Console()


def _blk(options: Options) -> Device:
    from labkit.virtio.devices.blk import Blk

    if options.queues not in (None, 1):
        raise UsageError(f"queues={options.queues!r}: a legacy virtio-blk has one queue")
    delay_ns = checked_delay(options.delay_ns or 0)
    image = ram_disk() if options.disk is None else _open(options, Path(options.disk))
    return Blk(Slow(image, delay_ns) if delay_ns else image)


def _open(options: Options, path: Path) -> Image:
    return open_image(path, writable=bool(options.writable), locked=options.locked is not False)


def _null(options: Options) -> Device:
    from labkit.virtio.devices.null import Null

    return Null(1 if options.queues is None else options.queues)


def _net(options: Options) -> Device:
    from labkit.virtio.devices.net import Net, parse_mac

    if options.queues not in (None, len(Net.queue_sizes)):
        raise UsageError(f"queues={options.queues!r}: a legacy virtio-net has {len(Net.queue_sizes)}")
    mac = None if options.mac is None else parse_mac(options.mac)
    capture = None
    if options.pcap is not None:
        from labkit.virtio.backends.pcap import open_capture

        capture = open_capture(Path(options.pcap))
    try:
        return Net(mac, _cable(options.net), capture)
    except BaseException:
        if capture is not None:
            capture.close()
        raise


def _cable(net: str | LinkEnd | None) -> Cable | None:
    if isinstance(net, LinkEnd):
        return net.plug()
    if isinstance(net, str) and net.startswith(TAP):
        from labkit.virtio.backends.tap import open_tap

        return open_tap(net.removeprefix(TAP))
    if net is not None:
        raise UsageError(f"net={net!r}: an end of labkit.link(), 'tap:NAME', or None for a cable that leads nowhere")
    return None


MAKERS = {
    "blk": Maker(frozenset({"disk", "writable", "queues", "delay_ns", "locked"}), _blk),
    "net": Maker(frozenset({"net", "pcap", "mac", "queues"}), _net),
    "console": Maker(frozenset(), _console),
    "null": Maker(frozenset({"queues"}), _null),
}
