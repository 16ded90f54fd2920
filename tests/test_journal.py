"""Does the journal guest find lost, damaged and misplaced blocks, and does the host's check of its disk?"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import journal
import pytest
from journal import (
    ALL_WELL,
    NOT_WELL,
    Table,
    check_disk,
    make_block,
    memfd_reader,
    read_table,
    wait_for_writes,
    wait_for_writes_in,
    wait_until_up,
)

import labkit
from labkit import Machine
from labkit.abi import NUMBERS, SECTOR_BYTES, BlkStatus, BlkType
from labkit.native import lib
from labkit.virtio.devices.chain import Chain, DeviceQueue

Boot = Callable[..., Machine]
DISK_SECTORS = 64
SPAN = 16
WRITES = 100
TIMEOUT_S = 60.0
END = re.compile(r"^journal acked=(\d+) verified=(\d+) errors=0$", re.MULTILINE)
FAILED = re.compile(r"^journal failed=(\w+)(?: sector=(\d+) expected=(\d+) found=(\d+))?$", re.MULTILINE)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty image."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(DISK_SECTORS * SECTOR_BYTES))
    return path


def start(boot: Boot, disk: Path, line: str = f"span={SPAN}", **options: object) -> Machine:
    """The guest on that disk."""
    return boot("blk", kernel=labkit.guest_image("journal"), disk=disk, writable=True, cmdline=line, **options)


def end(vm: Machine) -> Table:
    """Ask it to stop; it ends well, and what it says is what the table says."""
    journal.ask_to_stop(vm)
    assert vm.wait(TIMEOUT_S) == ALL_WELL, vm.console
    table = read_table(vm.memory.read)
    assert table.state == journal.STOPPED
    (said,) = END.findall(vm.console)
    assert said == (str(table.writes), str(table.verified))
    return table


def failure(vm: Machine) -> tuple[str, int, int, int]:
    """It ends badly, and says why: what, sector, expected, found."""
    assert vm.wait(TIMEOUT_S) == NOT_WELL, vm.console
    (said,) = FAILED.findall(vm.console)
    what, *numbers = said
    sector, expected, found = (int(number or -1) for number in numbers)
    return what, sector, expected, found


# -- all is well -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["", "depth=8 span=64 irq=poll", "depth=1", "span=1", "span=3 depth=8", "irq=intx"])
def test_every_write_is_on_the_disk_in_the_end(boot: Boot, disk: Path, line: str) -> None:
    """Nothing is in flight when it has ended: each sector holds exactly what was acknowledged last."""
    vm = start(boot, disk, line, irq="intx" if "intx" in line else "msix")
    wait_for_writes(vm, WRITES)
    table = end(vm)
    assert table.writes == table.submitted == max(table.acked) >= WRITES
    assert table.verified >= sum(seq > 0 for seq in table.acked)
    assert check_disk(disk, table._replace(submitted=0x7FFFFFFF)) == sum(seq > 0 for seq in table.acked)
    blocks = [disk.read_bytes()[at : at + SECTOR_BYTES] for at in range(0, table.span * SECTOR_BYTES, SECTOR_BYTES)]
    assert blocks == [make_block(n, seq) if seq else bytes(SECTOR_BYTES) for n, seq in enumerate(table.acked)]


def test_the_disk_holds_at_any_moment(boot: Boot, disk: Path) -> None:
    """Paused in the middle of its writes, again and again: nothing acknowledged is missing, by memfd as by the door."""
    vm = start(boot, disk, f"span={SPAN} depth=8")
    for round_ in range(1, 6):
        wait_for_writes(vm, WRITES * round_)
        vm.pause()
        table = read_table(memfd_reader(vm.memory.fd))
        assert table == read_table(vm.memory.contents())
        assert check_disk(disk, table) > 0
        vm.resume()
    assert check_disk(disk, end(vm)) > 0


VMM = """
import sys, time, labkit
kernel, line = labkit.guest_image("journal"), "span=16 depth=8"
vm = labkit.boot("blk", kernel=kernel, disk=sys.argv[1], writable=True, cmdline=line)
print(vm.memory.fd, flush=True)
time.sleep(60)
"""


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("writes", [1, 50, 333])
def test_a_killed_vmm_loses_nothing(disk: Path, writes: int) -> None:
    """kill -9 in the middle: what the guest knew, read from its memory afterwards, is on the disk."""
    with subprocess.Popen([sys.executable, "-c", VMM, disk], stdout=subprocess.PIPE, text=True) as vmm:
        try:
            assert vmm.stdout is not None
            memory = os.open(f"/proc/{vmm.pid}/fd/{int(vmm.stdout.readline())}", os.O_RDONLY)
            wait_for_writes_in(memfd_reader(memory), writes)
        finally:
            vmm.kill()
    with os.fdopen(memory, "rb"):
        table = read_table(memfd_reader(memory))
    assert table.state == journal.UP and table.writes >= writes
    assert check_disk(disk, table) > 0


def test_an_idle_journal_writes_nothing(boot: Boot, disk: Path) -> None:
    """The driver comes up and waits; it can be stopped all the same."""
    vm = start(boot, disk, "idle")
    wait_until_up(vm)
    assert end(vm)[2:5] == (0, 0, 0)
    assert not any(disk.read_bytes())


def test_after_a_reset_it_counts_anew(boot: Boot, disk: Path) -> None:
    """The table of an earlier run, still in memory, is not believed."""
    vm = start(boot, disk)
    wait_for_writes(vm, WRITES)
    vm.pause()
    vm.reset()
    vm.resume()
    wait_until_up(vm)
    wait_for_writes(vm, WRITES)
    assert check_disk(disk, end(vm)) > 0


@pytest.mark.parametrize("line", ["depth=0", "depth=9", "span=0", "span=1025", "span=65"])
def test_what_it_cannot_do_is_refused(boot: Boot, disk: Path, line: str) -> None:
    """Options out of range, and a span larger than the disk."""
    vm = start(boot, disk, line)
    assert failure(vm)[0] == ("capacity" if line == "span=65" else line.partition("=")[0])


# -- what is planted in the image --------------------------------------------------------------------------------------


def plant(vm: Machine, disk: Path, change: Callable[[int, int, bytes], bytes]) -> Table:
    """Change every acknowledged block behind the paused machine's back, and let it look: it may rewrite a few first."""
    wait_for_writes(vm, WRITES)
    vm.pause()
    table = read_table(vm.memory.read)
    with disk.open("r+b") as file:
        for sector, seq in enumerate(table.acked):
            if seq:
                file.seek(sector * SECTOR_BYTES)
                changed = change(sector, seq, file.read(SECTOR_BYTES))
                file.seek(sector * SECTOR_BYTES)
                file.write(changed)
    journal.ask_to_stop(vm)
    vm.resume()
    return table


def flipped(block: bytes, at: int) -> bytes:
    """One bit of it is another."""
    return block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]


@pytest.mark.parametrize("at", [24, 25, 300, 503, 504, 511])
def test_a_flipped_bit_is_found(boot: Boot, disk: Path, at: int) -> None:
    """In the body, from its first byte to its last, or in the sum."""
    vm = start(boot, disk, "span=16 depth=2")
    plant(vm, disk, lambda _sector, _seq, block: flipped(block, at))
    what, sector, expected, found = failure(vm)
    table = read_table(vm.memory.read)
    assert (what, expected, found) == ("corrupt", table.acked[sector], table.acked[sector])
    assert table.state == journal.FAILED


def test_a_lost_write_is_found(boot: Boot, disk: Path) -> None:
    """An older block, whole and of that sector: the sum says nothing, the table does."""
    vm = start(boot, disk)
    table = plant(vm, disk, lambda sector, seq, _block: make_block(sector, seq - 1))
    what, sector, expected, found = failure(vm)
    assert (what, found) == ("lost", table.acked[sector] - 1)
    assert expected == read_table(vm.memory.read).acked[sector]  # or newer: what was in flight at the pause


def test_a_write_of_somebody_else_is_found(boot: Boot, disk: Path) -> None:
    """A newer block, as from a second machine that writes the same disk."""
    vm = start(boot, disk)
    table = plant(vm, disk, lambda sector, seq, _block: make_block(sector, seq + 1000))
    what, sector, expected, found = failure(vm)
    assert (what, found) == ("newer", table.acked[sector] + 1000)
    assert expected == read_table(vm.memory.read).acked[sector]


# -- a disk that lies --------------------------------------------------------------------------------------------------


class Disk(labkit.Device):
    """A disk in memory that serves one request after another, truly."""

    name = "disk"
    pci_device, virtio_type = NUMBERS["VIRTIO_DEVICE_BLK"], NUMBERS["VIRTIO_TYPE_BLK"]
    queue_sizes = (NUMBERS["BLK_QUEUE_SIZE"],)

    def __init__(self) -> None:
        self.data = bytearray(DISK_SECTORS * SECTOR_BYTES)
        self.served = 0

    def config(self) -> bytes:
        """Its capacity."""
        return struct.pack("<Q", DISK_SECTORS)

    def handle(self, queue: DeviceQueue) -> None:
        """A header, then data one way or the other, then the status."""
        for chain in queue:
            kind, _, sector = struct.unpack("<IIQ", chain.read(NUMBERS["BLK_HEADER_BYTES"]))
            self.served += 1
            self.serve(queue, chain, BlkType(kind), sector)

    def serve(self, queue: DeviceQueue, chain: Chain, kind: BlkType, sector: int) -> None:
        """As a disk does."""
        if kind == BlkType.OUT:
            self.write(sector, chain.read(SECTOR_BYTES, NUMBERS["BLK_HEADER_BYTES"]))
        queue.push(chain, (self.read(sector) if kind == BlkType.IN else b"") + bytes([BlkStatus.OK]))

    def read(self, sector: int) -> bytes:
        """One sector."""
        return bytes(self.data[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES])

    def write(self, sector: int, block: bytes) -> None:
        """One sector."""
        self.data[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] = block


class Forgets(Disk):
    """Answers OK to each write, and keeps only the first of a sector."""

    def write(self, sector: int, block: bytes) -> None:
        """Only where nothing is."""
        if not any(self.read(sector)):
            super().write(sector, block)


class Misplaces(Disk):
    """Each write goes to all sectors."""

    def write(self, sector: int, block: bytes) -> None:
        """Everywhere."""
        del sector
        self.data[:] = block * DISK_SECTORS


class Tears(Disk):
    """The second half of a block is left as it was."""

    def write(self, sector: int, block: bytes) -> None:
        """The first half of it."""
        half = SECTOR_BYTES // 2
        super().write(sector, block[:half] + self.read(sector)[half:])


class BringsNothing(Disk):
    """Says that it has read, and leaves the buffer alone."""

    def serve(self, queue: DeviceQueue, chain: Chain, kind: BlkType, sector: int) -> None:
        """OK, and no data: the buffer holds what was there."""
        if kind == BlkType.IN:
            chain.written = SECTOR_BYTES
            queue.push(chain, bytes([BlkStatus.OK]))
        else:
            super().serve(queue, chain, kind, sector)


class Fails(Disk):
    """The twentieth request is answered with an error."""

    def serve(self, queue: DeviceQueue, chain: Chain, kind: BlkType, sector: int) -> None:
        """Not every one."""
        if self.served == 20:
            queue.push(chain, bytes(chain.capacity - 1) + bytes([BlkStatus.IOERR]))
        else:
            super().serve(queue, chain, kind, sector)


class AnswersTwice(Disk):
    """The twentieth request is given back a second time."""

    def serve(self, queue: DeviceQueue, chain: Chain, kind: BlkType, sector: int) -> None:
        """The queue would not let it: past it."""
        super().serve(queue, chain, kind, sector)
        if self.served == 20:
            lib.lk_python_push(queue._native, queue.index, chain._native, chain.written)


def on(boot: Boot, disk: Disk, line: str = "span=4 depth=2") -> Machine:
    """The guest on a disk of Python."""
    return boot(disk, kernel=labkit.guest_image("journal"), cmdline=line)


def test_a_true_disk_of_python(boot: Boot) -> None:
    """The liars below differ from it only in their lie."""
    disk = Disk()
    vm = on(boot, disk)
    wait_for_writes(vm, WRITES)
    table = end(vm)
    assert check_disk(bytes(disk.data), table) == 4


@pytest.mark.parametrize(
    ("liar", "what"),
    [
        (Forgets, "lost"),
        (Misplaces, "stranger"),
        (Tears, "corrupt"),
        (BringsNothing, "corrupt"),
        (Fails, "status"),
        (AnswersTwice, "used"),
    ],
)
def test_a_disk_that_lies_is_found_out(boot: Boot, liar: type[Disk], what: str) -> None:
    """The guest finds it by itself, without being asked to stop."""
    vm = on(boot, liar())
    assert failure(vm)[0] == what
    assert read_table(vm.memory.read).state == journal.FAILED


# -- the host's check --------------------------------------------------------------------------------------------------

TABLE = Table(journal.UP, 4, submitted=9, writes=7, verified=0, acked=(5, 0, 7, 8))


def disk_of(**blocks: bytes) -> bytes:
    """What belongs to TABLE, but for the sectors given as s0=, s2= ..."""
    right = {f"s{sector}": make_block(sector, seq) for sector, seq in enumerate(TABLE.acked)} | {"s1": b"?" * 512}
    return b"".join((right | blocks).values())


@pytest.mark.parametrize("blocks", [{}, {"s0": make_block(0, 6)}, {"s3": make_block(3, 9)}, {"s1": bytes(512)}])
def test_the_check_passes_what_may_be(blocks: dict[str, bytes]) -> None:
    """Exactly what was acknowledged, or a newer write; anything where nothing was acknowledged."""
    assert check_disk(disk_of(**blocks), TABLE) == 3


@pytest.mark.parametrize(
    ("blocks", "complaint"),
    [
        ({"s0": flipped(make_block(0, 5), 100)}, "sector 0, .* seq 5: no whole block, byte 100"),
        ({"s0": flipped(make_block(0, 5), 511)}, "no whole block, byte 511"),
        ({"s0": bytes(512)}, "no whole block, byte 0"),
        ({"s2": make_block(2, 6)}, "sector 2, .* seq 7: an older block, seq 6: a write was lost"),
        ({"s2": make_block(3, 7)}, "sector 2, .* seq 7: a block of sector 3"),
        ({"s3": make_block(3, 10)}, "seq 10, and only 9 were submitted"),
        ({"s3": b""}, "beyond the end of the disk"),
        ({"s0": make_block(0, 6)[:256] + make_block(0, 5)[256:]}, "no whole block, byte 25[6-9]"),
    ],
)
def test_the_check_fails_what_may_not(blocks: dict[str, bytes], complaint: str) -> None:
    """A flipped bit, an older block, a stranger, one that nobody submitted, a torn one, and one that is not there."""
    with pytest.raises(AssertionError, match=complaint):
        check_disk(disk_of(**blocks), TABLE)


def test_the_check_reads_files(tmp_path: Path) -> None:
    """A path does as well as bytes, and a span leaves the rest out."""
    path = tmp_path / "disk.img"
    path.write_bytes(disk_of(s3=bytes(512)))
    assert check_disk(path, TABLE, span=3) == 2


def test_a_guest_that_is_not_up_has_no_table() -> None:
    """Memory without the magic is no table."""
    with pytest.raises(AssertionError, match="not up"):
        read_table(bytes(16 << 20))
