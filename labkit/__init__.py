"""labkit: boot tiny KVM guests from a notebook, and see who handles each virtqueue kick."""

from labkit import rules
from labkit.errors import GuestCrash, GuestError, HostError, LabkitError, UsageError
from labkit.machine import Machine, boot

__all__ = ["GuestCrash", "GuestError", "HostError", "LabkitError", "Machine", "UsageError", "boot", "rules"]
__version__ = "0.1.0"
