"""Does a machine move whole? Its notifiers by R10 on both sides, its memory, its requests in flight, its load."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from moves import DESTINATIONS, SOURCES, WAIT_S, different_pages, gates, moved, parts
from recordings import recorded, wrong
from rulebook import Boot, owners, revisions

import labkit
from labkit import Machine, UsageError
from labkit.abi import BlkStatus, Command
from labkit.migration.progress import Progress
from labkit.trace.events import Gate

Listen = Callable[..., Any]


def kick_at_the_stop(vm: Machine) -> None:
    """A kick that is in the eventfd when the notifiers stop, and that the iothread has not seen."""
    fd = vm.proxy.notifiers.each[0].fd

    def kick(running: bool) -> None:  # under the big lock, before the rules hear of it
        if not running:
            os.eventfd_write(fd, 1)

    vm._board.runstate._listeners.insert(0, kick)


# -- the notifiers -----------------------------------------------------------------------------------------------------


@revisions()
def test_r10_moves_the_notifier_on_both_sides(boot: Boot, listen: Listen, revision: str) -> None:
    """Source: vmm -> none because PAUSE. Destination: none -> vmm because RESUME, one synthetic kick."""
    vm = boot("blk", revision=revision)
    there = moved(vm, listen())

    assert owners(vm)[-1] == ("vmm", "none", "R10", "PAUSE")
    assert owners(there) == [("none", "vmm", "R10", "RESUME")]
    assert (vm.state, there.state, there.proxy.revision) == ("migrated", "running", revision)
    there.guest.read(0)  # behind the synthetic kick in the iothread
    assert there.proxy.queues[0].notifier.synthetic == 1


@revisions()
def test_r5_a_kick_on_its_way_is_drained_at_the_source(boot: Boot, listen: Listen, revision: str) -> None:
    """Its request is done there, before the notifier is nobody's; the destination finds it completed."""
    vm = boot(revision=revision, irq="poll")
    vm.guest.read(0)
    vm.guest.add()
    vm.guest.publish()
    kick_at_the_stop(vm)
    mark = vm._board.feed.position()
    there = moved(vm, listen())

    told = vm.trace.events("drain", "request", "owner", queue=0, since=mark)
    assert [event.name for event in told] == ["drain", "request", "owner"]
    assert (told[0]["kicks"], told[-1]["after"]) == (1, "none")
    assert there.guest.wait().status == BlkStatus.OK
    assert there.trace.events("request", queue=0) == []


@revisions()
def test_r3_a_request_in_the_ring_is_found_at_the_destination(boot: Boot, listen: Listen, revision: str) -> None:
    """Nobody ever kicked for it: the one synthetic kick of the start does it."""
    vm = boot(revision=revision, irq="poll")
    vm.guest.read(0)
    vm.guest.add()
    vm.guest.publish()
    there = moved(vm, listen())
    assert there.guest.wait().status == BlkStatus.OK
    notifier = there.proxy.queues[0].notifier
    assert (notifier.synthetic, notifier.signalled, notifier.trapped) == (1, 0, 0)


@revisions()
def test_without_ioeventfd_nobody_owns_it_on_either_side(boot: Boot, listen: Listen, revision: str) -> None:
    """R1: the property is off, kicks trap before and after, and nothing is kicked that the guest did not kick."""
    vm = boot(revision=revision, ioeventfd=False)
    vm.guest.read(0)
    vm.guest.add()
    vm.guest.publish()
    there = moved(vm, listen())
    assert owners(vm) == owners(there) == []
    there.guest.kick()
    assert there.guest.wait().status == BlkStatus.OK
    notifier = there.proxy.queues[0].notifier
    assert (notifier.trapped, notifier.synthetic, notifier.signalled) == (1, 0, 0)


def test_r1_what_failed_at_the_source_is_not_carried(boot: Boot, listen: Listen) -> None:
    """R4 switched ioeventfd off for the source's life; the destination's host has its own say."""
    vm = boot(bring_up=False)
    vm.fault.fail_assign(0, "ENOSPC")
    vm.guest.negotiate(driver_ok=True)
    assert not vm.proxy.ioeventfd_started
    there = moved(vm, listen())
    assert owners(there) == [("none", "vmm", "R10", "RESUME")]
    assert there.guest.read(0).startswith(b"labkit")


@revisions()
def test_a_backend_gives_its_queues_back_before(boot: Boot, listen: Listen, revision: str) -> None:
    """R9: the pause takes them; at the destination there is no backend, and the VMM serves them by the rules."""
    vm = boot(revision=revision)
    vm.hand_over()
    vm.guest.read(0)
    there = moved(vm, listen())
    assert owners(vm)[-1][:2] == ("backend", "none")
    assert (vm.backend.has, there.backend.has, there.backend.wants) == ([], [], ())
    assert owners(there) == [("none", "vmm", "R10", "RESUME")]
    assert there.guest.read(0).startswith(b"labkit")


@revisions()
@pytest.mark.parametrize("irq", ["msix", "intx", "poll"])
def test_recordings_of_both_sides_tell_the_truth(
    boot: Boot, listen: Listen, tmp_path: Path, revision: str, irq: str
) -> None:
    """What the events say is what each machine shows in the end, and what a file of them says again."""
    vm = boot(revision=revision, irq=irq)
    vm.guest.read(0)
    kick_at_the_stop(vm)
    there = moved(vm, listen())
    there.guest.storm(20)
    there.pause()
    for machine, state in ((vm, "migrated"), (there, "paused")):
        assert wrong(recorded(machine)) == {}
        machine.trace.save(tmp_path / state)
        again = labkit.replay(tmp_path / state)
        assert again.state == state
        assert again.trace.events("owner", "gate", "drain") == machine.trace.events("owner", "gate", "drain")


# -- memory and state --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("irq", ["msix", "intx", "poll"])
@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_a_paused_machine_is_the_same_there(boot: Boot, listen: Listen, irq: str, vcpus: int) -> None:
    """Page by page and part by part; it stays paused, until it is resumed there."""
    vm = boot(irq=irq, vcpus=vcpus)
    vm.guest.write(3, b"kept".ljust(512, b"."))
    vm.guest.storm(30)
    vm.pause()
    before = parts(vm)
    there = moved(vm, listen())
    assert there.state == "paused"
    assert different_pages(vm, there) == []
    after = parts(there)
    assert {name for name in before if before[name] != after[name]} <= {"cpu"}
    there.resume()
    assert there.guest.read(3).startswith(b"kept")
    assert there.guest.storm(50).errors == 0


def test_what_the_device_writes_goes_along(boot: Boot, listen: Listen) -> None:
    """Used ring and buffers, written by the core while pages were on their way, are the same there."""
    vm, arrival = boot(vcpus=2), listen()
    with ThreadPoolExecutor(1) as beside:
        loading = beside.submit(vm.guest.storm, 50_000, bytes=4096)
        while vm.proxy.queues[0].used_idx == 0:
            os.sched_yield()

        def stop_at_last(progress: Progress) -> None:
            if (
                progress.gate is Gate.ROUND_SENT
                and progress.last
                and (progress.round == 3 or not progress.last.dirtied)
            ):
                vm.pause()

        vm.migrate(arrival.address, downtime_s=0, rounds=3, progress=stop_at_last)
        with pytest.raises(UsageError, match="moved away"):
            loading.result(WAIT_S)
    there = arrival.machine(WAIT_S)
    assert there.state == "paused"
    assert different_pages(vm, there) == []


def test_a_storm_goes_on_there(boot: Boot, listen: Listen) -> None:
    """The call that waited at the source says so, and the guest does the rest at the destination, without an error."""
    vm, arrival = boot(vcpus=2), listen()
    requests = 20_000
    with ThreadPoolExecutor(1) as beside:
        loading = beside.submit(vm.guest.storm, requests, think_ns=1000)
        while vm.proxy.queues[0].used_idx == 0:
            os.sched_yield()
        vm.migrate(arrival.address)
        with pytest.raises(UsageError, match="the machine has moved away, and the step goes on there"):
            loading.result(WAIT_S)
    there = arrival.machine(WAIT_S)
    for index in range(2):
        there.guest._wait_parked("storm", index, WAIT_S)
    _, done, errors, *_ = there.guest._result(Command.STORM, 0, WAIT_S)
    assert (done, errors) == (requests, 0)
    assert there.guest.storm(10).errors == 0


def test_a_machine_moves_again_and_again(boot: Boot, listen: Listen) -> None:
    """There, and on, and back to where it began: each time the same machine."""
    vm = boot()
    vm.guest.write(5, b"wanderer".ljust(512, b"."))
    for _ in range(4):
        vm = moved(vm, listen())
    assert vm.guest.read(5).startswith(b"wanderer")
    assert vm.guest.storm(50).errors == 0


# -- what is left ------------------------------------------------------------------------------------------------------


def test_what_has_moved_can_be_looked_at_and_closed(boot: Boot, listen: Listen) -> None:
    """Every command says that it has moved away; memory, registers, proxy, trace and itself can be looked at."""
    vm = boot()
    snapshot = vm.snapshot()
    there = moved(vm, listen())
    commands: list[Callable[[], object]] = [
        *(vm.pause, vm.resume, vm.reset, vm.hand_over, vm.take_back, vm.unplug, vm.plug, vm.snapshot),
        *(lambda: vm.restore(snapshot), lambda: vm.resize_disk(512), lambda: vm.migrate("unix:nobody.sock")),
    ]
    for command in commands:
        with pytest.raises(UsageError, match="the machine has moved away: here it can be looked at and closed"):
            command()
    with pytest.raises(UsageError, match="migrated: no guest step can be done"):
        vm.guest.read(0)
    assert vm.registers()["rip"] > 0
    assert vm.memory.read(0, 16) == there.memory.read(0, 16)
    assert "migrated" in repr(vm)
    assert vm.proxy.status
    assert vm.trace.events("gate")
    assert vm.console == there.console
    vm.close()
    assert there.guest.read(0).startswith(b"labkit")


def test_the_gates_come_in_order_on_both_sides(boot: Boot, listen: Listen) -> None:
    """Each is told to `progress=` and stands in the feed; the destination's begin before it has one."""
    here: list[Gate] = []
    yonder: list[Gate] = []
    vm, arrival = boot(), listen(progress=lambda progress: yonder.append(progress.gate))
    there = None
    vm.migrate(arrival.address, rounds=1, progress=lambda progress: here.append(progress.gate))
    there = arrival.machine(WAIT_S)
    order = list(SOURCES)
    order.remove(Gate.WELCOME_HEARD)
    order.insert(order.index(Gate.ROUND_SENT) + 1, Gate.WELCOME_HEARD)  # the first round does not wait for it
    assert here == order == gates(vm)
    assert yonder == list(DESTINATIONS)
    assert gates(there) == yonder[yonder.index(Gate.BUILT) :]


def test_rounds_are_limited(boot: Boot, listen: Listen) -> None:
    """Whatever the guest writes: as many rounds as were asked for, each with what was dirty before."""
    vm, arrival = boot(), listen()
    with ThreadPoolExecutor(1) as beside:
        loading = beside.submit(vm.guest.storm, 50_000)
        while vm.proxy.queues[0].used_idx == 0:
            os.sched_yield()
        going = vm.migrate(arrival.address, downtime_s=0, rounds=4)
        with pytest.raises(UsageError, match="moved away"):
            loading.result(WAIT_S)
    assert [one.number for one in going.rounds] == list(range(1, len(going.rounds) + 1))
    assert 1 <= len(going.rounds) <= 4
    assert len(going.rounds) == 4 or going.rounds[-1].dirtied == 0
    for before, after in zip(going.rounds, going.rounds[1:], strict=False):
        assert after.pages == before.dirtied
    assert going.pages >= sum(one.pages for one in going.rounds)
    assert 0 < going.downtime_s <= going.total_s


def test_an_idle_machine_needs_one_round(boot: Boot, listen: Listen) -> None:
    """Nothing is dirty again, so nothing is left to send but what the stop writes."""
    vm, arrival = boot(), listen()
    going = vm.migrate(arrival.address)
    assert [(one.number, one.dirtied) for one in going.rounds] == [(1, 0)]
    assert going.rounds[0].pages == len(vm._board.dirty.touched())


def test_the_handles_show_themselves(boot: Boot, listen: Listen) -> None:
    """A line for each figure, in a cell and as text; no times in them."""
    vm, arrival = boot(), listen()
    assert repr(arrival) == f"arrival\n  address    {arrival.address}\n  state      listening\n  last gate  -"
    going = vm.migrate(arrival.address, rounds=1)
    there = arrival.machine(WAIT_S)
    pages = going.pages
    assert repr(arrival).splitlines()[2:] == ["  state      here", f"  last gate  runs: round 1, {pages} pages"]
    assert "state      moved" in repr(going)
    assert f"rounds     1: {going.rounds[0].pages} pages, {going.rounds[0].dirtied} dirty again" in repr(going)
    for handle in (arrival, going):
        assert handle._repr_html_().startswith("<table><caption>")
    assert there.state == "running"


@pytest.mark.parametrize(
    "options", [{"downtime_s": -1}, {"rounds": 0}, {"rounds": True}, {"timeout_s": 0}, {"timeout_s": float("nan")}]
)
def test_limits_are_checked_before_anything_happens(boot: Boot, options: dict[str, Any]) -> None:
    """A slip in the call is told at once; the machine is not on its way."""
    vm = boot()
    with pytest.raises(UsageError, match=next(iter(options))):
        vm.migrate("unix:nobody.sock", **options)
    assert vm.guest.read(0)
