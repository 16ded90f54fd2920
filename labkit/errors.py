"""Whose fault is it? Every error the package raises on purpose is one of these three."""

from __future__ import annotations

import errno as errno_names
import os
from collections.abc import Sequence


class LabkitError(Exception):
    """Base of the three below; nothing raises it itself."""


class UsageError(LabkitError):
    """The caller's: a bad argument, image or ELF, or a call that the machine's state does not allow."""


class GuestError(LabkitError):
    """The guest's: it crashed, broke its contract, or did not answer in time."""


class GuestCrash(GuestError):
    """The guest cannot go on. Where and why: `vcpu`, `rip`, `reason` in words, and the last events before it."""

    def __init__(self, vcpu: int, rip: int, reason: str, events: Sequence[object]) -> None:
        self.vcpu, self.rip, self.reason, self.events = vcpu, rip, reason, events
        super().__init__(f"vCPU {vcpu} crashed at rip={rip:#x}: {reason}")


class HostError(LabkitError):
    """The host's: a system call failed. `call` names it (the ioctl for KVM), `errno` says why."""

    def __init__(self, call: str, errno: int, hint: str = "") -> None:
        self.call = call
        self.errno = errno
        self.hint = hint
        self.name = errno_names.errorcode.get(errno, str(errno))
        super().__init__(f"{call}: {self.name} ({os.strerror(errno)})" + (f"; {hint}" if hint else ""))
