"""Does the C core walk a ring as a legacy virtio-blk device must? No KVM: the test is the driver, by hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from rings import (
    DATA,
    HEADERS,
    INDIRECT,
    MEMORY_BYTES,
    NEXT,
    NO_INTERRUPT,
    SECTOR,
    TABLES,
    WRITE,
    Descriptor,
    Rig,
    Ring,
    chained,
)

from labkit.abi import NUMBERS, BlkStatus, BlkType, Feature
from labkit.native import lib
from labkit.trace.events import Broken, Run
from labkit.virtio.backends.image import open_image
from labkit.virtio.queue import Queue

pytestmark = pytest.mark.usefixtures("leaves_nothing")

SECTORS = 8
PORT = 0xC010
UNKNOWN_TYPE = 0x77
BIG_QUEUE = NUMBERS["BLK_QUEUE_SIZE"]


def content(sector: int) -> bytes:
    """What sector `sector` of the test's disk holds."""
    return bytes([sector + 1]) * SECTOR


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw image of 8 sectors, each full of its own number + 1."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(content(sector) for sector in range(SECTORS)))
    return path


@pytest.fixture
def rig(disk: Path) -> Iterator[Rig]:
    """A read-only disk of 8 sectors behind a queue of 8."""
    rig = Rig(image=open_image(disk, writable=False))
    yield rig
    rig.close()


@pytest.fixture
def writable(disk: Path) -> Iterator[Rig]:
    """The same disk, writable."""
    rig = Rig(image=open_image(disk, writable=True))
    yield rig
    rig.close()


# -- one request -------------------------------------------------------------------------------------------------------


def test_a_read_of_one_sector_reports_513_bytes(rig: Rig) -> None:
    """used.len counts what the device wrote: 512 bytes of data and the status byte; used.id is the head."""
    rig.serve(rig.request(BlkType.IN, sector=3, slot=1))
    assert rig.ring.used_idx == 1
    assert rig.ring.used_entry(0) == (3, 513)
    assert rig.status(1) == BlkStatus.OK
    assert rig.data_of(1) == content(3)


def test_a_write_arrives_in_the_image(writable: Rig, disk: Path) -> None:
    """The image file holds what was written, its other sectors are as before, and used.len is the status byte alone."""
    writable.memory.write(DATA, b"w" * SECTOR)
    writable.serve(writable.request(BlkType.OUT, sector=2))
    assert writable.status() == BlkStatus.OK
    assert writable.ring.used_entry(0) == (0, 1)
    assert disk.read_bytes() == b"".join(b"w" * SECTOR if n == 2 else content(n) for n in range(SECTORS))


def test_what_was_written_is_read_back(writable: Rig) -> None:
    """A read after a write in the same run sees the new data."""
    writable.memory.write(DATA, bytes(range(256)) * 2)
    writable.serve(writable.request(BlkType.OUT, 7), writable.request(BlkType.IN, 7, slot=1))
    assert writable.data_of(1) == bytes(range(256)) * 2


def test_a_read_only_disk_refuses_a_write(rig: Rig, disk: Path) -> None:
    """A write to a read-only disk ends with IOERR and changes nothing."""
    before = disk.read_bytes()
    rig.serve(rig.request(BlkType.OUT, sector=0))
    assert rig.status() == BlkStatus.IOERR
    assert rig.ring.used_entry(0) == (0, 1)
    assert disk.read_bytes() == before


@pytest.mark.parametrize("type", [BlkType.IN, BlkType.OUT])
@pytest.mark.parametrize(
    ("sector", "size"),
    [(SECTORS, SECTOR), (SECTORS - 1, 2 * SECTOR), (1 << 63, SECTOR), ((1 << 64) - 1, SECTOR), (1 << 55, SECTOR)],
)
def test_beyond_the_end_of_the_disk_is_an_error(writable: Rig, disk: Path, type: int, sector: int, size: int) -> None:
    """A request that touches a sector beyond the last ends with IOERR, however large its number, and moves nothing."""
    writable.serve(writable.request(type, sector, size))
    assert writable.status() == BlkStatus.IOERR
    assert writable.ring.used_entry(0) == (0, 1)
    assert writable.data_of(0, size) == bytes(size)
    assert disk.stat().st_size == SECTORS * SECTOR


def test_the_last_sector_can_be_read(rig: Rig) -> None:
    """The boundary itself is inside."""
    rig.serve(rig.request(BlkType.IN, SECTORS - 1))
    assert rig.status() == BlkStatus.OK
    assert rig.data_of() == content(SECTORS - 1)


@pytest.mark.parametrize("type", [BlkType.IN, BlkType.OUT])
@pytest.mark.parametrize("size", [1, 511, 513])
def test_a_part_of_a_sector_is_an_error(writable: Rig, type: int, size: int) -> None:
    """Data that is not a whole number of sectors ends with IOERR."""
    writable.serve(writable.request(type, 0, size))
    assert writable.status() == BlkStatus.IOERR


def test_an_unknown_type_is_unsupported(rig: Rig) -> None:
    """A type the device does not know ends with UNSUPP, and the queue goes on."""
    rig.serve(rig.request(UNKNOWN_TYPE), rig.request(BlkType.IN, 1, slot=1))
    assert (rig.status(0), rig.status(1)) == (BlkStatus.UNSUPP, BlkStatus.OK)
    assert rig.ring.used_entry(0) == (0, 1)


def test_get_id_answers_the_name_of_the_image(rig: Rig) -> None:
    """GET_ID writes 20 bytes, the image's name filled up with zeros, and the status byte."""
    rig.serve(rig.request(BlkType.GET_ID, size=20))
    assert rig.status() == BlkStatus.OK
    assert rig.ring.used_entry(0) == (0, 21)
    assert rig.data_of(0, 20) == b"disk.img".ljust(20, b"\0")


@pytest.mark.parametrize("size", [0, 19])
def test_get_id_needs_twenty_bytes(rig: Rig, size: int) -> None:
    """GET_ID with too small a buffer ends with IOERR and writes no part of the name."""
    rig.serve(rig.request(BlkType.GET_ID, size=size))
    assert rig.status() == BlkStatus.IOERR
    assert rig.data_of(0, 20) == bytes(20)


def test_a_flush_succeeds(writable: Rig) -> None:
    """FLUSH needs no data and ends with OK."""
    writable.serve(writable.request(BlkType.FLUSH, size=0))
    assert writable.status() == BlkStatus.OK
    assert writable.ring.used_entry(0) == (0, 1)


def test_a_read_without_data_succeeds(rig: Rig) -> None:
    """Zero sectors from a sector that exists are no error."""
    rig.serve(rig.request(BlkType.IN, 0, size=0))
    assert rig.status() == BlkStatus.OK
    assert rig.ring.used_entry(0) == (0, 1)


def test_an_image_that_shrank_is_an_error_not_a_crash(writable: Rig, disk: Path) -> None:
    """A sector that the file has lost meanwhile ends with IOERR."""
    os.truncate(disk, SECTOR)
    writable.serve(writable.request(BlkType.IN, 5))
    assert writable.status() == BlkStatus.IOERR


# -- how a request may be cut into descriptors -------------------------------------------------------------------------


def test_a_header_may_be_split(rig: Rig) -> None:
    """The 16 bytes of the header may lie in several descriptors; what counts is their order."""
    header = rig.header(0, BlkType.IN, 4)
    pieces = [Descriptor(header.gpa + at, size) for at, size in ((0, 1), (1, 7), (8, 8))]
    rig.ring.put(chained([*pieces, rig.data(0), rig.status_byte(0)]))
    rig.serve(0)
    assert rig.status() == BlkStatus.OK
    assert rig.data_of() == content(4)


def test_header_and_data_of_a_write_may_share_a_descriptor(writable: Rig, disk: Path) -> None:
    """Data begins where the header ends, wherever that is."""
    header = writable.header(0, BlkType.OUT, 6)
    writable.memory.write(DATA, writable.memory.read(header.gpa, 16) + b"s" * SECTOR)
    writable.ring.put(chained([Descriptor(DATA, 16 + SECTOR), writable.status_byte(0)]))
    writable.serve(0)
    assert writable.status() == BlkStatus.OK
    assert disk.read_bytes()[6 * SECTOR : 7 * SECTOR] == b"s" * SECTOR


def test_data_and_status_of_a_read_may_share_a_descriptor(rig: Rig) -> None:
    """The status byte is the last writable byte of the chain, also at the end of the data."""
    rig.ring.put(chained([rig.header(0, BlkType.IN, 1), rig.data(0, SECTOR + 1)]))
    rig.serve(0)
    assert rig.ring.used_entry(0) == (0, 513)
    assert rig.data_of(0, SECTOR + 1) == content(1) + bytes([BlkStatus.OK])


def test_data_may_lie_in_many_descriptors() -> None:
    """126 descriptors of 512 bytes each are filled in order, with one header before and one status byte after."""
    parts = BIG_QUEUE - 2
    pattern = b"".join(bytes([n]) * SECTOR for n in range(parts))
    pieces = [Descriptor(DATA + n * SECTOR, SECTOR, WRITE) for n in range(parts)]
    with closing(Rig(num=BIG_QUEUE)) as rig:
        os.pwrite(rig.image.fd, pattern, 0)
        rig.ring.put(chained([rig.header(0, BlkType.IN), *pieces, rig.status_byte(0)]))
        rig.serve(0)
        assert rig.ring.used_entry(0) == (0, parts * SECTOR + 1)
        assert rig.memory.read(DATA, len(pattern)) == pattern


def test_data_may_be_cut_inside_a_sector(rig: Rig) -> None:
    """Only the sum has to be whole sectors; single descriptors may be of any length."""
    pieces = [Descriptor(DATA + at, size, WRITE) for at, size in ((0, 1), (1, 700), (701, 323))]
    rig.ring.put(chained([rig.header(0, BlkType.IN, 2), *pieces, rig.status_byte(0)]))
    rig.serve(0)
    assert rig.status() == BlkStatus.OK
    assert rig.data_of(0, 2 * SECTOR) == content(2) + content(3)


def test_a_chain_may_jump_about_in_the_table(rig: Rig) -> None:
    """`next` leads, not the position in the table; used.id is the head."""
    rig.ring.put([Descriptor(rig.data(0).gpa, SECTOR, WRITE | NEXT, 7)], 2)
    rig.ring.put([Descriptor(rig.header(0, BlkType.IN, 5).gpa, 16, NEXT, 2)], 6)
    rig.ring.put([rig.status_byte(0)], 7)
    rig.serve(6)
    assert rig.ring.used_entry(0) == (6, 513)
    assert rig.data_of() == content(5)


def test_buffers_may_end_where_memory_ends(rig: Rig) -> None:
    """The last byte of memory is memory."""
    gpa = MEMORY_BYTES - SECTOR
    rig.ring.put(chained([rig.header(0, BlkType.IN, 3), Descriptor(gpa, SECTOR, WRITE), rig.status_byte(0)]))
    rig.serve(0)
    assert rig.status() == BlkStatus.OK
    assert rig.memory.read(gpa, SECTOR) == content(3)


# -- indirect tables ---------------------------------------------------------------------------------------------------


def indirect(rig: Rig, sector: int = 0) -> None:
    """A read of one sector whose three descriptors stand in a table of their own; descriptor 0 points to it."""
    parts = chained([rig.header(0, BlkType.IN, sector), rig.data(0), rig.status_byte(0)])
    rig.memory.write(TABLES, b"".join(part.packed() for part in parts))
    rig.ring.put([Descriptor(TABLES, 16 * len(parts), INDIRECT)])


def test_an_indirect_table_is_followed_when_accepted(rig: Rig) -> None:
    """With INDIRECT_DESC accepted, a chain may stand in its own table."""
    rig.accept(Feature.INDIRECT_DESC)
    indirect(rig, sector=4)
    rig.serve(0)
    assert rig.ring.used_entry(0) == (0, 513)
    assert rig.data_of() == content(4)


def test_an_indirect_table_may_be_longer_than_the_queue(rig: Rig) -> None:
    """A chain in a table of its own is bound by that table, not by the ring."""
    rig.accept(Feature.INDIRECT_DESC)
    pieces = [Descriptor(DATA + n * 64, 64, WRITE) for n in range(4 * SECTOR // 64)]
    parts = chained([rig.header(0, BlkType.IN, 1), *pieces, rig.status_byte(0)])
    assert len(parts) > rig.ring.num
    rig.memory.write(TABLES, b"".join(part.packed() for part in parts))
    rig.ring.put([Descriptor(TABLES, 16 * len(parts), INDIRECT)])
    rig.serve(0)
    assert rig.data_of(0, 4 * SECTOR) == b"".join(content(n) for n in range(1, 5))


def test_the_end_of_a_chain_may_be_indirect(rig: Rig) -> None:
    """Direct descriptors first, then one that leads to the rest."""
    rig.accept(Feature.INDIRECT_DESC)
    rest = chained([rig.data(0), rig.status_byte(0)])
    rig.memory.write(TABLES, b"".join(part.packed() for part in rest))
    rig.ring.put(chained([rig.header(0, BlkType.IN, 2), Descriptor(TABLES, 32, INDIRECT)]))
    rig.serve(0)
    assert rig.data_of() == content(2)


# -- runs, indices, interrupts -----------------------------------------------------------------------------------------


def test_one_run_serves_all_that_is_there(rig: Rig) -> None:
    """Two requests in the ring are served in order by one run, with one interrupt at the end."""
    rig.serve(rig.request(BlkType.IN, 1), rig.request(BlkType.IN, 2, slot=1))
    assert [rig.ring.used_entry(n) for n in range(2)] == [(0, 513), (3, 513)]
    assert (rig.vq.runs, rig.vq.requests, rig.vq.interrupts) == (1, 2, 1)
    assert [event["head"] for event in rig.events("request")] == [0, 3]


def test_a_run_of_an_empty_ring_does_nothing(rig: Rig) -> None:
    """A kick too many looks at the ring, and neither answers nor interrupts."""
    assert rig.run() == 1
    assert (rig.ring.used_idx, rig.vq.runs, rig.vq.interrupts) == (0, 1, 0)
    assert rig.device.isr == 0


def test_the_indices_wrap_after_65535() -> None:
    """More than 65,536 requests through one ring: the 16-bit indices wrap and nothing is lost or repeated."""
    batch = BIG_QUEUE // 2
    heads, runs = [2 * slot for slot in range(batch)], 65536 // batch + 1
    with closing(Rig(num=BIG_QUEUE)) as rig:
        rig.memory.write(HEADERS, bytes(16))
        for head in heads:
            rig.ring.put(chained([Descriptor(HEADERS, 16), rig.data(0, SECTOR + 1)], head), head)
        for _ in range(runs):
            rig.serve(*heads)
        assert rig.vq.requests == runs * batch == 65536 + batch
        assert rig.ring.used_idx == rig.vq.last_avail == rig.vq.used_idx == batch
        assert [rig.ring.used_entry(n) for n in range(batch)] == [(head, 513) for head in heads]
        assert not rig.device.broken


def test_a_driver_that_wants_no_interrupt_gets_none(rig: Rig) -> None:
    """avail.flags NO_INTERRUPT is respected; cleared again, interrupts come again."""
    rig.ring.set_avail_flags(NO_INTERRUPT)
    rig.serve(rig.request())
    assert (rig.ring.used_idx, rig.vq.interrupts, rig.device.isr) == (1, 0, 0)
    rig.ring.set_avail_flags(0)
    rig.serve(rig.request())
    assert (rig.ring.used_idx, rig.vq.interrupts, rig.device.isr) == (2, 1, lib.ISR_QUEUE)


def test_an_emptied_ring_interrupts_with_notify_on_empty(rig: Rig) -> None:
    """NOTIFY_ON_EMPTY, once accepted, interrupts in spite of NO_INTERRUPT when the ring has run empty."""
    rig.accept(Feature.NOTIFY_ON_EMPTY)
    rig.ring.set_avail_flags(NO_INTERRUPT)
    rig.serve(rig.request())
    assert rig.vq.interrupts == 1


def test_notify_on_empty_means_empty(rig: Rig) -> None:
    """While requests wait in the ring, NO_INTERRUPT holds, NOTIFY_ON_EMPTY or not."""
    rig.accept(Feature.NOTIFY_ON_EMPTY)
    rig.ring.set_avail_flags(NO_INTERRUPT)
    rig.device.stopping = 1  # the run ends after one request
    rig.serve(rig.request(), rig.request(slot=1))
    assert (rig.ring.used_idx, rig.vq.interrupts) == (1, 0)


def test_a_stop_cuts_a_run_short_and_the_rest_is_run_later(rig: Rig) -> None:
    """While the machine stops, one request is finished and the queue says it has more; the next run does the rest."""
    rig.device.stopping = 1
    rig.serve(rig.request(), rig.request(slot=1))
    assert (rig.ring.used_idx, rig.vq.unfinished) == (1, 1)
    rig.device.stopping = 0
    assert rig.run(Run.RESUME) == 1
    assert (rig.ring.used_idx, rig.vq.unfinished) == (2, 0)
    assert [event["by"] for event in rig.events("queue_notify")] == ["trap", "resume"]


def test_an_interrupt_without_msix_shows_in_isr(rig: Rig) -> None:
    """The queue bit of ISR is set and the event says which way the interrupt went."""
    rig.serve(rig.request())
    assert rig.device.isr == lib.ISR_QUEUE
    assert [event["way"] for event in rig.events("interrupt")] == ["isr"]


# -- kicks and who counts them -----------------------------------------------------------------------------------------


def test_trapped_kicks_are_counted(rig: Rig) -> None:
    """Each write that traps counts once for its queue, whatever its width, and runs it (R14)."""
    for width in (1, 2, 4):
        assert lib.lk_queue_trap(rig.device, 0, width, PORT) == 1
    assert (rig.vq.trapped, rig.vq.runs) == (3, 3)
    assert [event["width_bytes"] for event in rig.events("kick_trap")] == [1, 2, 4]
    assert len(rig.events("queue_notify")) == 3


@pytest.mark.parametrize("value", [64, 0xFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_kick_of_a_queue_beyond_63_is_ignored(rig: Rig, value: int) -> None:
    """R12: an index of 64 or more runs nothing; it is compared unsigned, so 0xffffffff is no -1."""
    assert lib.lk_queue_trap(rig.device, value, 4, PORT) == 0
    (event,) = rig.events("kick_ignored")
    assert (event.queue, event["value"], event["why"]) == (None, value, "index")
    assert rig.events("queue_notify", "kick_trap") == []


def test_a_kick_without_a_ring_is_ignored(rig: Rig) -> None:
    """R12: a queue without a descriptor table is not run; the kick is counted all the same."""
    lib.lk_device_reset(rig.device)
    assert lib.lk_queue_trap(rig.device, 0, 2, PORT) == 0
    assert (rig.vq.trapped, rig.vq.runs) == (1, 0)
    assert [event["why"] for event in rig.events("kick_ignored")] == ["no_ring"]


@pytest.mark.parametrize("idx", [0, 1])
def test_a_ring_for_a_queue_that_does_not_exist_harms_nobody(rig: Rig, idx: int) -> None:
    """A PFN on a queue of no descriptors is not taken, and a kick finds no ring: nothing is read, nothing written."""
    lib.lk_queue_set_pfn(rig.device, 5, 0x20)
    rig.memory.write(0x20002, bytes([idx]))
    before = rig.memory.read(0, MEMORY_BYTES)
    assert lib.lk_queue_trap(rig.device, 5, 2, PORT) == 0
    assert [event["why"] for event in rig.events("kick_ignored")] == ["no_ring"]
    assert rig.device.vq[5].pfn == 0
    assert rig.memory.read(0, MEMORY_BYTES) == before


def test_a_notifier_tells_the_synthetic_kick_from_real_ones(rig: Rig) -> None:
    """R3: the eventfd is born with 1, which is nobody's kick; what is read beyond it was signalled by the guest."""
    fd = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    rig.vq.notifier_fd, rig.vq.synthetic_due = fd, 1
    os.eventfd_write(fd, 2)
    assert lib.lk_notifier_take(rig.device, 0, Run.IOTHREAD) == 3
    assert (rig.vq.synthetic, rig.vq.signalled, rig.vq.drained) == (1, 2, 0)
    os.eventfd_write(fd, 5)
    assert lib.lk_notifier_take(rig.device, 0, Run.DRAIN) == 5
    assert (rig.vq.synthetic, rig.vq.signalled, rig.vq.drained) == (1, 7, 5)
    assert [(event.name, event["kicks"], event["synthetic"]) for event in rig.events("kick_eventfd", "drain")] == [
        ("kick_eventfd", 2, 1),
        ("drain", 5, 0),
    ]
    os.close(fd)


def test_a_notifier_nobody_signalled_takes_nothing(rig: Rig) -> None:
    """Test-and-clear of a count of 0, or of no eventfd at all, is no kick and no event."""
    assert lib.lk_notifier_take(rig.device, 0, Run.DRAIN) == 0
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    rig.vq.notifier_fd = fd
    assert lib.lk_notifier_take(rig.device, 0, Run.DRAIN) == 0
    assert rig.events("kick_eventfd", "drain") == []
    os.close(fd)


# -- how a guest breaks its ring ---------------------------------------------------------------------------------------


def broken_by(*descriptors: Descriptor, features: tuple[Feature, ...] = ()) -> Callable[[Rig], None]:
    """A way to break the ring: these descriptors from 0 on, and head 0 published."""

    def spoil(rig: Rig) -> None:
        rig.accept(*features)
        rig.ring.put(descriptors)
        rig.ring.publish(0)

    return spoil


def ring_at(pfn: int) -> Callable[[Rig], None]:
    """A ring at this page frame."""
    return lambda rig: lib.lk_queue_set_pfn(rig.device, 0, pfn)


def avail_idx(idx: int) -> Callable[[Rig], None]:
    """avail.idx jumps there."""
    return lambda rig: rig.ring.set_avail_idx(idx)


def nested_tables(rig: Rig) -> None:
    """An indirect table that holds an indirect descriptor."""
    rig.memory.write(TABLES, Descriptor(TABLES, 16, INDIRECT).packed())
    broken_by(Descriptor(TABLES, 16, INDIRECT), features=ACCEPTED)(rig)


def chain_through(at: int, next: int) -> Callable[[Rig], None]:
    """A chain whose descriptor `at` leads to `next`."""
    links = [Descriptor(HEADERS + n, 1, NEXT, n + 1 if n != at else next) for n in range(8)]
    return broken_by(*links)


ACCEPTED = (Feature.INDIRECT_DESC,)
IN_PART, OUT_PART = Descriptor(DATA, SECTOR, WRITE), Descriptor(HEADERS, 16)
LAST_PAGE = MEMORY_BYTES // 4096 - 1

WAYS: list[tuple[Broken, str, Callable[[Rig], None]]] = [
    (Broken.RING_OUTSIDE, "table beyond memory", ring_at(LAST_PAGE + 1)),
    (Broken.RING_OUTSIDE, "highest page frame", ring_at(0xFFFFFFFF)),
    (
        Broken.RING_OUTSIDE,
        "indirect table beyond memory",
        broken_by(Descriptor(MEMORY_BYTES - 16, 32, INDIRECT), features=ACCEPTED),
    ),
    (
        Broken.RING_OUTSIDE,
        "indirect table past 2**64",
        broken_by(Descriptor((1 << 64) - 16, 32, INDIRECT), features=ACCEPTED),
    ),
    (Broken.AVAIL_JUMPED, "by one too many", avail_idx(9)),
    (Broken.AVAIL_JUMPED, "backwards", avail_idx(0xFFFF)),
    (Broken.HEAD, "first that does not exist", lambda rig: rig.ring.publish(8)),
    (Broken.HEAD, "largest", lambda rig: rig.ring.publish(0xFFFF)),
    (Broken.NEXT, "first that does not exist", chain_through(3, 8)),
    (Broken.NEXT, "largest", chain_through(0, 0xFFFF)),
    (Broken.LOOP, "to itself", chain_through(0, 0)),
    (Broken.LOOP, "after all eight", chain_through(7, 0)),
    (Broken.ORDER, "readable after writable", broken_by(*chained([OUT_PART, IN_PART, OUT_PART, IN_PART]))),
    (Broken.EMPTY_BUFFER, "readable", broken_by(Descriptor(HEADERS, 0))),
    (Broken.EMPTY_BUFFER, "writable", broken_by(*chained([OUT_PART, Descriptor(DATA, 0, WRITE)]))),
    (Broken.EMPTY_BUFFER, "outside", broken_by(Descriptor(1 << 63, 0))),
    (Broken.BUFFER_OUTSIDE, "by one byte", broken_by(Descriptor(MEMORY_BYTES - 15, 16))),
    (Broken.BUFFER_OUTSIDE, "past 2**64", broken_by(Descriptor((1 << 64) - 8, 16))),
    (Broken.BUFFER_OUTSIDE, "4 GiB long", broken_by(*chained([OUT_PART, Descriptor(0, 0xFFFFFFFF, WRITE)]))),
    (Broken.INDIRECT, "not accepted", broken_by(Descriptor(TABLES, 16, INDIRECT))),
    (Broken.INDIRECT, "not whole entries", broken_by(Descriptor(TABLES, 40, INDIRECT), features=ACCEPTED)),
    (Broken.INDIRECT, "empty", broken_by(Descriptor(TABLES, 0, INDIRECT), features=ACCEPTED)),
    (Broken.INDIRECT, "1025 entries", broken_by(Descriptor(TABLES, 1025 * 16, INDIRECT), features=ACCEPTED)),
    (Broken.INDIRECT, "with more behind", broken_by(Descriptor(TABLES, 16, INDIRECT | NEXT, 1), features=ACCEPTED)),
    (Broken.INDIRECT, "nested", nested_tables),
    (Broken.REQUEST_HEADER, "one byte short", broken_by(*chained([Descriptor(HEADERS, 15), IN_PART]))),
    (Broken.REQUEST_HEADER, "no room for the status", broken_by(OUT_PART)),
    (Broken.REQUEST_HEADER, "only writable parts", broken_by(IN_PART)),
]


@pytest.mark.parametrize(("reason", "spoil"), [pytest.param(w[0], w[2], id=f"{w[0].name}: {w[1]}") for w in WAYS])
def test_a_broken_ring_breaks_the_device_until_reset(rig: Rig, reason: Broken, spoil: Callable[[Rig], None]) -> None:
    """The reason is told once, nothing is written, later kicks are ignored, and after a reset the device works."""
    spoil(rig)
    before = rig.memory.read(0, MEMORY_BYTES)
    rig.run()
    assert rig.device.broken
    assert [event["reason"] for event in rig.events("broken")] == [reason.name.lower()]
    assert rig.memory.read(0, MEMORY_BYTES) == before

    assert lib.lk_queue_trap(rig.device, 0, 2, PORT) == 0
    assert rig.events("kick_ignored")[-1]["why"] == "broken"
    rig.new_ring()
    assert rig.run() == 0, "a new ring alone does not mend it"

    lib.lk_device_reset(rig.device)
    rig.ring = rig.new_ring()
    rig.serve(rig.request(BlkType.IN, 2))
    assert not rig.device.broken
    assert rig.status() == BlkStatus.OK
    assert rig.vq.inuse == 0


def test_every_way_to_break_a_ring_is_tried() -> None:
    """Each reason of events.h that is the guest's fault has at least one row above."""
    assert {reason for reason, _, _ in WAYS} == set(Broken) - {Broken.DEVICE_CODE}


def test_requests_before_the_broken_one_are_answered(rig: Rig) -> None:
    """What was served before the ring broke is in the used ring, and the guest is told."""
    rig.serve(rig.request(BlkType.IN, 1), 8)
    assert rig.device.broken
    assert rig.ring.used_entry(0) == (0, 513)
    assert rig.vq.interrupts == 1


def test_a_used_ring_outside_memory_is_seen_before_any_request_runs(disk: Path) -> None:
    """A device that could not give an answer back does not start: no request runs, and the ring breaks once."""
    with closing(Rig(num=BIG_QUEUE, image=open_image(disk, writable=True))) as rig:
        rig.ring = ring = Ring(rig.memory, BIG_QUEUE, LAST_PAGE)
        lib.lk_queue_set_pfn(rig.device, 0, LAST_PAGE)
        assert ring.avail < MEMORY_BYTES <= ring.used
        before = disk.read_bytes()
        ring.publish(rig.request(BlkType.OUT, 0), rig.request(BlkType.OUT, 1, slot=1))
        rig.run()
        assert [event["reason"] for event in rig.events("broken")] == ["ring_outside"]
        assert rig.events("request", "interrupt") == []
        assert disk.read_bytes() == before


def test_a_reset_forgets_the_ring_and_keeps_the_counts(rig: Rig) -> None:
    """Rings, features, ISR and vectors go; queue size, kick counts and requests served stay."""
    rig.accept(Feature.INDIRECT_DESC)
    rig.serve(rig.request())
    lib.lk_queue_trap(rig.device, 0, 2, PORT)
    lib.lk_device_reset(rig.device)
    vq = rig.vq
    assert (vq.pfn, vq.desc, vq.avail, vq.used, vq.last_avail, vq.used_idx, vq.inuse) == (0,) * 7
    assert (vq.vector, rig.device.guest_features, rig.device.isr) == (NUMBERS["NO_VECTOR"], 0, 0)
    assert (vq.num, vq.requests, vq.trapped) == (8, 1, 1)


def test_a_new_ring_starts_at_its_first_entry(rig: Rig) -> None:
    """QUEUE_PFN puts the device at entry 0 of the new ring, wherever it was in the old one."""
    rig.serve(rig.request(), rig.request(slot=1))
    rig.ring = rig.new_ring(pfn=0x20)
    rig.serve(rig.request(BlkType.IN, 6))
    assert (rig.ring.used_idx, rig.ring.used_entry(0)) == (1, (0, 513))


@pytest.mark.parametrize("num", [1, 2, 8, 128, 256, 1024])
def test_the_parts_of_a_ring_stand_where_the_layout_says(rig: Rig, num: int) -> None:
    """Descriptors at the page, avail right behind, used on the next page boundary behind avail and used_event."""
    rig.vq.num = num
    ring = rig.new_ring()
    assert (rig.vq.desc, rig.vq.avail, rig.vq.used) == (ring.desc, ring.avail, ring.used)


# -- views -------------------------------------------------------------------------------------------------------------


def view_of(rig: Rig) -> Queue:
    """The live view of queue 0."""
    notifiers = SimpleNamespace(owners=[SimpleNamespace(name="NONE")], port=lambda _: None)
    return Queue(rig.device, 0, notifiers, rig.memory)


def test_a_view_shows_the_indices_in_the_ring(rig: Rig) -> None:
    """avail.idx is the driver's, used.idx the device's, and looking changes neither."""
    view = view_of(rig)
    rig.ring.publish(rig.request())
    assert (view.avail_idx, view.used_idx, view.last_avail_idx) == (1, 0, 0)
    rig.run()
    assert (view.avail_idx, view.used_idx, view.last_avail_idx, view.in_flight) == (1, 1, 1, 0)


def test_a_view_outlives_its_memory(rig: Rig) -> None:
    """A queue shown after the machine has closed has no ring to read and says so, instead of failing."""
    view = view_of(rig)
    rig.close()
    assert (view.avail_idx, view.used_idx) == (None, None)
    assert "queue 0" in repr(view)
