"""How does an action go on QEMU, and how on labkit? Two machines with the same protocol (play.Machine)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import labkit
from labkit.abi import AgentStatus, Command
from labkit.guest import StepFailed
from labkit.native import lib
from oracle import canonical, steps
from oracle.play import LoadOver
from oracle.qemu import Qemu
from oracle.scenarios import BAR0, FINISH, HOST_ACTS, RESIZE, RESIZED_BYTES, START, Scenario

RUNS_OF_A_LOAD = 100  # it is under way when its queue has been run that often
TIMEOUT_S = 60.0


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline, what
        os.sched_yield()


class QemuMachine:
    """QEMU. Its firmware does not touch the device, so all that is traced is the scenario's."""

    def __init__(self, qemu: Qemu) -> None:
        self._qemu = qemu
        self._stopped = self._reset = self._loaded = False

    def take(self, action: str) -> tuple[str, list[str]]:
        """Do an action; what the guest answered, and what was traced."""
        mark = self._qemu.mark()
        answer = self._do(action, mark)
        self._qemu.settle()
        traced = canonical.of_qemu(self._qemu.traced(mark), self._qemu.vcpu_thread)
        return steps.answer_line(answer) if answer else "", traced

    def _do(self, action: str, mark: int) -> str:
        if action in HOST_ACTS:
            self._host(action)
            return ""
        if action.startswith(START):
            self._loaded = True
            self._qemu.send(action.removeprefix(START))
            _until(lambda: len(self._qemu.traced(mark)) >= RUNS_OF_A_LOAD, "the load does not come under way")
            return ""
        self._loaded = False
        return self._qemu.answer() if action == FINISH else self._qemu.step(action)

    def _host(self, act: str) -> None:
        """A reset that finds the guest under load is followed by its `ready`, so the look comes before it."""
        if act != "system_reset":
            self._qemu.host(act)
        if self._loaded and self._qemu.has_answered():
            raise LoadOver
        if act == "system_reset":
            self._qemu.host(act)
        self._stopped = act == "stop" or (self._stopped and act != "cont")
        self._reset = self._reset or act == "system_reset"
        if self._reset and not self._stopped:
            self._qemu.wait_ready()
            self._reset = self._loaded = False


@contextmanager
def fresh_qemu(scenario: Scenario) -> Iterator[QemuMachine]:
    """A QEMU for one scenario."""
    with Qemu(ioeventfd=scenario.ioeventfd) as process:
        yield QemuMachine(process)


class LabkitMachine:
    """labkit, booted with `bring_up=False`, one vCPU and `irq="poll"`."""

    def __init__(self, vm: labkit.Machine) -> None:
        self._vm = vm
        self._bar0 = BAR0
        self._loaded: steps.Step | None = None
        self._reset = False

    def take(self, action: str) -> tuple[str, list[str]]:
        """Do an action; what the guest answered, and what was traced."""
        mark = self._vm.trace.mark()
        answer = self._do(action)
        if self._loaded is None:
            _until(self._is_settled, "the iothread does not serve its eventfds")
        events, lost = self._vm._board.feed.read(mark)
        assert not lost, "the feed is too small for what happens in one action"
        return answer, canonical.of_labkit(events)

    def _do(self, action: str) -> str:
        if action in HOST_ACTS:
            self._host(action)
            return ""
        if action.startswith(START):
            self._start(steps.parse(action.removeprefix(START), self._bar0))
            return ""
        if action == FINISH:
            assert self._loaded is not None, "nothing was started"
            step, self._loaded = self._loaded, None
            return self._answer(step, lambda: self._vm.guest._result(step.command, 0, TIMEOUT_S))
        step = steps.parse(action, self._bar0)
        return self._answer(step, lambda: self._vm.guest._step(step.command, *step.arguments))

    def _answer(self, step: steps.Step, ask: Callable[[], tuple[int, ...]]) -> str:
        try:
            results = ask()
        except StepFailed as error:
            if error.status is None:
                raise
            return steps.answer(step.command, error.status, ())
        if step.command is Command.NEGOTIATE:
            self._bar0 = results[steps.ANSWERS[step.command].index("bar0")]
        return steps.answer(step.command, AgentStatus.OK, results)

    def _start(self, step: steps.Step) -> None:
        queue = self._vm.proxy.device.vq[0]
        before = queue.runs
        self._loaded = step
        self._vm.guest._post(step.command, step.arguments, 0)
        _until(lambda: queue.runs - before >= RUNS_OF_A_LOAD, "the load does not come under way")

    def _host(self, act: str) -> None:
        if act == "stop":
            self._vm.pause()
        if self._loaded is not None and not self._is_loaded():
            raise LoadOver
        if act == "system_reset":
            self._vm.reset()
            self._loaded, self._reset = None, self._vm.state == "paused"
        if act == RESIZE:
            self._vm.resize_disk(RESIZED_BYTES)
        if act == "cont":
            self._vm.resume()
            if self._reset:
                self._vm.guest.parked()
            self._reset = False

    def _is_loaded(self) -> bool:
        return bool(lib.lk_step_busy(self._vm._board.cpu.vcpus[0].native))

    def _is_settled(self) -> bool:
        """The iothread reads an eventfd and runs its queue under the big lock, as one step."""
        with self._vm._board.locked():
            return not any(queue.notifier.pending for queue in self._vm.proxy.queues)
