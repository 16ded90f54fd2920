"""Does guest memory have one door, and is it checked?"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from labkit.errors import HostError, UsageError
from labkit.memory import GuestMemory
from labkit.native import ffi, lib

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MIB = 1 << 20


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """1 MiB of guest memory."""
    with closing(GuestMemory(1)) as memory:
        yield memory


def test_what_is_written_is_read(memory: GuestMemory) -> None:
    """Bytes come back as they went in, and nothing beside them changes."""
    memory.write(0x1000, b"labkit")
    assert memory.read(0xFFF, 8) == b"\0labkit\0"
    assert memory.u16(0x1000) == int.from_bytes(b"la", "little")


def test_fresh_memory_is_zero(memory: GuestMemory) -> None:
    """A guest starts with nothing in its RAM."""
    assert memory.read(0, MIB) == bytes(MIB)


def test_memory_is_a_file_that_others_can_map(memory: GuestMemory) -> None:
    """The memfd holds the very bytes: a backend process that maps it sees the guest's memory."""
    memory.write(0x2000, b"shared")
    assert os.pread(memory.fd, 6, 0x2000) == b"shared"
    os.pwrite(memory.fd, b"again", 0x2000)
    assert memory.read(0x2000, 6) == b"againd"
    assert os.fstat(memory.fd).st_size == MIB


@pytest.mark.parametrize(("gpa", "size"), [(0, 0), (0, 1), (0, MIB), (MIB - 1, 1), (MIB, 0)])
def test_the_boundary_is_inside(memory: GuestMemory, gpa: int, size: int) -> None:
    """Everything up to the last byte can be reached."""
    assert memory.read(gpa, size) == bytes(size)
    memory.write(gpa, b"x" * size)
    assert memory.read(gpa, size) == b"x" * size


OUTSIDE = [
    (MIB, 1),
    (MIB - 1, 2),
    (0, MIB + 1),
    (MIB + 1, 0),
    ((1 << 64) - 1, 1),
    ((1 << 64) - 1, 2),
    (1 << 64, 0),
    (1 << 200, 1),
    (0, 1 << 64),
    (8, (1 << 64) - 8),
    (-1, 1),
    (-1, 0),
    (0, -1),
    (16, -16),
]


@pytest.mark.parametrize(("gpa", "size"), OUTSIDE)
def test_the_door_refuses_what_is_outside(memory: GuestMemory, gpa: int, size: int) -> None:
    """Beyond the end, across it, past 2**64 or negative: UsageError, and no byte is read."""
    with pytest.raises(UsageError, match="outside its 1 MiB"):
        memory.read(gpa, size)


@pytest.mark.parametrize(("gpa", "size"), [(MIB, 1), (MIB - 1, 2), (0, MIB + 1), (1 << 64, 1), (-1, 1)])
def test_a_refused_write_writes_nothing(memory: GuestMemory, gpa: int, size: int) -> None:
    """A write that does not fit is not done in part."""
    with pytest.raises(UsageError, match="outside its 1 MiB"):
        memory.write(gpa, b"x" * size)
    assert memory.read(0, MIB) == bytes(MIB)


@pytest.mark.parametrize(
    ("gpa", "size", "inside"),
    [(0, MIB, True), (MIB, 0, True), (MIB, 1, False), (1, MIB, False), (2**64 - 1, 2, False), (1, 2**64 - 1, False)],
)
def test_the_door_of_the_core_is_the_same_door(memory: GuestMemory, gpa: int, size: int, inside: bool) -> None:
    """lk_memory_at, which guards the ring walk, does not overflow either."""
    host = lib.lk_memory_at(ffi.addressof(memory.native.memory), gpa, size)
    assert (host != ffi.NULL) is inside


def test_closed_memory_is_gone(memory: GuestMemory) -> None:
    """After close, which may be done twice, the door says that the machine is closed."""
    assert memory.is_open
    memory.close()
    memory.close()
    assert not memory.is_open
    with pytest.raises(UsageError, match="closed"):
        memory.read(0, 1)
    with pytest.raises(UsageError, match="closed"):
        memory.write(0, b"x")


@pytest.mark.parametrize("mib", [0, -1])
def test_memory_the_host_cannot_give_is_the_hosts_error(mib: int) -> None:
    """A size the kernel refuses is a HostError with its call, and leaves no fd behind."""
    with pytest.raises(HostError) as caught:
        GuestMemory(mib)
    assert caught.value.errno == errno.EINVAL


def test_the_console_keeps_what_fits(memory: GuestMemory) -> None:
    """The console's text is kept up to 1 MiB and no byte more; it is read from any position on."""
    text, out = b"0123456789abcdef" * 4096, ffi.new("char[]", 32)
    for _ in range(MIB // len(text) + 1):
        lib.lk_console_put(memory.native, text, len(text))
    assert lib.lk_console_read(memory.native, MIB - 4, out, 32) == 4
    assert bytes(ffi.buffer(out, 4)) == b"cdef"
    assert lib.lk_console_read(memory.native, MIB, out, 32) == 0
    assert lib.lk_console_read(memory.native, 2 * MIB, out, 32) == 0
    lib.lk_console_clear(memory.native)
    assert lib.lk_console_read(memory.native, 0, out, 32) == 0


def test_the_big_lock_knows_its_holder(memory: GuestMemory) -> None:
    """Held by this thread or not: what an assertion about the lock can ask."""
    assert not lib.lk_lock_is_mine(memory.native)
    lib.lk_lock_take(memory.native)
    assert lib.lk_lock_is_mine(memory.native)
    lib.lk_lock_release(memory.native)
    assert not lib.lk_lock_is_mine(memory.native)
