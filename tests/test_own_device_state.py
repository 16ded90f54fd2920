"""Does a snapshot have what a device of one's own knows? It says so in `save`, and takes it in `load`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recordings import recorded, wrong
from rulebook import Boot

import labkit
from labkit import Machine, UsageError
from labkit.virtio.devices.chain import DeviceQueue

MOST = 1 << 20


class Sum(labkit.Device):
    """Adds up what it is sent, answers with the sum, and forgets it at a reset."""

    queue_sizes = (32,)

    def __init__(self) -> None:
        self.sum = 0

    def handle(self, queue: DeviceQueue) -> None:
        """One answer a chain."""
        for chain in queue:
            self.sum += sum(chain.read())
            queue.push(chain, struct.pack("<I", self.sum))

    def reset(self) -> None:
        """A new driver begins at nothing."""
        self.sum = 0

    def save(self) -> bytes:
        """Four bytes."""
        return struct.pack("<I", self.sum)

    def load(self, data: bytes) -> None:
        """Any other number of bytes is an error."""
        if len(data) != 4:
            raise ValueError(f"{len(data)} bytes, not 4")
        self.sum = struct.unpack("<I", data)[0]


class Odd(Sum):
    """A sum that saves and loads in ways that the test says, as long as it says so."""

    saves: Callable[[], Any] | None = None
    loads: Callable[[bytes], Any] | None = None

    def save(self) -> bytes:
        """As told."""
        return super().save() if self.saves is None else self.saves()  # type: ignore[no-any-return]

    def load(self, data: bytes) -> None:
        """As told."""
        if self.loads is not None:
            self.loads(data)
        super().load(data)


def fails(*_: object) -> None:
    """What slips."""
    raise RuntimeError("a slip")


def added(vm: Machine, numbers: bytes) -> int:
    """What the device answers."""
    answer = vm.guest.exchange(numbers, receive=4)
    return int.from_bytes(answer[:4], "little")


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["here", "from a file", "elsewhere"])
def test_the_device_goes_back_with_its_machine(boot: Boot, tmp_path: Path, way: str) -> None:
    """Its sum is that of the snapshot: in the same machine, by way of a file, and in another with such a device."""
    vm = boot(Sum())
    assert added(vm, b"\1\2") == 3
    snapshot = vm.snapshot()
    assert added(vm, b"\7") == 10
    if way == "from a file":
        snapshot.save(tmp_path / "snap")
        snapshot = labkit.load(tmp_path / "snap")
    target = boot(Sum(), bring_up=False) if way == "elsewhere" else vm
    for _ in range(2):
        target.restore(snapshot)
        assert added(target, b"\4") == 7
    vm.pause()
    assert wrong(recorded(vm)) == {}


def test_a_device_that_says_nothing_has_nothing_saved(boot: Boot) -> None:
    """`save` and `load` need not be there."""

    class Still(labkit.Device):
        def handle(self, queue: DeviceQueue) -> None:
            for chain in queue:
                queue.push(chain, b"yes")

    vm = boot(Still())
    snapshot = vm.snapshot()
    assert snapshot.parts["device"]["model"] == {"own": b""}
    vm.restore(snapshot)
    assert vm.guest.exchange(b"?", receive=3) == b"yes"
    snapshot.parts["device"]["model"]["own"] = b"something"
    with pytest.raises(UsageError, match=r"no load\(self, data\)"):
        vm.restore(snapshot)


def test_as_much_as_may_be_and_no_more(boot: Boot, tmp_path: Path) -> None:
    """1 MiB goes into a file and comes back; a byte more is the device's mistake, and so is what is no bytes."""
    device = Odd()
    vm = boot(device)
    got: list[bytes] = []
    device.saves, whole = lambda: bytes(MOST), vm.snapshot
    snapshot = whole()
    snapshot.save(tmp_path / "snap")
    device.loads = got.append
    with pytest.raises(UsageError, match="ValueError: 1048576 bytes, not 4"):
        vm.restore(labkit.load(tmp_path / "snap"))
    assert got[0] == bytes(MOST)
    for wrong_one, said in ((bytes(MOST + 1), "1048577 bytes"), (bytearray(4), "bytearray"), (None, "NoneType")):
        device.saves = lambda wrong_one=wrong_one: wrong_one
        with pytest.raises(UsageError, match=f"Odd.save returned {said}: bytes, at most 1048576"):
            whole()
    device.saves, device.loads = None, None
    vm.reset()
    vm.guest.negotiate(driver_ok=True)
    assert added(vm, b"\5") == 5


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_slip_in_save_is_told_and_changes_nothing(boot: Boot) -> None:
    """UsageError says where; the machine runs on, the device is whole, and another snapshot may work."""
    device = Odd()
    vm = boot(device)
    added(vm, b"\1")
    device.saves = fails
    with pytest.raises(UsageError, match=r"Odd\.save, line \d+: RuntimeError: a slip") as slip:
        vm.snapshot()
    assert isinstance(slip.value.__cause__, RuntimeError)
    assert (vm.state, vm.proxy.broken, device.error, device.inside) == ("running", False, None, "")
    device.saves = None
    vm.restore(vm.snapshot())
    assert added(vm, b"\1") == 2


@pytest.mark.parametrize("spoiled", [b"", b"12345"])
def test_what_cannot_be_loaded_changes_nothing(boot: Boot, spoiled: bytes) -> None:
    """UsageError says where; memory, rings and the device's own sum are what they were."""
    vm = boot(Sum())
    added(vm, b"\1")
    snapshot = vm.snapshot()
    added(vm, b"\2")
    before = vm.proxy.queues[0].used_idx
    snapshot.parts["device"]["model"]["own"] = spoiled
    with pytest.raises(UsageError, match=rf"Sum\.load, line \d+: ValueError: {len(spoiled)} bytes, not 4"):
        vm.restore(snapshot)
    assert (vm.state, vm.proxy.broken, vm.proxy.queues[0].used_idx) == ("running", False, before)
    assert added(vm, b"\3") == 6


def test_a_load_that_slips_half_way_is_undone(boot: Boot) -> None:
    """What it had changed by then it gets back from its own `save`."""
    device = Odd()
    vm = boot(device)
    snapshot = vm.snapshot()
    added(vm, b"\5")

    def half(data: bytes) -> None:
        if data == bytes(4):
            device.sum = 99
            fails()

    device.loads = half
    with pytest.raises(UsageError, match="a slip"):
        vm.restore(snapshot)
    assert (device.sum, vm.proxy.broken) == (5, False)


def test_the_device_is_left_alone_when_another_part_is_refused(boot: Boot) -> None:
    """Its state could be loaded, that of the CPU could not: the sum is what it was."""
    device = Sum()
    vm = boot(device)
    snapshot = vm.snapshot()
    added(vm, b"\5")
    snapshot.parts["cpu"]["back_end"] = "vax"
    with pytest.raises(UsageError, match="vax"):
        vm.restore(snapshot)
    assert device.sum == 5


def test_a_load_that_slips_when_it_counts_breaks_the_device(boot: Boot) -> None:
    """It could a moment ago: the machine goes on with a broken device, which says why, and a reset mends it."""
    device = Odd()
    vm = boot(device)
    snapshot = vm.snapshot()
    calls: list[bytes] = []

    def third(data: bytes) -> None:
        calls.append(data)
        if len(calls) == 3:
            fails()

    device.loads = third
    vm.restore(snapshot)
    assert vm.proxy.broken
    assert "Odd.load, line" in device.failure and "a slip" in device.failure
    vm.pause()
    assert wrong(recorded(vm)) == {}
    vm.resume()
    vm.guest.reset_device()
    vm.guest.negotiate(driver_ok=True)
    assert added(vm, b"\5") == 5


@pytest.mark.parametrize("own", [bytes(MOST + 1), "text", None, 7, [1], bytearray(5)])
def test_what_no_device_can_have_saved_never_reaches_it(boot: Boot, own: object) -> None:
    """Too long, or of another type: UsageError before any of its code is called."""
    device = Odd()
    vm = boot(device)
    snapshot = vm.snapshot()
    snapshot.parts["device"]["model"]["own"] = own
    device.loads = fails
    with pytest.raises(UsageError, match="own is not bytes, at most 1048576"):
        vm.restore(snapshot)
    device.loads = None
    assert added(vm, b"\1") == 1


def test_it_is_called_under_the_big_lock(boot: Boot) -> None:
    """No kick is served meanwhile."""
    device = Odd()
    vm = boot(device)
    mine: list[int] = []

    def look(*_: object) -> bytes:
        mine.append(labkit.native.lib.lk_lock_is_mine(vm._board.memory.native))
        return bytes(4)

    device.saves, device.loads = look, look
    vm.restore(vm.snapshot())
    assert len(mine) >= 4
    assert all(mine)
