"""What does a destination believe of its source, and what may whoever waits for a machine ask for?"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from moves import DESTINATIONS, WAIT_S
from rulebook import owners

import labkit
from labkit import Machine, UsageError, abi
from labkit.migration import source
from labkit.migration.hello import describe
from labkit.migration.wire import Frame, Kind, pack_state, unpack_state
from labkit.trace.events import Gate

DELAY_NS = 5_000_000  # of a request: longer than a driver looks for it before it halts


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
    assert (vm.state, owners(vm)) == ("running", [("none", "vmm", "R2", "DRIVER_OK")])


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
        (f'{{"bytes": {1 << 64}}}', b"abc"),
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
