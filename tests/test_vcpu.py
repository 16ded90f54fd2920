"""Is a guest entered only when it may be? What the vCPU thread and those who ask something of it promise each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from labkit import GuestError, Machine
from labkit.abi import PORT_CONSOLE, Command, Fault
from labkit.cpu.entry import lab_entry
from labkit.cpu.kvm import Kvm, KvmVcpu
from labkit.loader import lab_guest
from labkit.memory import GuestMemory
from labkit.native import ffi, lib

Boot = Callable[..., Machine]
IMMEDIATE_EXIT = 1  # offset in struct kvm_run
NO_SUCH_IOCTL = 0
NOBODY_THERE = 0x700  # a port that reads all ones


@pytest.fixture
def vcpu(leaves_nothing: None) -> Iterator[KvmVcpu]:  # noqa: ARG001 - ordered around this one
    """A vCPU that no thread runs."""
    memory = GuestMemory(16)
    kvm = Kvm(memory, 1)
    yield kvm.vcpus[0]
    kvm.close()
    memory.close()


def kept_out(vcpu: KvmVcpu) -> bool:
    """Would KVM_RUN come back at once?"""
    return bool(ffi.buffer(vcpu.native.run_page, 2)[IMMEDIATE_EXIT] != b"\0")


@pytest.mark.kvm
def test_no_guest_is_entered_before_its_state_is_loaded(vcpu: KvmVcpu) -> None:
    """Asked to run while its registers wait to be loaded, a vCPU is kept out until its thread has loaded them."""
    vcpu.enter(lab_entry(lab_guest("agent").entry, 0, 1, 0))
    lib.lk_vcpu_ask(vcpu.native, lib.ASK_RUN)
    assert kept_out(vcpu)


@pytest.mark.kvm
def test_a_guest_that_is_gone_is_not_entered(vcpu: KvmVcpu) -> None:
    """Retired and then asked to run, a vCPU is kept out: only new state brings it back."""
    lib.lk_vcpu_retire(vcpu.native)
    lib.lk_vcpu_ask(vcpu.native, lib.ASK_RUN)
    assert kept_out(vcpu)


def test_a_reset_while_paused_shows_the_entry(boot: Boot) -> None:
    """The registers of a machine that was reset and has not run yet are those it will start with."""
    vm = boot("blk", vcpus=2)
    vm.pause()
    vm.reset()
    for index in range(2):
        registers = vm.registers(index)
        assert (registers["rip"], registers["rdi"]) == (lab_guest("agent").entry, index)
    vm.resume()
    assert vm.guest.read(0).startswith(b"labkit")


def test_a_step_posted_before_the_new_guest_parks_is_done_by_it(boot: Boot) -> None:
    """Reset while paused: a step posted before the vCPU has loaded its state is not taken by the guest that is gone."""
    vm = boot("null", irq="poll")
    vm.guest.port_in(NOBODY_THERE, 1)
    vm.pause()
    vm.reset()
    vm.guest._post(Command.PORT_IN, (PORT_CONSOLE, 1), 0)
    vm.resume()
    assert vm.guest._result(Command.PORT_IN, 0, 5.0)[0] == PORT_CONSOLE


def test_state_that_cannot_be_loaded_is_one_crash(boot: Boot, cpu: str) -> None:
    """A load that the back end refuses is told once, with its errno, and the next reset mends it."""
    vm = boot("blk")
    vm.pause()
    board = vm._board
    bad = ffi.new("lk_load[]", [(NO_SUCH_IOCTL, ffi.NULL)])
    lib.lk_vcpu_load(board.cpu.vcpus[0].native, bad, 1)
    vm.resume()
    with pytest.raises(GuestError, match=rf"vCPU 0 crashed at rip=0x.*: {cpu} refused"):
        vm.wait(timeout_s=60)
    board.owner.call(lambda: None)
    assert len(vm.trace.events("crash")) == 1
    vm.reset()
    assert vm.guest.read(0).startswith(b"labkit")


def test_a_crash_that_a_reset_has_overtaken_is_over(boot: Boot) -> None:
    """The guest crashes while a reset waits for its turn: the machine that comes out of the reset runs."""
    vm = boot("blk")
    board = vm._board

    def reset_when_it_has_crashed() -> None:
        vm.guest._post(Command.FAULT, (Fault.TRIPLE,), 0)
        while board.crash is None or not vm.trace.events("crash"):
            os.sched_yield()
        board.reset()

    board.owner.call(reset_when_it_has_crashed)
    board.owner.call(lambda: None)  # what the crash had asked of the owner is done by now
    assert (vm.state, vm.crash) == ("running", None)
    assert vm.guest.read(0).startswith(b"labkit")
