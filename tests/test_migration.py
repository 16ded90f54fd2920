"""Does a machine move whole? Its notifiers by R10 on both sides, its requests in flight, and back if anything fails."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rulebook import revisions

import labkit
from labkit import Machine, UsageError, abi
from labkit.migration import source
from labkit.migration.hello import describe
from labkit.migration.wire import Frame, Kind, pack_state, unpack_state
from labkit.trace.events import Gate

SOURCES = tuple(gate for gate in Gate if gate <= Gate.RUNS_HEARD)
DESTINATIONS = tuple(gate for gate in Gate if gate >= Gate.ACCEPTED)
WAIT_S = 20.0
DELAY_NS = 5_000_000  # of a request: longer than a driver looks for it before it halts


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


@pytest.mark.parametrize("gate", [gate for gate in DESTINATIONS if gate < Gate.YOURS_HEARD])
def test_who_is_told_of_a_gate_may_end_the_arrival(boot: Callable[..., Machine], listen: Any, gate: Gate) -> None:
    """In whichever thread the word comes, closing does not wait for that thread; the source runs on."""
    vm = boot("blk")

    def told(progress: Any) -> None:
        if progress.gate is gate:
            arrival.close(WAIT_S * 1000)

    arrival = listen(progress=told)
    with pytest.raises(labkit.LabkitError):
        vm.migrate(arrival.address)
    with pytest.raises(labkit.LabkitError):
        arrival.machine(WAIT_S)
    assert (vm.state, arrival.state) == ("running", "failed")
    assert vm.guest.read(0).startswith(b"labkit RAM disk")


def test_interrupts_that_were_set_up_meanwhile(boot: Callable[..., Machine], listen: Any) -> None:
    """What the source told of MSI-X at first is no more than a guess: what comes with the state counts."""
    vm, arrival = boot("blk", irq="msix", delay_ns=DELAY_NS, bring_up=False), listen()

    def told(progress: Any) -> None:
        if progress.gate is Gate.HELLO_SENT:
            vm.guest.negotiate(driver_ok=True)

    vm.migrate(arrival.address, progress=told)
    there = arrival.machine(WAIT_S)
    assert there.guest.read(0).startswith(b"labkit RAM disk")
    assert there.guest.storm(10, 1).interrupts > 0


@pytest.mark.parametrize("said", ["no hexadecimal", "00"])
def test_a_guess_that_is_none(boot: Callable[..., Machine], listen: Any, monkeypatch: Any, said: str) -> None:
    """An MSI-X table that no device has is refused, and the source runs on."""
    vm, arrival = boot("blk"), listen()
    monkeypatch.setattr(source, "describe", lambda *machine: {**describe(*machine), "msix": said})
    with pytest.raises(UsageError, match=r"msix|MSI-X table of 1 bytes"):
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


def state_frame(text: str, apart: bytes = b"") -> Frame:
    """STATE with that JSON, and those bytes behind it."""
    return Frame(Kind.STATE, memoryview(struct.pack("<I", len(text)) + text.encode() + apart))


def test_a_state_comes_as_it_went() -> None:
    """Bytes, empty ones too, at any depth and in their order."""
    value = {"a": [b"first", {"b": b"", "n": 1 << 64}], "c": {"d": b"second", "e": "text"}}
    assert unpack_state(Frame(Kind.STATE, memoryview(pack_state(value)))) == value


@pytest.mark.parametrize(
    ("text", "apart"),
    [
        ("", b""),
        ("{", b""),
        ("[" * 100_000, b""),
        ('{"bytes": 4}', b"abc"),
        ('{"bytes": 2}', b"abc"),
        ('{"bytes": -1}', b"abc"),
        ('{"bytes": "3"}', b"abc"),
        ('[{"bytes": 3}, {"bytes": 3}]', b"abc"),
    ],
)
def test_a_state_that_is_none(text: str, apart: bytes) -> None:
    """Bytes that are not there, bytes for nobody, and no JSON at all."""
    with pytest.raises(UsageError, match="STATE cannot be read"):
        unpack_state(state_frame(text, apart))


@pytest.mark.parametrize("payload", [b"", b"\0\0\0", b"\xff\xff\xff\xff{}"])
def test_a_state_without_its_length(payload: bytes) -> None:
    """Or with one that leads beyond its end."""
    with pytest.raises(UsageError, match="STATE cannot be read"):
        unpack_state(Frame(Kind.STATE, memoryview(payload)))
