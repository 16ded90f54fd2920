"""Do the two PICs of an emulated CPU keep their rules? Side by side with KVM's: test_irqchip_kvm.py."""

from __future__ import annotations

import pytest
from irqchips import (
    BASE,
    ELCR,
    ENABLED,
    EXTINT,
    IN,
    LINT0,
    MASKED,
    MASTER,
    NMI,
    NOTHING,
    SLAVE,
    SVR,
    TAKEN,
    VECTOR,
    line,
    message,
    out,
    pics,
    store,
    take,
    write_entry,
)

READ_ISR, POLL, END, AUTO_END = 0x0B, 0x0C, 0x20, 0x02


def test_the_lower_line_is_taken_first_and_holds_back_the_others() -> None:
    """Until its end; a lower one comes through."""
    chip = pics()
    chip.say(0, line(1, 4), line(1, 3), line(1, 5))
    assert (take(chip), take(chip)) == (BASE[MASTER] + 3, NOTHING)
    chip.say(0, line(1, 1))
    assert (take(chip), take(chip)) == (BASE[MASTER] + 1, NOTHING)
    assert chip.say(0, out(MASTER, READ_ISR), (IN, MASTER, 0))[1] == 0b1010
    chip.say(0, out(MASTER, END), out(MASTER, END))
    assert take(chip) == BASE[MASTER] + 4


def test_the_second_pic_asks_through_the_first() -> None:
    """Its vector comes, and both have something to end."""
    chip = pics()
    chip.say(0, line(1, 11))
    assert (take(chip), take(chip)) == (BASE[SLAVE] + 3, NOTHING)
    chip.say(0, line(1, 3))
    assert take(chip) == NOTHING
    chip.say(0, out(SLAVE, END), out(MASTER, END))
    assert take(chip) == BASE[MASTER] + 3


def test_a_second_pic_that_has_nothing_any_more_answers_7() -> None:
    """A level that went before the vCPU asked: nothing is in service there."""
    chip = pics()
    chip.say(0, out(ELCR + 1, 0x08), line(1, 11), line(0, 11))
    assert take(chip) == BASE[SLAVE] + 7
    assert chip.say(0, out(SLAVE, READ_ISR), (IN, SLAVE, 0))[1] == 0


def test_a_level_stays_until_it_is_low() -> None:
    """As ELCR says; an edge is taken once."""
    chip = pics()
    chip.say(0, out(ELCR, 0x20), line(1, 5), line(1, 3))
    taken = [chip.say(0, TAKEN, out(MASTER, END))[0] - BASE[MASTER] for _ in range(3)]
    assert taken == [3, 5, 5]
    chip.say(0, line(0, 5))
    assert take(chip) == NOTHING


def test_lines_of_the_board_that_are_never_levels() -> None:
    """Clock, keyboard, cascade, real-time clock and coprocessor."""
    assert pics().say(0, out(ELCR, 0xFF), out(ELCR + 1, 0xFF), (IN, ELCR, 0), (IN, ELCR + 1, 0))[2:] == [0xF8, 0xDE]


def test_rotation_puts_the_served_line_last() -> None:
    """With an end that rotates, and by name."""
    chip = pics()
    chip.say(0, line(1, 3), TAKEN, out(MASTER, 0xA0), line(0, 3), line(1, 3), line(1, 4))
    assert chip.say(0, TAKEN, out(MASTER, 0x64), TAKEN)[::2] == [BASE[MASTER] + 4, BASE[MASTER] + 3]
    chip.say(0, out(MASTER, 0xC0 | 5), line(1, 5), line(1, 6))
    assert take(chip) == BASE[MASTER] + 6


def test_automatic_end_leaves_nothing_in_service() -> None:
    """The next one can be taken at once, and with rotation the line goes last."""
    chip = pics(icw4=1 | AUTO_END)
    chip.say(0, out(MASTER, 0x80), line(1, 3), line(1, 4))
    assert (take(chip), take(chip)) == (BASE[MASTER] + 3, BASE[MASTER] + 4)
    chip.say(0, *(line(level, pin) for pin in (3, 6) for level in (0, 1)))
    assert take(chip) == BASE[MASTER] + 6


def test_a_poll_tells_the_line_and_takes_it_away() -> None:
    """Without one it is 7, and bit 7 is clear."""
    chip = pics()
    polled = [out(MASTER, POLL), (IN, MASTER, 0)]
    assert chip.say(0, line(1, 4), *polled, *polled)[2::2] == [0x84, 0x07]
    assert take(chip) == NOTHING


@pytest.mark.parametrize("lint0", [MASKED | EXTINT, VECTOR, NMI])
def test_the_pics_are_heard_only_where_lint0_is_theirs(lint0: int) -> None:
    """Another delivery mode or a mask keeps them out; the local APIC's own interrupts come all the same."""
    chip = pics()
    chip.say(0, store(SVR, ENABLED), store(LINT0, lint0), line(1, 3))
    assert take(chip) == NOTHING
    chip.say(0, message(VECTOR))
    assert take(chip) == VECTOR
    chip.say(0, store(LINT0, EXTINT))
    assert take(chip) == BASE[MASTER] + 3


def test_no_device_is_at_the_line_of_the_cascade() -> None:
    """Pin 2 leads to the I/O APIC alone."""
    chip = pics()
    chip.say(0, store(SVR, ENABLED), *write_entry(2, VECTOR), line(1, 2))
    assert (take(chip), take(chip)) == (VECTOR, NOTHING)
