"""Which devices are there, and what does `boot` need to make one? One maker a device, imported when asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from labkit.errors import UsageError
from labkit.virtio.backends.image import open_image, ram_disk
from labkit.virtio.backends.slow import Slow, checked_delay
from labkit.virtio.devices.base import Device


class Options(NamedTuple):
    """What `boot` was told about the device. None: not said; an option another device has is refused."""

    disk: str | os.PathLike[str] | None = None
    writable: bool | None = None
    queues: int | None = None
    delay_ns: int | None = None


class Maker(NamedTuple):
    """How a device is made, and which options it takes."""

    takes: frozenset[str]
    make: Callable[[Options], Device]


def make(device: str, options: Options) -> Device:
    """The model of `device`, opened. UsageError: no such device, or an option it does not take."""
    maker = MAKERS.get(device)
    if maker is None:
        raise UsageError(f"device {device!r}: this version has {', '.join(map(repr, MAKERS))}")
    for name, value in options._asdict().items():
        if value is not None and name not in maker.takes:
            raise UsageError(f"{name}={value!r}: a virtio-{device} has no such thing")
    return maker.make(options)


def _blk(options: Options) -> Device:
    from labkit.virtio.devices.blk import Blk

    if options.queues not in (None, 1):
        raise UsageError(f"queues={options.queues!r}: a legacy virtio-blk has one queue")
    delay_ns = checked_delay(options.delay_ns or 0)
    image = ram_disk() if options.disk is None else open_image(Path(options.disk), writable=bool(options.writable))
    return Blk(Slow(image, delay_ns) if delay_ns else image)


def _null(options: Options) -> Device:
    from labkit.virtio.devices.null import Null

    return Null(1 if options.queues is None else options.queues)


MAKERS = {
    "blk": Maker(frozenset({"disk", "writable", "queues", "delay_ns"}), _blk),
    "null": Maker(frozenset({"queues"}), _null),
}
