"""labkit: boot tiny KVM guests from a notebook, and see who handles each virtqueue kick."""

from importlib import import_module
from types import ModuleType
from typing import Any

from labkit import rules
from labkit.errors import GuestCrash, GuestError, HostError, LabkitError, UsageError
from labkit.installation import VERSION
from labkit.loader import guest_image
from labkit.machine import Machine, boot
from labkit.receiving import listen, receive
from labkit.recording import replay
from labkit.snapshot import diff, load
from labkit.virtio.backends.link import link
from labkit.virtio.devices.base import Device

__all__ = [
    "Device",
    "GuestCrash",
    "GuestError",
    "HostError",
    "LabkitError",
    "Machine",
    "UsageError",
    "boot",
    "diff",
    "guest_image",
    "link",
    "listen",
    "load",
    "receive",
    "replay",
    "rules",
]
__version__ = VERSION


def __getattr__(name: str) -> ModuleType:
    """`labkit.races`, `museum`, `course` and `widgets`: imported when asked for; `import labkit` need not wait."""
    if name in ("course", "museum", "races", "widgets"):
        return import_module(f"labkit.{name}")
    raise AttributeError(f"module 'labkit' has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext labkit`: the magics of docs/ipython.md, and completion of gates, actors, revisions ..."""
    from labkit import ipython

    ipython.load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext labkit`."""
    from labkit import ipython

    ipython.unload(shell)
