"""The oracle: every scenario on QEMU 7.2 and on labkit's revision "today", line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from labkit import Machine
from oracle import differences, qemu, recording
from oracle.machines import LabkitMachine, fresh_qemu
from oracle.play import Fresh, play_anew
from oracle.scenarios import SCENARIOS, Scenario

RECORDED = recording.read()

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


@each_scenario
@pytest.mark.usefixtures("needs_qemu", "leaves_nothing")
def test_qemu_does_what_is_recorded(scenario: Scenario) -> None:
    """The recording that labkit is held against is what QEMU does; without KVM, all of it but the kernel's part."""
    expected = RECORDED[scenario.name]
    if qemu.accelerator() != "kvm":
        expected = recording.without_kvm(expected)
        if scenario.kvm_only:
            pytest.skip("QEMU does this in another way where it emulates")
    assert play_anew(fresh_qemu, scenario) == expected


@pytest.fixture
def fresh_labkit(boot: Callable[..., Machine]) -> Fresh:
    """What makes a labkit for one scenario."""

    @contextmanager
    def fresh(scenario: Scenario) -> Iterator[LabkitMachine]:
        with boot("blk", irq="poll", bring_up=False, revision="today", ioeventfd=scenario.ioeventfd) as vm:
            yield LabkitMachine(vm)

    return fresh


@each_scenario
def test_labkit_does_what_qemu_does(scenario: Scenario, fresh_labkit: Fresh) -> None:
    """labkit differs from QEMU where that is listed with its reason, and nowhere else."""
    listed = differences.DIFFERENCES.get(scenario.name)
    found = differences.between(RECORDED[scenario.name], play_anew(fresh_labkit, scenario))
    assert found == (listed.lines if listed else ())


def test_the_recording_is_whole() -> None:
    """Every scenario is recorded, once and with its present title, and no difference is listed for another."""
    played = {scenario: RECORDED.get(scenario.name, []) for scenario in SCENARIOS}
    assert recording.FILE.read_text() == recording.to_text(played), "make fidelity"
    assert all(played.values()), "make fidelity"
    assert set(differences.DIFFERENCES) <= {scenario.name for scenario in SCENARIOS}
