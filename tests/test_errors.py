"""Whose fault is it? Every error of the package says so, and what to do."""

from __future__ import annotations

import errno

import pytest

import labkit
from labkit.errors import GuestError, HostError, LabkitError, UsageError


@pytest.mark.parametrize("kind", [UsageError, GuestError, HostError])
def test_the_three_kinds_have_one_base_and_are_public(kind: type[LabkitError]) -> None:
    """`except labkit.LabkitError` catches all that labkit raises on purpose, and each kind has a public name."""
    assert issubclass(kind, labkit.LabkitError)
    assert getattr(labkit, kind.__name__) is kind
    assert kind.__name__ in labkit.__all__


def test_no_kind_is_another() -> None:
    """Who catches the guest's errors does not catch the host's."""
    kinds = {UsageError, GuestError, HostError}
    for kind in kinds:
        assert not any(issubclass(kind, other) for other in kinds - {kind})


def test_a_host_error_names_call_errno_and_mend() -> None:
    """The call that failed, the errno by name, the system's words, and what to do."""
    error = HostError("KVM_IOEVENTFD", errno.ENOSPC, "fewer queues")
    assert (error.call, error.errno, error.name) == ("KVM_IOEVENTFD", errno.ENOSPC, "ENOSPC")
    assert str(error) == "KVM_IOEVENTFD: ENOSPC (No space left on device); fewer queues"
    assert str(HostError("open", errno.EPERM)) == "open: EPERM (Operation not permitted)"


def test_an_errno_without_a_name_is_still_told() -> None:
    """A number the system does not know is shown as it is."""
    error = HostError("ioctl", 4095)
    assert error.name == "4095"
    assert "4095" in str(error)
