"""Does the I/O APIC of an emulated CPU keep its rules? Side by side with KVM's: test_irqchip_kvm.py."""

from __future__ import annotations

from irqchips import (
    ELCR,
    ENABLED,
    EOI,
    IOAPIC,
    LEVEL,
    MASKED,
    MASTER,
    NOTHING,
    PIN,
    REMOTE_IRR,
    SLAVE,
    SVR,
    TAKEN,
    VECTOR,
    enabled,
    line,
    message,
    read_entry,
    store,
    take,
    write_entry,
)

from labkit.native import ffi, lib


def test_an_edge_interrupts_once() -> None:
    """As often as the line rises."""
    chip = enabled()
    chip.say(0, *write_entry(PIN, VECTOR), line(1), line(1), TAKEN, store(EOI, 0))
    assert take(chip) == NOTHING
    chip.say(0, line(0), line(1))
    assert take(chip) == VECTOR


def test_an_edge_that_finds_its_pin_masked_is_lost() -> None:
    """Unmasking brings it not back."""
    chip = enabled()
    chip.say(0, *write_entry(PIN, VECTOR | MASKED), line(1), *write_entry(PIN, VECTOR))
    assert take(chip) == NOTHING


def test_a_level_interrupts_until_the_line_is_low() -> None:
    """Again at each end of interrupt that finds it high; Remote IRR is set between delivery and end."""
    chip = enabled()
    chip.say(0, *write_entry(PIN, VECTOR | LEVEL), line(1))
    for _ in range(3):
        assert chip.say(0, TAKEN, TAKEN, *read_entry(PIN))[::3] == [VECTOR, VECTOR | LEVEL | REMOTE_IRR]
        chip.say(0, store(EOI, 0))
    chip.say(0, TAKEN, line(0), store(EOI, 0))
    assert (take(chip), chip.say(0, *read_entry(PIN))[1]) == (NOTHING, VECTOR | LEVEL)


def test_a_level_waits_behind_its_mask() -> None:
    """Unmasked, it interrupts if it is high still."""
    chip = enabled()
    chip.say(0, *write_entry(PIN, VECTOR | LEVEL | MASKED), line(1))
    assert take(chip) == NOTHING
    chip.say(0, *write_entry(PIN, VECTOR | LEVEL))
    assert take(chip) == VECTOR


def test_a_level_that_nobody_took_waits_for_no_end() -> None:
    """The local APIC was disabled: Remote IRR is clear, and the next look at the line delivers."""
    chip = enabled()
    chip.say(0, store(SVR, 0xFF), *write_entry(PIN, VECTOR | LEVEL), line(1))
    assert chip.say(0, *read_entry(PIN))[1] == VECTOR | LEVEL
    chip.say(0, store(SVR, ENABLED), line(1))
    assert take(chip) == VECTOR


def test_an_entry_made_an_edge_waits_for_no_end() -> None:
    """Remote IRR goes with the level."""
    chip = enabled()
    chip.say(0, *write_entry(PIN, VECTOR | LEVEL), line(1), *write_entry(PIN, VECTOR))
    assert chip.say(0, *read_entry(PIN))[1] == VECTOR


def test_the_end_of_a_message_ends_no_level() -> None:
    """Even of the same vector: it came as an edge, and the level is another vCPU's to end."""
    chip = enabled(2)
    chip.say(0, *write_entry(PIN, VECTOR | LEVEL, 1), line(1), line(0), message(VECTOR), TAKEN, store(EOI, 0))
    assert chip.say(0, *read_entry(PIN))[1] == VECTOR | LEVEL | REMOTE_IRR
    chip.say(1, TAKEN, store(EOI, 0))
    assert chip.say(0, *read_entry(PIN))[1] == VECTOR | LEVEL


def test_the_split_chip_has_local_apics_alone() -> None:
    """No I/O APIC and no PIC answers, and lines lead nowhere."""
    chip = enabled(full=False)
    wide, narrow = ffi.new("uint64_t *"), ffi.new("uint32_t *")
    assert not lib.lk_irqchip_mmio(chip.native, 0, IOAPIC, 4, 0, wide)
    assert not any(lib.lk_irqchip_port(chip.native, port, 1, 0, narrow) for port in (MASTER, SLAVE, ELCR))
    chip.say(0, line(1), line(1, 3), message(VECTOR))
    assert (take(chip), take(chip)) == (VECTOR, NOTHING)
