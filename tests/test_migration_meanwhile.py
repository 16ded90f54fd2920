"""What may be asked of a machine while it is on its way, and what may happen to it? Never do two sides run it."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from moves import WAIT_S, at, moved
from rulebook import Boot

from labkit import GuestError, HostError, LabkitError, Machine, UsageError
from labkit.abi import Fault
from labkit.loader import guest_image
from labkit.trace.events import Gate

Listen = Callable[..., Any]
SECTOR = b"before".ljust(512, b".")
FDS_MAX = 60  # more than any machine opens
WHILE_IT_RUNS = (Gate.CONNECTED, Gate.HELLO_SENT, Gate.WELCOME_HEARD, Gate.ROUND_SENT)
HANDED_OVER = tuple(gate for gate in Gate if Gate.STOPPED <= gate <= Gate.YOURS_SENT)


class OnPurpose(Exception):
    """What a test raises at a gate."""


@pytest.fixture
def vm(boot: Boot) -> Machine:
    """One that has something to lose."""
    machine = boot()
    machine.guest.write(3, SECTOR)
    return machine


def runs_on(vm: Machine) -> None:
    """It is running, on its way nowhere, and works."""
    assert (vm.state, vm._board.migration) == ("running", None)
    assert vm.guest.read(3) == SECTOR


def commands(vm: Machine) -> dict[str, Callable[[], object]]:
    """What a user can ask, by name."""
    snapshot = vm.snapshot()
    return {
        **{
            name: getattr(vm, name)
            for name in ("pause", "resume", "reset", "unplug", "hand_over", "take_back", "snapshot")
        },
        "restore": lambda: vm.restore(snapshot),
        "migrate": lambda: vm.migrate("unix:elsewhere.sock"),
        "resize_disk": lambda: vm.resize_disk(512),
    }


# -- commands ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["snapshot", "restore", "migrate"])
@pytest.mark.parametrize("gate", WHILE_IT_RUNS, ids=lambda gate: gate.name)
def test_what_would_disturb_it_is_refused(vm: Machine, listen: Listen, gate: Gate, command: str) -> None:
    """Snapshots share the noting of what is written, and there is one way to go; the move itself goes on."""
    do = commands(vm)[command]

    def refused() -> None:
        with pytest.raises(UsageError, match="on its way to"):
            do()

    there = moved(vm, listen(), progress=at(gate, refused))
    assert there.guest.read(3) == SECTOR


@pytest.mark.parametrize("gate", WHILE_IT_RUNS, ids=lambda gate: gate.name)
def test_pause_and_resume_go_along(vm: Machine, listen: Listen, gate: Gate) -> None:
    """What was paused on the way arrives paused; what was resumed again runs."""
    there = moved(vm, listen(), progress=at(gate, vm.pause), rounds=1)
    assert there.state == "paused"
    there.resume()
    again = moved(there, listen(), progress=at(gate, lambda: (there.pause(), there.resume())), rounds=1)
    assert again.state == "running"
    assert again.guest.read(3) == SECTOR


@pytest.mark.parametrize("gate", WHILE_IT_RUNS, ids=lambda gate: gate.name)
def test_a_reset_goes_along(vm: Machine, listen: Listen, gate: Gate) -> None:
    """The guest starts again on the way, and is at its beginning there."""
    there = moved(vm, listen(), progress=at(gate, vm.reset), rounds=1)
    assert there.guest.read(3) == SECTOR
    assert there.proxy.queues[0].used_idx == 1


@pytest.mark.parametrize("gate", WHILE_IT_RUNS, ids=lambda gate: gate.name)
def test_without_its_device_it_stays(vm: Machine, listen: Listen, gate: Gate) -> None:
    """Unplugged on the way: there would be one there. It runs on, and the device can be put back."""
    arrival = listen()
    with pytest.raises(UsageError, match="unplugged"):
        vm.migrate(arrival.address, progress=at(gate, vm.unplug), rounds=1)
    assert vm.state == "running"
    with pytest.raises(UsageError, match="unplugged"):
        vm.migrate(listen().address)
    vm.plug()
    vm.guest.negotiate(driver_ok=True)
    assert vm.guest.read(3) == SECTOR
    with pytest.raises(LabkitError):
        arrival.machine(WAIT_S)


def test_another_size_of_its_disk_keeps_it(vm: Machine, listen: Listen) -> None:
    """The other side has made a disk of the size that it was told: resized on the way, the machine is refused."""
    arrival = listen()
    with pytest.raises(UsageError, match="sectors"):
        vm.migrate(arrival.address, progress=at(Gate.ROUND_SENT, lambda: vm.resize_disk(8192)), rounds=1)
    runs_on(vm)
    assert moved(vm, listen()).proxy.device.blk.sectors == 16


@pytest.mark.parametrize("gate", HANDED_OVER, ids=lambda gate: gate.name)
def test_nothing_is_asked_of_it_while_it_is_handed_over(vm: Machine, listen: Listen, gate: Gate) -> None:
    """Its state is on the wire: whoever is told of a gate cannot change it any more, and nobody runs it twice."""
    told = []

    def refused() -> None:
        for command in asked.values():
            with pytest.raises(UsageError, match=r"is being handed over|is on its way") as error:
                command()
            told.append(error)
        assert vm.state == "paused"

    asked = commands(vm)
    there = moved(vm, listen(), progress=at(gate, refused))
    assert len(told) == len(asked)
    assert (vm.state, there.state) == ("migrated", "running")
    assert there.guest.read(3) == SECTOR


@pytest.mark.parametrize("command", ["pause", "resume", "reset", "unplug", "hand_over", "restore", "resize_disk"])
def test_what_was_asked_too_late_finds_it_gone(vm: Machine, listen: Listen, command: str) -> None:
    """A command that waits while the machine is handed over does nothing to what is left of it."""
    do = commands(vm)[command]
    with ThreadPoolExecutor(1) as beside:
        asked: list[Any] = []

        def ask() -> None:
            asked.append(beside.submit(do))
            while vm._board.owner._requests.empty():  # behind this very hand-over
                os.sched_yield()

        there = moved(vm, listen(), progress=at(Gate.STOPPED, ask))
        with pytest.raises(UsageError, match="has moved away"):
            asked[0].result(WAIT_S)
    assert (vm.state, there.state) == ("migrated", "running")
    assert there.guest.read(3) == SECTOR


# -- the end of either -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", WHILE_IT_RUNS, ids=lambda gate: gate.name)
def test_it_can_be_closed_on_its_way(vm: Machine, listen: Listen, gate: Gate) -> None:
    """By whoever is told of a gate, or by another: nothing is left on either side."""
    arrival = listen()
    with pytest.raises(LabkitError):
        vm.migrate(arrival.address, progress=at(gate, vm.close))
    assert vm.state == "closed"
    with pytest.raises(LabkitError):
        arrival.machine(WAIT_S)


def test_another_thread_closes_it_on_its_way(vm: Machine, listen: Listen) -> None:
    """Closing calls it back first, and waits for that."""
    arrival = listen()
    with ThreadPoolExecutor(1) as beside:
        closing: list[Any] = []

        def close() -> None:
            closing.append(beside.submit(vm.close))
            while not going._cancelled:
                os.sched_yield()

        begun = threading.Event()
        going = vm.migrate(arrival.address, wait=False, progress=at(Gate.ROUND_SENT, lambda: begun.wait() and close()))
        begun.set()
        with pytest.raises(UsageError, match="cancelled"):
            going.wait(WAIT_S)
        closing[0].result(WAIT_S)
    assert vm.state == "closed"
    with pytest.raises(LabkitError):
        arrival.machine(WAIT_S)


def test_a_guest_that_crashes_on_its_way_stays(vm: Machine, listen: Listen) -> None:
    """There is nothing to go on with; its crash is told here, and a reset mends it."""

    def crash() -> None:
        with pytest.raises(GuestError):
            vm.guest.fault(Fault.TRIPLE)

    arrival = listen()
    with pytest.raises(UsageError, match="crashed: there is nothing to go on with there"):
        vm.migrate(arrival.address, progress=at(Gate.ROUND_SENT, crash), rounds=1)
    assert vm.state == "crashed"
    with pytest.raises(LabkitError):
        arrival.machine(WAIT_S)
    vm.reset()
    runs_on(vm)


def test_a_guest_that_ends_on_its_way_stays(boot: Boot, listen: Listen) -> None:
    """A kernel that came to its end: its exit code is told here."""
    vm = boot(kernel=guest_image("storm"), cmdline="irq=poll requests=10")
    with pytest.raises(UsageError, match="exited: there is nothing to go on with there"):
        vm.migrate(listen().address, progress=at(Gate.ROUND_SENT, lambda: vm.wait(WAIT_S)), rounds=1)
    assert (vm.state, vm.exit_code) == ("exited", 1)


def test_what_is_over_does_not_move(boot: Boot, listen: Listen) -> None:
    """A crashed machine, a closed one."""
    vm = boot()
    with contextlib.suppress(GuestError):
        vm.guest.fault(Fault.TRIPLE)
    with pytest.raises(UsageError, match="crashed: there is nothing to go on with there"):
        vm.migrate(listen().address)
    vm.close()
    with pytest.raises(UsageError, match="closed"):
        vm.migrate("unix:nobody.sock")


def test_a_snapshot_from_before_is_taken_up_after_a_failed_move(vm: Machine, listen: Listen) -> None:
    """What was written is the migration's affair while it lasts; afterwards the snapshot is restored whole."""

    def fail() -> None:
        vm.guest.storm(20)
        raise OnPurpose

    vm.pause()
    before = vm.snapshot()
    vm.resume()
    vm.guest.storm(20)
    with pytest.raises(OnPurpose):
        vm.migrate(listen().address, progress=at(Gate.ROUND_SENT, fail))
    vm.guest.storm(20)
    vm.restore(before)
    assert vm.snapshot().memory == before.memory
    vm.resume()
    runs_on(vm)


# -- no room -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """As a full disk: whoever writes beyond is refused."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_the_disk_there(vm: Machine, listen: Listen) -> None:
    """A RAM disk that the other host cannot hold: it says so, and the machine runs on here."""
    vm.guest.write(8192, b"far out".ljust(512))
    with contextlib.ExitStack() as limited:
        arrival = listen(progress=at(Gate.BUILT, lambda: limited.enter_context(files_no_longer_than(1 << 20))))
        with pytest.raises(UsageError, match="refuses the machine: pwrite: EFBIG"):
            vm.migrate(arrival.address)
        with pytest.raises(HostError, match="pwrite") as failed:
            arrival.machine(WAIT_S)
    assert failed.value.errno == errno.EFBIG
    runs_on(vm)


def test_no_room_for_its_memory_there(vm: Machine, listen: Listen) -> None:
    """A host that cannot make such a machine says so, before anything is stopped."""
    with contextlib.ExitStack() as limited:
        arrival = listen(progress=at(Gate.HELLO_HEARD, lambda: limited.enter_context(files_no_longer_than(1 << 20))))
        with pytest.raises(UsageError, match="refuses the machine"):
            vm.migrate(arrival.address)
        with pytest.raises(HostError):
            arrival.machine(WAIT_S)
    runs_on(vm)


def test_no_fd_is_left_there(vm: Machine, listen: Listen) -> None:
    """Whichever is the one too many: a clear error there, nothing left of what was begun, and the source runs on."""
    vm = moved(vm, listen())  # what is imported late is imported
    for more in range(FDS_MAX):
        with contextlib.ExitStack() as limited:
            limit = at(Gate.HELLO_HEARD, lambda more=more, limited=limited: limited.enter_context(few_files(more)))
            arrival = listen(progress=limit)
            with contextlib.suppress(UsageError):  # refused
                vm.migrate(arrival.address)
                break
            with pytest.raises(HostError, match="EMFILE"):
                arrival.machine(WAIT_S)
        runs_on(vm)
    assert arrival.machine(WAIT_S).guest.read(3) == SECTOR


@contextlib.contextmanager
def few_files(more: int) -> Iterator[None]:
    """No more than so many fds beside those that are open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(more + 1)]
    limit = max(free)
    for fd in free:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
