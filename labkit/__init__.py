"""labkit: boot tiny KVM guests from a notebook, and see who handles each virtqueue kick."""

import errno

from labkit.errors import GuestCrash, GuestError, HostError, LabkitError, UsageError
from labkit.loader import guest_image
from labkit.recording import replay

try:
    from labkit import rules
    from labkit.machine import Machine, boot
    from labkit.virtio.backends.link import link
    from labkit.virtio.devices.base import Device
except ModuleNotFoundError as missing:
    if missing.name != "labkit.native._core":
        raise

    def __getattr__(name: str) -> object:
        """Whoever asks for what needs the C core is told that there is none."""
        if name in __all__:
            hint = "install labkit again with gcc and linux/kvm.h there; labkit.replay() works without"
            raise HostError(f"labkit.{name} needs the C core, which was not built", errno.ENOENT, hint)
        raise AttributeError(f"module 'labkit' has no attribute {name!r}")


__all__ = [
    "Device",
    "GuestCrash",
    "GuestError",
    "HostError",
    "LabkitError",
    "Machine",
    "UsageError",
    "boot",
    "guest_image",
    "link",
    "replay",
    "rules",
]
__version__ = "0.1.0"
