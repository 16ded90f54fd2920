"""What a test of the oracle can ask for: a QEMU, where there is one."""

from __future__ import annotations

import os

import pytest

from oracle import qemu


@pytest.fixture
def needs_qemu() -> None:
    """Skip without the QEMU that was recorded; where one was to be installed, its lack is a failure."""
    problem = qemu.why_not()
    if problem == qemu.INSTALL and os.environ.get("LABKIT_REQUIRE_QEMU") == "1":
        pytest.fail(problem)
    if problem:
        pytest.skip(problem)
