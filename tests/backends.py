"""Which CPU back ends can the tests use on this machine?"""

from __future__ import annotations

import os
from pathlib import Path

import labkit
from labkit.cpu import CHOSEN_BY, emulated, kvm
from labkit.native import HAS_KVM

KVM_DEVICE = Path(kvm.DEVICE)


def why_no_kvm() -> str:
    """Why KVM can run no guest on this machine, in labkit's own words; empty if it can."""
    try:
        os.close(kvm.open_device())
    except labkit.HostError as error:
        return str(error)
    return ""


def why_not_emulated() -> str:
    """The same for the emulated CPU."""
    try:
        emulated.load_library()
    except labkit.HostError as error:
        return str(error)
    return ""


def back_ends() -> tuple[str, ...]:
    """The CPU back ends that the tests run on: what $LABKIT_CPU names, or all that are here."""
    chosen = os.environ.get(CHOSEN_BY, "auto")
    if chosen != "auto":
        return (chosen,)
    has_kvm = HAS_KVM and KVM_DEVICE.exists()
    here = {"kvm": has_kvm, "emulated": not why_not_emulated()}  # one that is there but refuses must fail
    return tuple(name for name, there in here.items() if there)
