"""Does a machine move whole? Its notifiers by R10 on both sides, its requests in flight, and back if anything fails."""

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import labkit
from labkit import HostError, Machine, UsageError, abi
from labkit.trace.events import Gate
from rulebook import revisions

SOURCES = tuple(gate for gate in Gate if gate <= Gate.RUNS_HEARD)
DESTINATIONS = tuple(gate for gate in Gate if gate >= Gate.ACCEPTED)
WAIT_S = 20.0


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Listen on a unix socket of the test's own; every machine that comes is closed at the end."""
    arrivals = []

    def begin(**options: Any) -> Any:
        arrivals.append(labkit.listen(f"unix:{tmp_path}/{len(arrivals)}.sock", **options))
        return arrivals[-1]

    yield begin
    for arrival in arrivals:
        arrival.close()
        if arrival.state == "here":
            arrival.machine().close()


def owners(vm: Machine) -> list[tuple[object, ...]]:
    """Each change of owner of queue 0: from, to, cause, rule."""
    return [(e["before"], e["after"], e["cause"], e["rule"]) for e in vm.trace.events("owner", queue=0)]


@revisions()
def test_r10_moves_the_notifier_on_both_sides(boot: Callable[..., Machine], listen: Any, revision: str) -> None:
    """Source: vmm -> none because PAUSE. Destination: none -> vmm because RESUME, one synthetic kick."""
    vm, arrival = boot("blk", revision=revision), listen()
    vm.migrate(arrival.address)
    there = arrival.machine(WAIT_S)

    assert owners(vm)[-1] == ("vmm", "none", "PAUSE", "R10")
    assert owners(there) == [("none", "vmm", "RESUME", "R10")]
    assert (vm.state, there.state, there.proxy.revision) == ("migrated", "running", revision)
    there.guest.read(0)  # behind the synthetic kick in the iothread
    assert there.proxy.queues[0].notifier.synthetic == 1


def test_a_machine_without_its_device_stays(boot: Callable[..., Machine], listen: Any) -> None:
    """The machine that is made there has its device in its slot: one that was pulled out runs on here."""
    vm, arrival = boot("blk"), listen()
    vm.unplug()
    with pytest.raises(UsageError, match="unplugged"):
        vm.migrate(arrival.address)
    assert vm.state == "running"


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ({"revision": "today", "vcpus": 2}, r"revision='today', it has revision='v6'; vcpus=2, it has vcpus=1"),
        ({"device": "net"}, "device='net', it has device='blk'"),
        ({"kernel": abi.GUEST_IMAGES / "storm.elf"}, "it runs the lab's own guest"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_machine_than_expected_stays(
    boot: Callable[..., Machine], listen: Any, expect: dict[str, Any], said: str
) -> None:
    """Both sides hear of all that differs, before anything has moved."""
    vm, arrival = boot("blk", revision="v6"), listen(expect=expect)
    with pytest.raises(UsageError, match=said):
        vm.migrate(arrival.address)
    with pytest.raises(UsageError, match=said):
        arrival.machine(WAIT_S)
    assert (vm.state, owners(vm)) == ("running", [("none", "vmm", "DRIVER_OK", "R2")])


def test_what_was_expected_comes(boot: Callable[..., Machine], listen: Any) -> None:
    """Every name that can be expected, and its value here."""
    storm = labkit.guest_image("storm")
    kernel = {"kernel": storm, "cmdline": "requests=100000000 depth=4"}
    options = {"revision": "merged", "vcpus": 2, "memory_mib": 17, "irq": "intx", "ioeventfd": False}
    arrival = listen(expect=kernel | options | {"device": "blk", "writable": True})  # a RAM disk is
    boot("blk", **kernel, **options).migrate(arrival.address)
    assert arrival.machine(WAIT_S).state == "running"


def test_nobody_expects_what_no_machine_has(listen: Any) -> None:
    """A name that `boot` does not know, or a kernel that is not there, is a mistake at once."""
    with pytest.raises(UsageError, match="colour"):
        listen(expect={"colour": "blue"})
    with pytest.raises(UsageError, match="kernel"):
        listen(expect={"kernel": "/no/such/kernel"})
