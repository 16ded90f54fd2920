"""Which part of the machine answers an address? One or none, and never two."""

from __future__ import annotations

import pytest

from labkit.errors import UsageError
from labkit.pc.bus import Bus
from labkit.pc.ports import ConsolePort, ExitPort

SIZE = 0x10000


class Part:
    """A part that remembers what it was asked and answers the same number each time."""

    def __init__(self, answer: int = 0) -> None:
        self.answer = answer
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int, int]] = []

    def read(self, offset: int, width: int) -> int:
        """Note it."""
        self.reads.append((offset, width))
        return self.answer

    def write(self, offset: int, width: int, value: int) -> None:
        """Note it."""
        self.writes.append((offset, width, value))


def test_a_claimed_range_reaches_its_part_and_no_other() -> None:
    """Offsets count from the start of the range, and the neighbours hear nothing."""
    bus, low, high = Bus(SIZE), Part(1), Part(2)
    bus.claim(range(0x20, 0x30), high)
    bus.claim(range(0x10, 0x20), low)
    assert [bus.read(at, 1) for at in (0x10, 0x1F, 0x20, 0x2F)] == [1, 1, 2, 2]
    bus.write(0x1E, 2, 0xBEEF)
    assert (low.reads, high.reads) == ([(0, 1), (15, 1)], [(0, 1), (15, 1)])
    assert (low.writes, high.writes) == ([(14, 2, 0xBEEF)], [])


@pytest.mark.parametrize("width", range(1, 9))
def test_nobody_home_reads_all_ones(width: int) -> None:
    """An address that nobody answers reads all ones in any width an access can have, and a write is lost."""
    bus = Bus(SIZE)
    bus.claim(range(0x10, 0x20), Part())
    for address in (0, 0xF, 0x20, SIZE - 1, SIZE, 1 << 60):
        assert bus.read(address, width) == (1 << 8 * width) - 1
        bus.write(address, width, 0)


@pytest.mark.parametrize("width", range(1, 9))
def test_an_answer_is_cut_to_the_width_of_the_access(width: int) -> None:
    """A part may answer with more bits than were asked for, and in any width: 3 bytes come from a split access."""
    bus = Bus(SIZE)
    bus.claim(range(0x10, 0x20), Part((1 << 80) - 1))
    assert bus.read(0x10, width) == (1 << 8 * width) - 1


def test_an_access_across_the_end_belongs_to_its_first_byte() -> None:
    """The part of the first byte answers for all of them."""
    bus, low, high = Bus(SIZE), Part(), Part()
    bus.claim(range(0x10, 0x20), low)
    bus.claim(range(0x20, 0x30), high)
    bus.read(0x1F, 4)
    assert (low.reads, high.reads) == ([(15, 4)], [])


@pytest.mark.parametrize(
    "addresses",
    [
        range(0x10, 0x20),
        range(0x18, 0x19),
        range(0x11),
        range(0x1F, 0x40),
        range(SIZE),
        range(0x2F, 0x31),
        range(-4, 4),
        range(SIZE - 1, SIZE + 1),
        range(SIZE, SIZE + 16),
        range(0x50, 0x50),
        range(0x50, 0x40),
    ],
)
def test_a_range_that_is_taken_or_does_not_exist_is_refused(addresses: range) -> None:
    """Overlaps of any kind, empty ranges and ranges beyond the bus are UsageErrors, and nothing changes."""
    bus, first, second = Bus(SIZE), Part(1), Part(2)
    bus.claim(range(0x10, 0x20), first)
    bus.claim(range(0x30, 0x40), second)
    with pytest.raises(UsageError, match="taken or do not exist"):
        bus.claim(addresses, Part(3))
    answers = {bus.read(address, 1) for address in range(0x100)}
    assert answers == {1, 2, 0xFF}


def test_ranges_may_touch_and_fill_the_bus() -> None:
    """Side by side is not overlapping; the first and the last address can be claimed."""
    bus = Bus(SIZE)
    for start in (0x4000, 0, 0xC000, 0x8000):
        bus.claim(range(start, start + 0x4000), Part(start >> 14))
    assert [bus.read(address, 1) for address in (0, 0x3FFF, 0x4000, 0xBFFF, 0xC000, 0xFFFF)] == [0, 0, 1, 2, 3, 3]


def test_a_released_range_is_free_again() -> None:
    """What was given back answers no more and can be given to another."""
    bus, second = Bus(SIZE), Part(2)
    bus.claim(range(0x10, 0x20), Part(1))
    bus.release(range(0x10, 0x20))
    assert bus.read(0x10, 1) == 0xFF
    bus.claim(range(0x18, 0x28), second)
    assert bus.read(0x18, 1) == 2


def test_releasing_what_was_not_given_changes_nothing() -> None:
    """Only the very range that was claimed can be given back."""
    bus = Bus(SIZE)
    bus.claim(range(0x10, 0x20), Part(1))
    for addresses in (range(0x10, 0x18), range(0x40), range(0x30, 0x40)):
        bus.release(addresses)
    assert bus.read(0x10, 1) == 1


def test_the_console_port_says_that_it_is_there() -> None:
    """A read of port 0xe9 gives 0xe9, by which a guest knows that a console listens; a wide write does nothing."""
    port = ConsolePort()
    assert port.read(0, 1) == 0xE9
    port.write(0, 4, 0x41414141)


def test_the_exit_port_never_says_zero() -> None:
    """A write of v ends the machine with (v << 1) | 1; a read tells nothing."""
    codes: list[int] = []
    port = ExitPort(codes.append)
    for value in (0, 1, 0x7F):
        port.write(0, 1, value)
    assert codes == [1, 3, 255]
    assert port.read(0, 4) == 0
