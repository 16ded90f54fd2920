"""Faults on demand: `vm.fault` makes a call of the host fail, and says so."""

from __future__ import annotations

import pytest
from rulebook import Boot

from labkit import UsageError


def test_a_fault_comes_as_often_as_planned(boot: Boot) -> None:
    """Twice means twice: the third START succeeds."""
    vm = boot("blk", bring_up=False, revision="0.14")
    vm.guest.negotiate()
    vm.fault.fail_assign(times=2)
    started = []
    for _ in range(3):
        vm.guest.set_driver_ok()
        started.append(vm.proxy.ioeventfd_started)
        vm.guest.clear_driver_ok()
    assert started == [False, False, True]
    assert [(e["call"], e.queue) for e in vm.trace.events("fault")] == [("assign", 0)] * 2
    assert vm.fault.planned == []


def test_a_fault_of_one_queue_leaves_the_others_alone(boot: Boot) -> None:
    """Planned for queue 2, it does not come for queue 0."""
    vm = boot("blk", bring_up=False)
    vm.fault.fail_assign(queue=2)
    vm.guest.negotiate(driver_ok=True)
    assert vm.proxy.ioeventfd_started
    assert "assign of queue 2: ENOSPC" in repr(vm.fault)
    vm.fault.clear()
    assert repr(vm.fault) == "<faults planned: none>"


@pytest.mark.parametrize(
    "wrong", [{"error": "ENOTHING"}, {"error": "errorcode"}, {"queue": 64}, {"queue": -1}, {"times": 0}]
)
def test_a_plan_that_makes_no_sense_is_refused(boot: Boot, wrong: dict[str, object]) -> None:
    """An errno that does not exist, a queue that cannot be, no times at all: the caller's mistake."""
    vm = boot("blk")
    with pytest.raises(UsageError):
        vm.fault.fail_assign(**wrong)  # type: ignore[arg-type]
