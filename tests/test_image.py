"""Which files can be a disk, who may open one beside whom, and what is in the disk that is no file?"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.errors import HostError, UsageError
from labkit.native import ffi, lib
from labkit.virtio.backends.image import IMAGE_MAX_BYTES, RAM_DISK_BYTES, Image, open_image, ram_disk
from labkit.virtio.backends.slow import Slow
from labkit.virtio.devices.blk import Blk

pytestmark = pytest.mark.usefixtures("leaves_nothing")

TIB = 1 << 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A raw image of 4 sectors."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"labkit".ljust(4 * 512, b"."))
    return path


@pytest.fixture
def opened() -> Iterator[list[Image]]:
    """Images to be closed when the test is over."""
    images: list[Image] = []
    yield images
    for image in images:
        image.close()


def sparse(path: Path, size: int) -> Path:
    """A file of `size` bytes that takes no room."""
    path.touch()
    try:
        os.truncate(path, size)
    except OSError as error:
        pytest.skip(f"no sparse file of {size} bytes here: {error.strerror}")
    return path


# -- what can be opened ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writable", [False, True])
def test_a_raw_image_is_opened_as_asked(path: Path, opened: list[Image], writable: bool) -> None:
    """Sectors are counted, and the fd can write only if that was asked for."""
    image = open_image(path, writable=writable)
    opened.append(image)
    assert (image.sectors, image.writable, image.name) == (4, writable, "disk.img")
    assert os.pread(image.fd, 6, 0) == b"labkit"
    if writable:
        os.pwrite(image.fd, b"x", 0)
    else:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(image.fd, b"x", 0)


def test_the_largest_image_is_two_tebibytes(tmp_path: Path, opened: list[Image]) -> None:
    """2 TiB can be opened; a sector more cannot."""
    opened.append(open_image(sparse(tmp_path / "large.img", 2 * TIB), writable=False))
    assert opened[0].sectors == 1 << 32
    assert IMAGE_MAX_BYTES == 2 * TIB
    with pytest.raises(UsageError, match="more than the 2 TiB"):
        open_image(sparse(tmp_path / "larger.img", 2 * TIB + 512), writable=False)


def test_the_smallest_image_is_one_sector(tmp_path: Path, opened: list[Image]) -> None:
    """512 bytes are a disk."""
    (tmp_path / "small.img").write_bytes(bytes(512))
    opened.append(open_image(tmp_path / "small.img", writable=False))
    assert opened[0].sectors == 1


# -- what is refused, each with its reason, and leaving no fd open -----------------------------------------------------


@pytest.mark.parametrize("writable", [False, True])
class TestRefused:
    """Whatever cannot be a disk is a UsageError that names the file and says why."""

    def test_a_file_that_is_missing(self, tmp_path: Path, writable: bool) -> None:
        """The system's words are enough."""
        with pytest.raises(UsageError, match=r"nowhere\.img: No such file"):
            open_image(tmp_path / "nowhere.img", writable=writable)

    def test_a_directory(self, tmp_path: Path, writable: bool) -> None:
        """A directory has no sectors."""
        with pytest.raises(UsageError, match=r"neither a file nor a block device|Is a directory"):
            open_image(tmp_path, writable=writable)

    def test_a_fifo(self, tmp_path: Path, writable: bool) -> None:
        """A FIFO is refused at once: nobody waits for its other end."""
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(UsageError, match="neither a file nor a block device"):
            open_image(tmp_path / "fifo", writable=writable)

    def test_a_character_device(self, tmp_path: Path, writable: bool) -> None:
        """/dev/zero is endless, but no disk."""
        with pytest.raises(UsageError, match="neither a file nor a block device"):
            open_image(Path("/dev/zero"), writable=writable)

    def test_an_empty_file(self, tmp_path: Path, writable: bool) -> None:
        """A disk has at least one sector."""
        (tmp_path / "empty.img").touch()
        with pytest.raises(UsageError, match="it is empty"):
            open_image(tmp_path / "empty.img", writable=writable)

    @pytest.mark.parametrize("size", [1, 511, 513, 1023])
    def test_a_part_of_a_sector(self, tmp_path: Path, writable: bool, size: int) -> None:
        """The size is a whole number of sectors: nothing is rounded."""
        (tmp_path / "odd.img").write_bytes(bytes(size))
        with pytest.raises(UsageError, match=f"{size} bytes are not a whole number"):
            open_image(tmp_path / "odd.img", writable=writable)

    @pytest.mark.parametrize(
        ("magic", "form"),
        [(b"QFI\xfb\0\0\0\3", "qcow2"), (b"KDMV\1\0\0\0", "VMDK"), (b"conectix", "VHD"), (b"vhdxfile", "VHDX")],
    )
    def test_an_image_that_is_not_raw(self, tmp_path: Path, writable: bool, magic: bytes, form: str) -> None:
        """The guest would see the container's own header in sector 0: the message says how to convert it."""
        (tmp_path / "disk").write_bytes(magic.ljust(1024, b"\0"))
        with pytest.raises(UsageError, match=rf"a {form} image.*convert"):
            open_image(tmp_path / "disk", writable=writable)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_a_file_without_permission(self, path: Path, writable: bool) -> None:
        """Neither reading nor writing is tried another way."""
        path.chmod(0)
        with pytest.raises(UsageError, match="Permission denied"):
            open_image(path, writable=writable)


# -- who may open it beside whom ---------------------------------------------------------------------------------------


def test_two_readers_share_an_image(path: Path, opened: list[Image]) -> None:
    """Any number of machines may read the same disk."""
    opened += [open_image(path, writable=False) for _ in range(2)]
    assert [image.sectors for image in opened] == [4, 4]


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True)])
def test_a_writer_needs_the_image_for_itself(path: Path, opened: list[Image], first: bool, second: bool) -> None:
    """Beside a writer nobody, and beside a reader no writer; when the first has closed, the second may come."""
    opened.append(open_image(path, writable=first))
    with pytest.raises(UsageError, match="in use by another machine"):
        open_image(path, writable=second)
    opened[0].close()
    opened.append(open_image(path, writable=second))


def test_an_image_is_closed_once(path: Path, opened: list[Image]) -> None:
    """Closing twice is fine, and does not close somebody else's fd."""
    image = open_image(path, writable=False)
    image.close()
    opened.append(open_image(path, writable=False))
    image.close()
    assert os.fstat(opened[0].fd).st_size == 4 * 512


# -- the lock moves from one machine to another ------------------------------------------------------------------------


@pytest.mark.parametrize("writable", [False, True])
def test_a_lock_is_let_go_and_taken_by_the_next(path: Path, opened: list[Image], writable: bool) -> None:
    """Both have the image open all the while; a writer is kept out until the lock is let go."""
    first = open_image(path, writable=writable)
    second = open_image(path, writable=True, locked=False)
    opened += [first, second]
    with pytest.raises(UsageError, match=r"disk\.img: in use by another machine"):
        second.take_lock()
    first.let_go()
    second.take_lock()
    with pytest.raises(UsageError, match=r"disk\.img: in use by another machine"):
        first.take_lock()
    assert os.pread(first.fd, 6, 0) == b"labkit"
    second.let_go()
    first.take_lock()


def test_letting_go_and_taking_twice_is_once(path: Path, opened: list[Image]) -> None:
    """Neither counts."""
    first, second = open_image(path, writable=True), open_image(path, writable=True, locked=False)
    opened += [first, second]
    first.take_lock()
    first.let_go()
    first.let_go()
    second.take_lock()


def test_readers_take_their_lock_beside_each_other(path: Path, opened: list[Image]) -> None:
    """A read-only image shares its lock after a hand-over as before."""
    opened += [open_image(path, writable=False), open_image(path, writable=False, locked=False)]
    opened[1].take_lock()
    opened[0].let_go()
    with pytest.raises(UsageError, match="in use by another machine"):
        open_image(path, writable=True)


def test_what_was_written_is_seen_by_who_takes_the_lock(path: Path, opened: list[Image]) -> None:
    """Let go durably, the next reads it."""
    first, second = open_image(path, writable=True), open_image(path, writable=True, locked=False)
    opened += [first, second]
    os.pwrite(first.fd, b"moved!", 0)
    first.let_go(durable=True)
    second.take_lock()
    assert os.pread(second.fd, 6, 0) == b"moved!"


def test_what_cannot_be_written_to_the_disk_keeps_its_lock(
    path: Path, opened: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails in the flush is not handed over."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    first, second = open_image(path, writable=True), open_image(path, writable=True, locked=False)
    opened += [first, second]
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(HostError, match=r"fdatasync: EIO.*still locked"):
        first.let_go(durable=True)
    with pytest.raises(UsageError, match="in use by another machine"):
        second.take_lock()


def test_patience_waits_for_the_lock(path: Path, opened: list[Image], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again and again, and taken when the other has let go."""
    first, second = open_image(path, writable=True), open_image(path, writable=True, locked=False)
    opened += [first, second]
    tries = iter([lambda: None, lambda: None, first.let_go])
    monkeypatch.setattr("labkit.virtio.backends.image.time.sleep", lambda _: next(tries)())
    second.take_lock(patience_s=600)
    assert list(tries) == []


def test_patience_ends(path: Path, opened: list[Image]) -> None:
    """Whoever never lets go keeps it, and the other is told."""
    opened += [open_image(path, writable=True), open_image(path, writable=True, locked=False)]
    with pytest.raises(UsageError, match="in use by another machine"):
        opened[1].take_lock(patience_s=0.02)


def test_a_closed_image_takes_no_lock(path: Path) -> None:
    """Letting go is done already; taking is an error."""
    image = open_image(path, writable=True)
    image.close()
    image.let_go(durable=True)
    with pytest.raises(UsageError, match="it is closed"):
        image.take_lock()


@pytest.mark.parametrize("slow", [False, True])
def test_the_lock_of_a_writable_file_arbitrates(path: Path, opened: list[Image], slow: bool) -> None:
    """A reader's lock and a RAM disk decide nothing; a slow disk is as the one it slows."""
    for image, arbitrates, is_ram in (
        (open_image(path, writable=False), False, False),
        (open_image(path, writable=True, locked=False), True, False),
        (ram_disk(), False, True),
    ):
        opened.append(Slow(image, 1) if slow else image)
        assert (opened[-1].arbitrates, opened[-1].is_ram) == (arbitrates, is_ram)


def test_a_slow_image_hands_its_lock_over(path: Path, opened: list[Image]) -> None:
    """The lock is the slow one's."""
    opened += [Slow(open_image(path, writable=True), 1), Slow(open_image(path, writable=True, locked=False), 1)]
    opened[0].let_go()
    opened[1].take_lock()
    with pytest.raises(UsageError, match="in use by another machine"):
        opened[0].take_lock()


def test_a_ram_disk_has_no_lock(opened: list[Image]) -> None:
    """Nobody else has it, so there is nothing to let go or to take."""
    opened.append(ram_disk())
    opened[0].let_go(durable=True)
    opened[0].take_lock()


# -- a RAM disk goes to the other side ---------------------------------------------------------------------------------


def test_the_extents_of_a_ram_disk_are_its_data(opened: list[Image]) -> None:
    """In order, at most 1 MiB each, without the holes; put into another one they make the same disk."""
    opened += [ram_disk(), ram_disk()]
    first, second = opened
    for offset, data in ((0, b"start"), (3 << 20, os.urandom(5 << 19)), (RAM_DISK_BYTES - 1, b"e")):
        first.put(offset, data)
    second.put(0, bytes(512))
    sent = list(first.extents())
    for offset, data in sent:
        second.put(offset, data)
    assert os.pread(second.fd, RAM_DISK_BYTES, 0) == os.pread(first.fd, RAM_DISK_BYTES, 0)
    assert [offset for offset, _ in sent] == sorted(offset for offset, _ in sent)
    assert max(len(data) for _, data in sent) == 1 << 20
    assert sum(len(data) for _, data in sent) < 4 << 20


def test_extents_end_with_the_disk(path: Path, opened: list[Image]) -> None:
    """A file of four sectors is one piece; a disk that is one hole is none."""
    opened += [open_image(path, writable=False), ram_disk()]
    assert list(opened[0].extents()) == [(0, path.read_bytes())]
    os.ftruncate(opened[1].fd, 0)
    os.ftruncate(opened[1].fd, RAM_DISK_BYTES)
    assert list(opened[1].extents()) == []


@pytest.mark.parametrize(
    ("offset", "data"),
    [(-1, b"x"), (RAM_DISK_BYTES, b"x"), (RAM_DISK_BYTES - 1, b"xy"), (1 << 70, b""), (True, b"x"), (0.0, b"x")],
)
def test_nothing_is_put_beyond_the_disk(opened: list[Image], offset: int, data: bytes) -> None:
    """What does not fit is refused as a whole."""
    opened.append(ram_disk())
    before = os.pread(opened[0].fd, RAM_DISK_BYTES, 0)
    with pytest.raises(UsageError, match=f"of {RAM_DISK_BYTES}"):
        opened[0].put(offset, data)
    assert os.pread(opened[0].fd, RAM_DISK_BYTES + 1, 0) == before


def test_nothing_is_put_into_a_read_only_image(path: Path, opened: list[Image]) -> None:
    """Not even where it would fit."""
    opened.append(open_image(path, writable=False))
    with pytest.raises(UsageError, match="read-only"):
        opened[0].put(0, b"x")


# -- identity, and what the device tells of the image ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [b"disk.img", b"exactly-twenty-bytes", b"a-name-much-longer-than-twenty-bytes", "größe.img".encode(), b"\xff\xfe"],
)
def test_the_identity_is_the_start_of_the_name(tmp_path: Path, opened: list[Image], name: bytes) -> None:
    """20 bytes of the file's name as the file system has it, which need not be text; the device is given all."""
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(bytes(512))
    opened.append(open_image(path, writable=False))
    assert opened[0].identity == name[:20].ljust(20, b"\0")
    device = ffi.gc(lib.lk_device_new(ffi.NULL, lib.DEVICE_BLK), lib.lk_device_free)
    Blk(opened[0]).attach(device)
    assert bytes(ffi.buffer(device.blk.id)) == opened[0].identity
    assert (device.blk.fd, device.blk.sectors, device.blk.writable) == (opened[0].fd, 1, 0)


def test_the_config_space_tells_the_size(path: Path, opened: list[Image]) -> None:
    """Capacity in sectors, most segments, geometry, block size, where the register table says they are."""
    opened.append(open_image(path, writable=False))
    config = Blk(opened[0]).config()
    assert len(config) == lib.BLK_CONFIG_BYTES
    assert int.from_bytes(config[:8], "little") == 4
    assert int.from_bytes(config[lib.BLK_CONFIG_SEG_MAX :][:4], "little") == lib.BLK_QUEUE_SIZE - 2
    assert int.from_bytes(config[lib.BLK_CONFIG_BLK_SIZE :][:4], "little") == 512


@pytest.mark.parametrize("size", [512, RAM_DISK_BYTES, 2 * TIB])
def test_every_size_has_a_geometry(tmp_path: Path, opened: list[Image], size: int) -> None:
    """Cylinders, heads and sectors fit their fields and hold no more than the disk, however large it is."""
    opened.append(open_image(sparse(tmp_path / "disk.img", size), writable=False))
    geometry = Blk(opened[0]).config()[lib.BLK_CONFIG_GEOMETRY :]
    cylinders, heads, sectors = int.from_bytes(geometry[:2], "little"), geometry[2], geometry[3]
    assert cylinders * heads * sectors <= opened[0].sectors
    assert cylinders <= 16383


def test_a_read_only_image_is_offered_as_read_only(path: Path) -> None:
    """The feature bit RO follows the image."""
    for writable in (False, True):
        image = open_image(path, writable=writable)
        assert bool(Blk(image).host_features() & 1 << lib.BLK_F_RO) is not writable
        image.close()


def test_the_ram_disk_says_what_it_is(opened: list[Image]) -> None:
    """16 MiB, writable, zero but for sector 0, and each one is its own."""
    opened += [ram_disk(), ram_disk()]
    first, second = opened
    assert (first.sectors, first.writable) == (16 << 11, True)
    assert os.pread(first.fd, 64, 0).startswith(b"labkit RAM disk")
    assert os.pread(first.fd, 512, RAM_DISK_BYTES - 512) == bytes(512)
    os.pwrite(first.fd, b"mine", 0)
    assert os.pread(second.fd, 6, 0) == b"labkit"


# -- another size ------------------------------------------------------------------------------------------------------


def test_a_resize_that_the_host_refuses_changes_nothing(path: Path, opened: list[Image]) -> None:
    """The host has no room for it (here a limit on files): its error, and the image keeps its size."""
    image = open_image(path, writable=True)
    opened.append(image)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * 512, before[1]))
    try:
        with pytest.raises(HostError, match="ftruncate: EFBIG"):
            image.resize(16 * 512)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (image.sectors, path.stat().st_size) == (4, 4 * 512)
