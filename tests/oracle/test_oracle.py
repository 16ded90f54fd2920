"""The oracle: every scenario on QEMU 7.2 and on labkit's revision "today", line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from labkit import Machine
from labkit.virtio.notifier import REVISIONS
from oracle import differences, qemu, recording
from oracle.machines import LabkitMachine, play_anew
from oracle.record import PAGE, fresh_qemu, table
from oracle.report import with_section
from oracle.scenarios import SCENARIOS, Scenario

RECORDED = recording.read()
REVISION = "today"

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


@each_scenario
@pytest.mark.usefixtures("needs_qemu")
def test_qemu_does_what_is_recorded(scenario: Scenario) -> None:
    """The recording that labkit is held against is what QEMU does; without KVM, all of it but the kernel's part."""
    recorded = RECORDED[scenario.name]
    expected = recorded if qemu.accelerator() == "kvm" else recording.without_kvm(recorded)
    assert play_anew(fresh_qemu, scenario) == expected


@pytest.mark.skipif(REVISION not in REVISIONS, reason=f"this version does not know revision={REVISION!r} yet")
@each_scenario
def test_labkit_does_what_qemu_does(scenario: Scenario, boot: Callable[..., Machine]) -> None:
    """labkit differs from QEMU where that is listed with its reason, and nowhere else."""

    @contextmanager
    def fresh_labkit() -> Iterator[LabkitMachine]:
        with boot("blk", irq="poll", bring_up=False, revision=REVISION) as vm:
            yield LabkitMachine(vm)

    listed = differences.DIFFERENCES.get(scenario.name)
    found = differences.between(RECORDED[scenario.name], play_anew(fresh_labkit, scenario))
    assert found == (listed.lines if listed else ())


def test_the_recording_is_whole() -> None:
    """Every scenario is recorded, once and with its present title, and no difference is listed for another."""
    played = {scenario: RECORDED.get(scenario.name, []) for scenario in SCENARIOS}
    assert recording.FILE.read_text() == recording.to_text(played), "make fidelity"
    assert all(played.values()), "make fidelity"
    assert set(differences.DIFFERENCES) <= {scenario.name for scenario in SCENARIOS}


def test_the_table_in_the_docs_is_that_of_the_recording() -> None:
    """The page shows what QEMU was recorded to do and where labkit differs, as the tests above have found."""
    page = PAGE.read_text()
    assert page == with_section(page, table()), "make fidelity"
