"""Is every event a gate behind which a person can hold a thread, and does a hold that was forgotten hang nobody?"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest
from pressing import interrupted

import labkit
from labkit import GuestError, UsageError
from labkit.holds import Gates
from labkit.trace.events import Kind
from labkit.trace.gates import ALSO, NAMES, kind_of, mask

Boot = Callable[..., labkit.Machine]
MUTATION = "lost-kick-at-deassign"
WAIT_S = 60.0


def asked(vm: labkit.Machine) -> None:
    """One request in the ring, published and not kicked."""
    vm.guest.add()
    vm.guest.publish()


def bring_to(vm: labkit.Machine, actor: str, gate: str) -> None:
    """It is held there, in the middle of what it is there for: a kick, a register write, a pause."""
    vm.hold(actor, gate)
    asked(vm)
    if actor == "iothread":
        vm.guest.kick()
    else:
        with pytest.raises(UsageError, match="held"):
            vm.guest.clear_driver_ok() if actor == "vcpu0" else vm.pause()
    assert vm.gates.wait(actor, WAIT_S) is not None


def settle(vm: labkit.Machine) -> None:
    """The kick of the start was served: nothing is pending, and nobody is at it."""
    while vm.proxy.queues[0].notifier.pending:
        os.sched_yield()
    with vm._board.locked():
        pass


def position(vm: labkit.Machine) -> int:
    """How many events there were."""
    return vm.trace.events()[-1].seq


def kinds(vm: labkit.Machine, since: int) -> list[str]:
    """What happened since then, by name."""
    return [event.name for event in vm.trace.events(since=since)]


@pytest.fixture
def vm(boot: Boot) -> labkit.Machine:
    """A machine whose driver is up and polls, at rest: the kick of the start was served."""
    vm = boot(irq="poll")
    settle(vm)
    return vm


# -- names -------------------------------------------------------------------------------------------------------------


def test_every_event_is_a_gate_by_its_name() -> None:
    """By the event's name with dashes or underscores, and by what it is in the path of a kick."""
    assert all(kind_of(kind.name.lower()) is kind for kind in Kind)
    assert kind_of("kick_eventfd") is kind_of("kick-eventfd") is kind_of("after-read") is Kind.KICK_EVENTFD
    assert NAMES.items() >= ALSO.items()
    assert mask(["woken", "before-handler"]) == 1 << Kind.WOKEN
    assert mask(None) == sum(1 << kind for kind in Kind)


@pytest.mark.parametrize("name", ["", "nowhere", None, 7])
def test_a_gate_that_is_none_is_refused(name: object) -> None:
    """With the names that there are."""
    with pytest.raises(UsageError, match="before-handler"):
        kind_of(name)  # type: ignore[arg-type]


def test_who_and_where_is_checked(vm: labkit.Machine) -> None:
    """An actor or a gate that is none is refused, and so is a step of who is not held."""
    with pytest.raises(UsageError, match="there are iothread, backend, main, vcpu0"):
        vm.hold("vcpu1")
    with pytest.raises(UsageError, match="gate 'nowhere'"):
        vm.hold("iothread", "nowhere")
    with pytest.raises(UsageError, match=r"vm.hold\('iothread'\)"):
        vm.step("iothread")
    assert list(vm.gates) == []


# -- holding -----------------------------------------------------------------------------------------------------------


def test_a_gate_is_an_event_a_breakpoint_and_a_place(vm: labkit.Machine) -> None:
    """Held behind the event, which is in the trace already; a step goes to the next event, and no further."""
    since = position(vm)
    vm.hold("iothread", "before-handler")
    asked(vm)
    vm.guest.kick()
    held = vm.gates.wait("iothread", WAIT_S)
    assert held == ("iothread", "woken", None)
    assert kinds(vm, since)[-2:] in (["woken", "step_done"], ["step_done", "woken"])
    stops = [vm.step("iothread", WAIT_S) for _ in range(4)]
    gates = [stop.gate for stop in stops if stop is not None]
    assert gates == ["wants-lock", "kick-eventfd", "queue-notify", "request"]
    vm.release("iothread")
    assert vm.guest.wait().used_len
    assert list(vm.gates) == []


def test_a_step_without_work_comes_to_no_gate(vm: labkit.Machine) -> None:
    """None, and it is held when it next has some."""
    vm.hold("iothread", "interrupt")
    asked(vm)
    vm.guest.kick()
    assert vm.gates.wait("iothread", WAIT_S) == ("iothread", "interrupt", 0)
    assert vm.step("iothread", 0.05) is None
    asked(vm)
    vm.guest.kick()
    assert vm.gates.wait("iothread", WAIT_S) == ("iothread", "woken", None)


def test_the_stopping_thread_drains_what_a_held_iothread_has_not_seen(vm: labkit.Machine) -> None:
    """R5, by hand: hold the iothread before its handler, kick, clear DRIVER_OK."""
    vm.hold("iothread", "before-handler")
    asked(vm)
    vm.guest.kick()
    assert vm.gates.wait("iothread", WAIT_S) is not None
    assert vm.proxy.queues[0].notifier.pending == 1
    since = position(vm)
    vm.guest.clear_driver_ok()
    served = vm.trace.events("request", since=since)
    assert [(event.actor, event.queue) for event in served] == [("vcpu0", 0)]
    queue = vm.proxy.queues[0]
    assert (queue.avail_idx, queue.used_idx) == (1, 1)
    vm.release()
    assert vm.guest.wait().used_len  # and the iothread, who comes too late, finds nothing


def test_without_the_drain_the_guest_waits_for_ever(boot: Boot) -> None:
    """The same with the mutation: the kick is lost, and the guest's wait says who was not held any more."""
    vm = boot(irq="poll", mutations=[MUTATION])
    settle(vm)
    vm.hold("iothread", "before-handler")
    asked(vm)
    vm.guest.kick()
    assert vm.gates.wait("iothread", WAIT_S) is not None
    vm.guest.clear_driver_ok()
    vm.release()
    with pytest.raises(GuestError, match=r"the device did not answer in time$"):
        vm.guest.wait(timeout_s=0.05)


def test_a_held_vcpu_is_told_to_whoever_waits_for_its_step(vm: labkit.Machine) -> None:
    """At once, and the step is done when it is let go."""
    vm.hold("vcpu0", "before-deassign")
    with pytest.raises(UsageError, match=r"DRIVER_OK: vcpu0 held behind detach of queue 0.*vm.step\('vcpu0'\)"):
        vm.guest.clear_driver_ok()
    step = vm.step("vcpu0", WAIT_S)
    assert step is not None and step.gate == "deassign"
    vm.release("vcpu0")
    vm.guest.parked()
    assert vm.proxy.queues[0].notifier.owner == "none"


def test_a_step_that_waits_for_a_held_actor_says_so(vm: labkit.Machine) -> None:
    """The guest gives up first, and the error names who is held and how he is let go."""
    vm.hold("iothread", "before-handler")
    asked(vm)
    vm.guest.kick()
    with pytest.raises(GuestError, match=r"in time; iothread held behind woken: vm.step\('iothread'\)"):
        vm.guest.wait(timeout_s=0.05)


def test_a_backend_is_held(vm: labkit.Machine) -> None:
    """In the middle of its queue, with its lock: a pause lifts that hold."""
    vm.hand_over()
    settle(vm)
    vm.hold("backend", "request")
    asked(vm)
    vm.guest.kick()
    assert vm.gates.wait("backend", WAIT_S) == ("backend", "request", 0)
    vm.pause()
    assert list(vm.gates) == []
    vm.resume()
    asked(vm)
    vm.guest.kick()
    assert vm.gates.wait("backend", WAIT_S) == ("backend", "request", 0)


# -- what a hold must not do -------------------------------------------------------------------------------------------


def test_a_held_machine_is_seen_and_looked_at(vm: labkit.Machine) -> None:
    """Who is held stands in the machine's table and in that of the gates; registers and statistics answer."""
    vm.hold("iothread", "before-handler")
    assert "to be held" in repr(vm.gates)
    asked(vm)
    vm.guest.kick()
    assert vm.gates.wait("iothread", WAIT_S) is not None
    assert "iothread  held behind woken" in repr(vm)
    assert "held behind woken" in vm._repr_html_()
    assert "held behind woken" in vm.gates._repr_html_()
    assert vm.registers()["rip"]
    assert isinstance(vm.statistics(), dict)
    assert [held.actor for held in vm.gates] == ["iothread"]  # it was in nobody's way
    vm.release()
    assert "held" not in repr(vm)
    assert "nobody" in repr(vm.gates)


@pytest.mark.parametrize(("actor", "gate"), [("iothread", "queue-notify"), ("vcpu0", "before-deassign")])
def test_a_hold_in_the_way_is_lifted_for_a_command_and_armed_again(vm: labkit.Machine, actor: str, gate: str) -> None:
    """Who has the big lock, and a vCPU that is to come out of the guest."""
    bring_to(vm, actor, gate)
    vm.pause()
    assert vm.state == "paused"
    assert list(vm.gates) == []
    assert "to be held" in repr(vm.gates)


def test_a_command_that_is_held_itself_gives_the_cell_back(vm: labkit.Machine) -> None:
    """And goes on when the main thread is let go."""
    vm.hold("main", "after-deassign")
    with pytest.raises(UsageError, match=r"main held behind deassign of queue 0 is in a command"):
        vm.pause()
    step = vm.step("main", WAIT_S)
    assert step is not None and step.gate in ("drain", "close-fd")
    vm.release("main")
    assert vm.registers()["rip"]  # after the pause
    assert vm.state == "paused"


@pytest.mark.parametrize(
    ("actor", "gate"), [("iothread", "woken"), ("iothread", "queue-notify"), ("vcpu0", "detach"), ("main", "deassign")]
)
def test_a_held_machine_can_be_closed(vm: labkit.Machine, actor: str, gate: str) -> None:
    """Whoever is held, and whatever he has; nothing is left (the fixture looks)."""
    bring_to(vm, actor, gate)
    vm.close()
    assert vm.state == "closed"


def test_a_hold_is_placed_while_a_command_waits(vm: labkit.Machine) -> None:
    """Who comes to his gate only when the command is under way is let go as well."""
    vm.hold("vcpu0", "register")
    with pytest.raises(UsageError, match="held"):
        vm.guest.clear_driver_ok()
    vm.reset()
    assert vm.state == "running"


def test_nobody_held_costs_no_event(vm: labkit.Machine) -> None:
    """Whoever wants a lock or wakes up says so only while somebody is to be held."""
    since = position(vm)
    asked(vm)
    vm.guest.kick()
    vm.guest.wait()
    vm.guest.clear_driver_ok()
    vm.guest.set_driver_ok()
    assert not {"wants_lock", "woken"} & set(kinds(vm, since))


def test_a_wait_for_a_gate_can_be_interrupted(vm: labkit.Machine) -> None:
    """And the hold is still there."""
    vm.hold("iothread", "before-handler")
    with interrupted(Gates.wait):
        vm.gates.wait("iothread", WAIT_S)
    asked(vm)
    vm.guest.kick()
    assert vm.gates.wait("iothread", WAIT_S) is not None


# -- closed meanwhile --------------------------------------------------------------------------------------------------


def test_a_closed_machine_holds_nobody(boot: Boot) -> None:
    """Its gates were freed with it: a look afterwards finds nobody, and a wait ends."""
    vm = boot()
    vm.hold("iothread")
    vm.close()
    assert list(vm.gates) == []
    assert "held behind" not in repr(vm)
    with pytest.raises(UsageError, match="the machine is closed"):
        vm.gates.wait("iothread")


@pytest.mark.parametrize("waits", ["gate", "step"])
def test_a_close_ends_the_wait_of_another_thread(boot: Boot, waits: str) -> None:
    """Whoever waits for a gate or for the guest is told; the core is freed when he has left it."""
    vm, told, began = boot(irq="poll"), list[BaseException](), threading.Event()

    def wait() -> None:
        began.set()
        try:
            vm.gates.wait("backend", WAIT_S) if waits == "gate" else vm.guest.wait(timeout_s=WAIT_S)
        except UsageError as error:
            told.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    began.wait()
    vm.close()
    waiting.join()
    assert [str(error).startswith("the machine is closed") for error in told] == [True]
