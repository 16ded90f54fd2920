"""Do the interrupt controllers of an emulated CPU keep their rules? Side by side with KVM's: test_irqchip_kvm.py."""

from __future__ import annotations

import random

import pytest
from irqchips import (
    ASSERT,
    DFR,
    ELCR,
    ENABLED,
    EOI,
    EXTINT,
    ID,
    IN,
    INIT,
    IOAPIC,
    IRR,
    ISR,
    LAPIC,
    LDR,
    LEVEL,
    LINE,
    LINT0,
    LOGICAL,
    LOWEST,
    LVT_TIMER,
    MASKED,
    MASTER,
    NMI,
    NOTHING,
    OUT,
    PERIODIC,
    PINS,
    PPR,
    SLAVE,
    STARTUP,
    SVR,
    TAKEN,
    TIMER_CURRENT,
    TIMER_DIVIDE,
    TIMER_INITIAL,
    TO_ALL,
    TO_OTHERS,
    TO_SELF,
    TPR,
    VECTOR,
    VERSION,
    Emulated,
    Word,
    enabled,
    events,
    line,
    load,
    message,
    pics,
    read_entry,
    read_ioapic,
    send,
    store,
    take,
    takers,
    write_entry,
)

from labkit.abi import NUMBERS
from labkit.native import ffi, lib

NO_TIMER = lib.NO_TIMER


# -- local APIC --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("full", "version"), [(True, 0x50014), (False, 0x1050014)])
def test_after_power_on_a_local_apic_is_disabled(full: bool, version: int) -> None:
    """SVR is 0xff, the LVT masked, LINT0 of the first vCPU the PICs'; without an I/O APIC it offers directed EOI."""
    chip = Emulated(2, full=full)
    registers = [load(offset) for offset in (ID, VERSION, DFR, SVR, LVT_TIMER, LINT0)]
    assert chip.say(0, *registers) == [0, version, 0xFFFFFFFF, 0xFF, MASKED, EXTINT]
    assert chip.say(1, *registers) == [1 << 24, version, 0xFFFFFFFF, 0xFF, MASKED, MASKED]


def test_a_disabled_apic_takes_nothing_more_and_keeps_what_it_has() -> None:
    """What comes while it is disabled is lost; what came before can still be taken."""
    chip = enabled()
    chip.say(0, message(VECTOR), store(SVR, 0xFF), message(VECTOR + 1))
    assert (take(chip), take(chip)) == (VECTOR, NOTHING)


def test_the_highest_vector_is_taken_first() -> None:
    """Whatever the order in which they came."""
    chip = enabled()
    chip.say(0, *(message(vector) for vector in (0x31, 0xFF, 0x20, 0x30)))
    assert [chip.say(0, TAKEN, store(EOI, 0))[0] for _ in range(5)] == [0xFF, 0x31, 0x30, 0x20, NOTHING]


def test_what_is_in_service_holds_back_its_class_and_those_below() -> None:
    """A higher class comes through; the same one waits for the end."""
    chip = enabled()
    chip.say(0, message(0x45), TAKEN, message(0x4F), message(0x30))
    assert (take(chip), chip.say(0, load(PPR))) == (NOTHING, [0x40])
    chip.say(0, message(0x50))
    assert (take(chip), chip.say(0, load(PPR), load(ISR + 0x20))) == (0x50, [0x50, 0x10020])
    chip.say(0, store(EOI, 0))
    assert take(chip) == NOTHING
    chip.say(0, store(EOI, 0))
    assert take(chip) == 0x4F


def test_tpr_holds_back_its_class_and_those_below() -> None:
    """The lower half of TPR shows in PPR and holds back nothing."""
    chip = enabled()
    chip.say(0, store(TPR, 0x4F), message(0x4F))
    assert (take(chip), chip.say(0, load(PPR))) == (NOTHING, [0x4F])
    chip.say(0, store(TPR, 0x3F))
    assert take(chip) == 0x4F


def test_vectors_of_class_0_are_never_taken() -> None:
    """They show in IRR."""
    chip = enabled()
    chip.say(0, message(0x0F))
    assert (take(chip), chip.say(0, load(IRR))) == (NOTHING, [1 << 0x0F])


def test_the_lvt_is_masked_when_the_apic_is_disabled() -> None:
    """And cannot be unmasked before it is enabled again."""
    chip = enabled()
    chip.say(0, store(LVT_TIMER, VECTOR), store(SVR, 0xFF))
    assert chip.say(0, load(LVT_TIMER), load(LINT0)) == [MASKED | VECTOR, MASKED | EXTINT]
    assert chip.say(0, store(LVT_TIMER, VECTOR), load(LVT_TIMER))[1] == MASKED | VECTOR
    assert chip.say(0, store(SVR, ENABLED), store(LVT_TIMER, VECTOR), load(LVT_TIMER))[2] == VECTOR


# -- to whom -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("destination", "logical", "expected"),
    [(2, False, [2]), (7, False, []), (0xFF, False, [0, 1, 2]), (5, True, [0, 2]), (0xFF, True, [0, 1, 2])],
)
def test_a_message_reaches_its_destination(destination: int, logical: bool, expected: list[int]) -> None:
    """By ID, by bits of LDR, or everybody."""
    chip = enabled(3)
    chip.say(0, message(VECTOR, destination, logical=logical))
    assert takers(chip, 3) == expected


@pytest.mark.parametrize(("destination", "expected"), [(0x11, [0]), (0x13, [0, 1]), (0x21, [2]), (0x31, [])])
def test_clusters_have_members(destination: int, expected: list[int]) -> None:
    """With DFR for clusters the upper half of LDR is the cluster and the lower half a bit for each member."""
    chip = enabled(3)
    for vcpu, address in enumerate((0x11, 0x12, 0x21)):
        chip.say(vcpu, store(DFR, 0), store(LDR, address << 24))
    chip.say(0, message(VECTOR, destination, logical=True))
    assert takers(chip, 3) == expected


def test_lowest_priority_goes_to_one_that_is_enabled() -> None:
    """The vector says to which, so several vectors spread."""
    chip = enabled(3)
    chip.say(1, store(SVR, 0xFF))
    found = []
    for vector in (0x40, 0x41):
        chip.say(0, message(vector | LOWEST, 7, logical=True))
        found.append(takers(chip, 3))
    assert found == [[0], [2]]


@pytest.mark.parametrize(
    ("word", "expected"), [(TO_SELF, [1]), (TO_ALL, [0, 1, 2]), (TO_OTHERS, [0, 2]), (0, [0]), (LOGICAL, [0])]
)
def test_a_command_reaches_whom_it_names(word: int, expected: list[int]) -> None:
    """By a shorthand or by a destination, physical 0 or logical 1."""
    chip = enabled(3)
    chip.say(1, *send(VECTOR | word, 1 if word == LOGICAL else 0))
    assert takers(chip, 3) == expected


def test_a_level_that_is_let_go_interrupts_nobody() -> None:
    """The de-assert of an INIT, as PCs send it, is no second INIT."""
    chip = enabled(2)
    chip.say(0, *send(INIT | LEVEL, 1), *send(VECTOR | LEVEL, 1))
    assert (events(chip, 1), take(chip, 1)) == ([], NOTHING)


def test_init_resets_the_local_apic_but_for_its_id() -> None:
    """When it is taken; what was sent before the INIT is forgotten, but for an NMI."""
    chip = enabled(2)
    chip.say(1, store(ID, 7 << 24), message(VECTOR, 7))
    chip.say(0, *send(STARTUP | 0x10, 7), *send(NMI, 7), *send(INIT | LEVEL | ASSERT, 7))
    assert events(chip, 1) == [lib.SENT_INIT, lib.SENT_NMI]
    assert chip.say(1, load(ID), load(SVR), load(IRR + 0x20)) == [7 << 24, 0xFF, 0]


def test_a_startup_brings_its_vector() -> None:
    """After the INIT that came first; both are taken once."""
    chip = enabled(2)
    chip.say(0, *send(INIT | TO_OTHERS), *send(STARTUP | TO_OTHERS | 0x9A))
    sipi = ffi.new("uint8_t *")
    taken = [lib.lk_irqchip_take_event(chip.native, 1, sipi) for _ in range(3)]
    assert (taken, sipi[0]) == ([lib.SENT_INIT, lib.SENT_SIPI, lib.SENT_NOTHING], 0x9A)
    assert events(chip, 0) == []


def test_a_reset_forgets_everything() -> None:
    """IRR, ISR, timer, what was sent, entries of the I/O APIC, and lines that were high; the PICs are masked."""
    chip = enabled(2)
    chip.say(0, *write_entry(3, VECTOR), (OUT, MASTER + 1, 0), (LINE, 3, 1), *send(NMI, 0), *timer(1000))
    lib.lk_irqchip_reset(chip.native)
    assert (take(chip), events(chip), lib.lk_irqchip_next_timer(chip.native)) == (NOTHING, [], NO_TIMER)
    assert chip.say(0, load(SVR), (IN, MASTER + 1, 0), *read_entry(3)) == [0xFF, 0xFF, 0, MASKED]
    chip.say(1, store(SVR, ENABLED), store(ID, 7 << 24))
    lib.lk_irqchip_reset_vcpu(chip.native, 1)
    assert chip.say(1, load(SVR), load(ID)) == [0xFF, 1 << 24]


# -- timer -------------------------------------------------------------------------------------------------------------

BY_1 = 0xB
PERIOD = 1_000_000


def timer(count: int, *, mode: int = 0, divide: int = BY_1) -> list[Word]:
    """A vCPU starts its timer."""
    return [store(TIMER_DIVIDE, divide), store(LVT_TIMER, VECTOR | mode), store(TIMER_INITIAL, count)]


def at(chip: Emulated, now_ns: int) -> int:
    """Let it be so late, and end what is taken then."""
    lib.lk_irqchip_set_time(chip.native, now_ns)
    return chip.say(0, TAKEN, store(EOI, 0))[0]


def test_a_one_shot_timer_interrupts_once() -> None:
    """At the end of its count, a nanosecond each; before, the count says what is left."""
    chip = enabled()
    at(chip, 500)
    chip.say(0, *timer(1000))
    assert lib.lk_irqchip_next_timer(chip.native) == 1500
    assert (at(chip, 1499), chip.say(0, load(TIMER_CURRENT))) == (NOTHING, [1])
    assert (at(chip, 1500), chip.say(0, load(TIMER_CURRENT), load(TIMER_INITIAL))) == (VECTOR, [0, 1000])
    assert (at(chip, 10000), lib.lk_irqchip_next_timer(chip.native)) == (NOTHING, NO_TIMER)


def test_a_periodic_timer_keeps_its_beat() -> None:
    """Whenever it is looked at; periods that went by together interrupt once."""
    chip = enabled()
    chip.say(0, *timer(PERIOD, mode=PERIODIC))
    assert [at(chip, time) for time in (PERIOD - 1, PERIOD, PERIOD + 1)] == [NOTHING, VECTOR, NOTHING]
    assert (at(chip, 5 * PERIOD + 7), at(chip, 6 * PERIOD - 1)) == (VECTOR, NOTHING)
    assert lib.lk_irqchip_next_timer(chip.native) == 6 * PERIOD


def test_a_period_has_a_least_length() -> None:
    """0.2 ms, as on KVM: a guest cannot keep its host busy with interrupts alone."""
    chip = enabled()
    chip.say(0, *timer(1, mode=PERIODIC))
    assert lib.lk_irqchip_next_timer(chip.native) == 200_000
    assert (at(chip, 10**15), lib.lk_irqchip_next_timer(chip.native)) == (VECTOR, 10**15 + 200_000)


@pytest.mark.parametrize(("divide", "by"), [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)])
def test_the_divider_slows_the_count(divide: int, by: int) -> None:
    """Bits 0, 1 and 3 say by how much, for the longest count too."""
    chip = enabled()
    chip.say(0, *timer(0xFFFFFFFF, divide=divide))
    assert lib.lk_irqchip_next_timer(chip.native) == 0xFFFFFFFF * by
    lib.lk_irqchip_set_time(chip.native, 1000 * by)
    assert chip.say(0, load(TIMER_CURRENT)) == [0xFFFFFFFF - 1000]


def test_another_divider_leaves_the_count_as_it_is() -> None:
    """The rest of it takes longer."""
    chip = enabled()
    chip.say(0, *timer(1000))
    at(chip, 400)
    assert chip.say(0, store(TIMER_DIVIDE, 0), load(TIMER_CURRENT))[1] == 600
    assert lib.lk_irqchip_next_timer(chip.native) == 400 + 2 * 600


def test_a_masked_timer_counts_and_interrupts_nobody() -> None:
    """Nobody has to wait for it, and what it did while masked is lost."""
    chip = enabled()
    chip.say(0, *timer(1000, mode=MASKED))
    assert (lib.lk_irqchip_next_timer(chip.native), at(chip, 2000)) == (NO_TIMER, NOTHING)
    chip.say(0, store(LVT_TIMER, VECTOR))
    assert at(chip, 3000) == NOTHING


def test_a_count_of_zero_stops_the_timer() -> None:
    """The one that runs is forgotten."""
    chip = enabled()
    chip.say(0, *timer(1000, mode=PERIODIC), store(TIMER_INITIAL, 0))
    assert (lib.lk_irqchip_next_timer(chip.native), at(chip, 10**9)) == (NO_TIMER, NOTHING)


# -- what does not exist -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vcpus", [0, NUMBERS["VCPUS_MAX"] + 1, 0xFFFFFFFF])
def test_no_controllers_for_a_number_of_vcpus_that_cannot_be(vcpus: int) -> None:
    """NULL, and NULL may be freed."""
    chip = lib.lk_irqchip_new(vcpus, 1)
    assert chip == ffi.NULL
    lib.lk_irqchip_free(chip)


@pytest.mark.parametrize(
    ("gpa", "width", "value"),
    [
        *((LAPIC + VERSION, 1, 0x14), (LAPIC + VERSION + 2, 2, 5), (LAPIC + VERSION + 1, 4, 0)),
        *((LAPIC + VERSION, 8, 0), (LAPIC + 0x400 + VERSION, 4, 0), (LAPIC + 0xFFF, 1, 0)),
        *((IOAPIC, 1, 1), (IOAPIC + 0x10, 4, 0x170011), (IOAPIC + 0x10, 2, 0x11), (IOAPIC + 0x20, 4, 0)),
        *((LAPIC - 1, 1, None), (LAPIC + 0x1000, 4, None), (IOAPIC + 0x100, 4, None), (0, 4, None)),
        *((LAPIC + VERSION, 0, None), (LAPIC + VERSION, 9, None), (LAPIC + VERSION, 0xFFFFFFFF, None)),
    ],
)
def test_odd_reads_answer_part_of_a_register_or_nothing(gpa: int, width: int, value: int | None) -> None:
    """Within a register its bytes, across two 0; what is no controller's is not answered."""
    chip, data = enabled(), ffi.new("uint64_t *")
    chip.say(0, *read_ioapic(1))
    served = lib.lk_irqchip_mmio(chip.native, 0, gpa, width, 0, data)
    assert (data[0] if served else None) == value


@pytest.mark.parametrize("width", [1, 2, 8])
def test_a_register_is_written_whole(width: int) -> None:
    """A part of it, or two at once, changes nothing; nor does an offset that is none."""
    chip, data = enabled(), ffi.new("uint64_t *", 0x40)
    assert lib.lk_irqchip_mmio(chip.native, 0, LAPIC + TPR, width, 1, data)
    assert lib.lk_irqchip_mmio(chip.native, 0, LAPIC + 0x400 + TPR, 4, 1, data)
    assert chip.say(0, load(TPR)) == [0]


def test_ports_are_bytes() -> None:
    """Both of a pair at once are served and are 0; across its end is nobody's."""
    chip, data = pics(), ffi.new("uint32_t *", 0x12345678)
    assert lib.lk_irqchip_port(chip.native, MASTER, 2, 1, data)
    assert lib.lk_irqchip_port(chip.native, MASTER, 2, 0, data) and data[0] == 0
    odd = [(MASTER + 1, 2), (MASTER, 4), (MASTER, 0), (MASTER, 0xFFFFFFFF), (MASTER + 2, 1), (ELCR - 1, 1)]
    assert not any(lib.lk_irqchip_port(chip.native, port, width, 0, data) for port, width in odd)


@pytest.mark.parametrize("full", [True, False])
def test_any_call_with_any_number_is_harmless(full: bool) -> None:
    """The controllers go on: after a reset a message arrives."""
    dice, chip = random.Random(2010), enabled(3, full=full)
    native, wide, narrow, byte = chip.native, ffi.new("uint64_t *"), ffi.new("uint32_t *"), ffi.new("uint8_t *")

    def number(most: int) -> int:
        return dice.choice([dice.randrange(9), dice.getrandbits(32) % most, most - 1])

    now_ns = 0
    for _ in range(20_000):
        wide[0], narrow[0] = dice.getrandbits(64), dice.getrandbits(32)
        vcpu, width = number(1 << 32), dice.choice([1, 2, 4, 4, 4, 8, number(1 << 32)])
        gpa = dice.choice([LAPIC, IOAPIC, IOAPIC]) + dice.choice(
            [0, 0x10, dice.randrange(0, 0x400, 16), number(1 << 32)]
        )
        lib.lk_irqchip_mmio(native, vcpu % 4, gpa, width, dice.getrandbits(1), wide)
        port = dice.choice([MASTER, SLAVE, ELCR]) + number(3)
        lib.lk_irqchip_port(native, port, width, dice.getrandbits(1), narrow)
        lib.lk_irqchip_message(native, dice.getrandbits(64), dice.getrandbits(32))
        lib.lk_irqchip_line(native, number(1 << 32), dice.getrandbits(1))
        assert -1 <= lib.lk_irqchip_accept(native, vcpu) < 256
        assert lib.lk_irqchip_pending(native, vcpu) in (0, 1)
        assert lib.lk_irqchip_take_event(native, vcpu, byte) in range(4)
        now_ns += number(1 << 32)
        lib.lk_irqchip_set_time(native, now_ns)
        assert lib.lk_irqchip_next_timer(native) > now_ns
        if not dice.randrange(500):
            lib.lk_irqchip_reset_vcpu(native, vcpu)
    lib.lk_irqchip_reset(native)
    chip.say(2, store(SVR, ENABLED), message(VECTOR, 2))
    assert take(chip, 2) == VECTOR


def test_nobody_else_has_interrupts() -> None:
    """A vCPU or a pin that is not there has none and makes none."""
    chip = enabled(2)
    chip.say(0, message(VECTOR, 0xFF), line(1, PINS), line(1, 0xFFFFFFFF))
    for vcpu in (2, 8, 0xFFFFFFFF):
        assert not lib.lk_irqchip_pending(chip.native, vcpu)
        assert lib.lk_irqchip_accept(chip.native, vcpu) == NOTHING
        assert not lib.lk_irqchip_mmio(chip.native, vcpu, LAPIC, 4, 0, ffi.new("uint64_t *"))
    assert takers(chip, 2) == [0, 1]
