"""What does the source say of its machine, and how does the destination make one like it?

The source tells what the guest can see: memory, vCPUs, the device and what it was booted with. What belongs to a host
(the disk, the cable, a kernel's place in the file system) the destination is told by whoever receives. A disk's path is
believed only from the same user of the same host, who could open it anyway.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from labkit import abi
from labkit.abi import Irq
from labkit.board import Board, Plan
from labkit.errors import UsageError
from labkit.installation import VERSION
from labkit.loader import Image, check_fits, kernel_from, lab_guest
from labkit.native import lib
from labkit.state import FLAG, U32, U64, Number, Shape, checked
from labkit.virtio import catalogue
from labkit.virtio.backends.link import LinkEnd
from labkit.virtio.backends.slow import DELAY_MAX_NS
from labkit.virtio.devices.base import Device
from labkit.virtio.notifier import REVISIONS

TABLE_MAX_BYTES = abi.NUMBERS["MSIX_VECTORS_MAX"] * abi.NUMBERS["MSIX_ENTRY_BYTES"]
NUMBERS: Shape = {
    "vcpus": Number(abi.VCPUS_MAX, 1),
    "memory_mib": Number(abi.MEMORY_MAX_MIB, abi.MEMORY_MIN_MIB),
    "intx": FLAG,
    "irq": Number(max(Irq)),
    "ioeventfd": FLAG,
    "lab": FLAG,
    "own": FLAG,  # a device of the user's own
    "queues": Number(abi.QUEUE_MAX, 1),
    "delay_ns": Number(DELAY_MAX_NS),
    "writable": FLAG,
    "ram_disk": FLAG,
    "sectors": U64,
    "kernel_bytes": U32,
}
RAM_DISK_SECTORS_MAX = (abi.MEMORY_MAX_MIB << 20) // abi.SECTOR_BYTES  # of a stranger's: no more than its RAM may be
TEXTS = {"labkit": 40, "cpu": 20, "device": 200, "revision": 20, "guest": 200, "digest": 64}
MORE_TEXTS = {"command_line": 1 << 12, "mac": 17, "disk": 1 << 12, "msix": 2 * TABLE_MAX_BYTES}


GIVEN_TO = {"blk": {"disk"}, "net": {"net", "pcap"}}


class Here(NamedTuple):
    """What the destination's side gives the machine. None: not said."""

    disk: str | os.PathLike[str] | None = None
    device: Device | None = None
    net: str | LinkEnd | None = None
    pcap: str | os.PathLike[str] | None = None
    cpu: str = "auto"


class Hello(NamedTuple):
    """What was said, checked field by field."""

    numbers: dict[str, int]
    texts: dict[str, str]


def describe(board: Board, irq: Irq) -> dict[str, Any]:
    """What a source says of its machine."""
    plan = board.plan
    options, image, disk = plan.options, plan.image, board.disk
    return {
        "labkit": VERSION,
        "cpu": board.cpu.name,
        "device": plan.model.name,
        "own": int(plan.model.kind == lib.DEVICE_PYTHON),
        "revision": plan.revision,
        "guest": image.name,
        "digest": digest(image),
        "kernel_bytes": len(image.file),
        "command_line": plan.command_line,
        "vcpus": plan.vcpus,
        "memory_mib": plan.memory_mib,
        "intx": int(plan.intx),
        "irq": int(irq),
        "ioeventfd": int(plan.ioeventfd),
        "lab": int(image.lab),
        "queues": len(plan.model.queue_sizes),
        "delay_ns": options.delay_ns or 0,
        "mac": getattr(plan.model, "mac", ""),
        "msix": board.proxy.msix.save()["table"].hex(),  # as it is now: the guest may still change it
        "writable": int(disk is not None and disk.writable),
        "ram_disk": int(disk is not None and disk.is_ram),
        "sectors": disk.sectors if disk is not None else 0,
        "disk": _sayable(os.path.abspath(options.disk)) if options.disk is not None else "",
    }


def _sayable(path: str) -> str:
    """A path with odd characters is not said: then the other side must be told by its own user."""
    return path if path.isprintable() and len(path) <= MORE_TEXTS["disk"] else ""


def digest(image: Image) -> str:
    """Which build of a guest it is, in hexadecimal."""
    found = hashlib.sha256()
    for gpa, data, size in image.segments:
        found.update(f"{gpa},{size},".encode())
        found.update(data)
    return found.hexdigest()


def check(said: object) -> Hello:
    """UsageError: nobody can have said that of a machine."""
    if not isinstance(said, dict):
        raise UsageError("HELLO describes no machine")
    said = dict(said)
    limits = TEXTS | MORE_TEXTS
    texts = {name: _text(name, said.pop(name, None), most) for name, most in limits.items()}
    numbers = checked("HELLO", NUMBERS, said)
    if texts["revision"] not in REVISIONS:
        raise UsageError(f"the machine has rules {texts['revision']!r}: this labkit knows {', '.join(REVISIONS)}")
    if texts["cpu"] not in ("kvm", "emulated"):
        raise UsageError(f"the machine has a CPU {texts['cpu']!r}, which this labkit does not know")
    return Hello(numbers, texts)


def _text(name: str, value: object, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or "\0" in value or not value.isprintable():
        raise UsageError(f"HELLO: {name} is no text of at most {most} characters")
    return value


def image_of(hello: Hello, kernel: bytes) -> Image:
    """The guest, for resets: the lab's own of this installation, or the kernel that came along."""
    texts = hello.texts
    if not hello.numbers["lab"]:
        return kernel_from(os.path.basename(texts["guest"]) or "kernel", kernel)
    image = lab_guest("agent")
    if texts["digest"] != digest(image):
        raise UsageError(f"the guest is of another build (labkit {texts['labkit']}, here {VERSION})")
    return image


def table_of(hello: Hello) -> bytes:
    """The MSI-X table that most likely comes with the state. UsageError: it is not told in hexadecimal."""
    try:
        return bytes.fromhex(hello.texts["msix"])
    except ValueError as error:
        raise UsageError(f"HELLO: msix cannot be read: {error}") from error


def plan_of(hello: Hello, image: Image, here: Here, *, trusted: bool) -> Plan:
    """A machine like the source's, of what this side gives it. Its disk is open, and not locked.

    UsageError: this side gives too little or something else. `trusted`: the source is this very user's, on this host.
    """
    numbers, texts = hello
    check_fits(image, numbers["memory_mib"])
    options = _options(hello, here, trusted=trusted)
    model = _model(hello, here, options)
    try:
        _check_disk(hello, model)
        return Plan(
            model=model,
            image=image,
            command_line=texts["command_line"],
            cpu=_cpu(texts["cpu"], here.cpu),
            vcpus=numbers["vcpus"],
            memory_mib=numbers["memory_mib"],
            revision=texts["revision"],
            ioeventfd=bool(numbers["ioeventfd"]),
            intx=bool(numbers["intx"]),
            options=options,
        )
    except BaseException:
        model.close()
        raise


def _cpu(theirs: str, ours: str) -> str:
    """The states of two kinds of CPU have nothing in common."""
    if ours not in ("auto", theirs):
        raise UsageError(f"the machine runs on the back end {theirs!r}, and cannot go on with cpu={ours!r}")
    return theirs


def _options(hello: Hello, here: Here, *, trusted: bool) -> catalogue.Options:
    numbers, device = hello.numbers, hello.texts["device"]
    _check_given(here, set() if numbers["own"] else GIVEN_TO.get(device, set()), device)
    if numbers["own"]:
        return catalogue.Options()
    if device == "blk":
        disk = _disk(hello, here.disk, trusted=trusted)
        writable = bool(numbers["writable"]) if disk is not None else None
        return catalogue.Options(disk=disk, writable=writable, delay_ns=numbers["delay_ns"] or None, locked=False)
    if device == "net":
        return catalogue.Options(net=here.net, pcap=here.pcap, mac=hello.texts["mac"])
    return catalogue.Options(queues=numbers["queues"] if device == "null" else None)


def _check_given(here: Here, takes: set[str], device: str) -> None:
    for name in ("disk", "net", "pcap"):
        if (value := getattr(here, name)) is not None and name not in takes:
            raise UsageError(f"{name}={value!r}: the machine has a virtio-{device}, which has no such thing")


def _disk(hello: Hello, disk: str | os.PathLike[str] | None, *, trusted: bool) -> Path | None:
    said = hello.texts["disk"]
    if hello.numbers["ram_disk"]:
        if disk is not None:
            raise UsageError(f"disk={os.fspath(disk)!r}: the machine has a RAM disk, which comes along")
        return None
    if disk is None and not (trusted and said):
        raise UsageError(f"the machine has a disk, there at {said or '?'}: say where it is here, with disk=")
    return Path(said if disk is None else disk)


def _model(hello: Hello, here: Here, options: catalogue.Options) -> Device:
    name = hello.texts["device"]
    if not hello.numbers["own"]:
        if here.device is not None:
            raise UsageError(f"device={here.device.name or here.device!r}: the machine has a virtio-{name}")
        return catalogue.make(name, options)
    if here.device is None:
        raise UsageError(f"the machine has a device of its user's own, {name!r}: say device=, an object of its class")
    model = catalogue.make(here.device, options)
    if model.name != name or len(model.queue_sizes) != hello.numbers["queues"]:
        raise UsageError(f"device={model.name!r} of {len(model.queue_sizes)} queues: the machine has {name!r}")
    return model


def _check_disk(hello: Hello, model: Device) -> None:
    disk = getattr(model, "image", None)
    if disk is not None and disk.is_ram and disk.sectors != hello.numbers["sectors"] <= RAM_DISK_SECTORS_MAX:
        disk.resize(hello.numbers["sectors"] * abi.SECTOR_BYTES)
    if disk is not None and disk.sectors != hello.numbers["sectors"]:
        raise UsageError(f"disk {disk.name} has {disk.sectors} sectors, the machine's has {hello.numbers['sectors']}")
