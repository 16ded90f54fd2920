"""Do labkit's own interrupt controllers do what KVM's do? Any words in any order, and after each the registers of both.

Left out is where KVM's answer is an accident: lowest priority among APICs that are not there or not enabled (it may
be lost), a level that is for nobody, an edge and a level of one vector, DFR neither flat nor cluster, an acknowledge of
what was just polled away. NMI, INIT, SIPI and the timer's time are in test_irqchip.py alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from irqchips import (
    APR,
    BANKS,
    DFR,
    ELCR,
    ENABLED,
    EOI,
    ESR,
    ICR,
    ICR_HIGH,
    ID,
    IN,
    IRR,
    ISR,
    LDR,
    LEVEL,
    LINE,
    LOGICAL,
    LOWEST,
    LVT,
    MASKED,
    MASTER,
    NOTHING,
    OUT,
    PPR,
    SLAVE,
    SVR,
    TAKEN,
    TIMER_DIVIDE,
    TIMER_INITIAL,
    TMR,
    TPR,
    VERSION,
    Emulated,
    OnKvm,
    Word,
    load,
    message,
    read_ioapic,
    send,
    store,
    write_entry,
    write_ioapic,
)

VCPUS = 2
Step = tuple[int, list[Word]]  # who, and what
pytestmark = [pytest.mark.kvm, pytest.mark.slow]
compared = settings(derandomize=True, database=None, deadline=None, max_examples=40)

REGISTERS = [ID, VERSION, TPR, APR, PPR, LDR, DFR, SVR, ESR, ICR, ICR_HIGH, *LVT, TIMER_INITIAL, TIMER_DIVIDE]
SEEN = [load(offset) for offset in (*REGISTERS, *(bank + n for bank in (ISR, TMR, IRR) for n in BANKS))]
IOAPIC_SEEN = [word for index in (*range(4), 0xF, *range(0x10, 0x40), 0x40, 0xFF) for word in read_ioapic(index)]
READ_IRR, READ_ISR = 0x0A, 0x0B
PICS_SEEN: list[Word] = [
    *((IN, port, 0) for port in (ELCR, ELCR + 1)),
    *(
        word
        for pic in (MASTER, SLAVE)
        for word in ((OUT, pic, READ_IRR), (IN, pic, 0), (OUT, pic, READ_ISR), (IN, pic, 0), (IN, pic + 1, 0))
    ),
]


@contextlib.contextmanager
def both(kind: type[OnKvm]) -> Iterator[tuple[Emulated, OnKvm]]:
    """Controllers of either kind, as at power-on."""
    kernel = kind(VCPUS)
    try:
        yield Emulated(VCPUS), kernel
    finally:
        kernel.close()


def compare(steps: list[Step], kind: type[OnKvm] = OnKvm) -> None:
    """Let both take every step; answers and registers are the same."""
    with both(kind) as (ours, kernel):
        for vcpu, words in [(0, []), *steps]:
            assert ours.say(vcpu, *words) == kernel.say(vcpu, *words)
            for each, seen in ((0, SEEN + IOAPIC_SEEN + PICS_SEEN), (1, SEEN)):
                names = [f"{name} {address:#x} {value:#x}" for name, address, value in seen]
                found, expected = (
                    dict(zip(enumerate(names), chip.say(each, *seen), strict=True)) for chip in (ours, kernel)
                )
                assert found == expected, f"vCPU {each}"


# -- steps -------------------------------------------------------------------------------------------------------------

WHO = st.integers(0, VCPUS - 1)
TAKE_AND_END = [TAKEN, store(EOI, 0)]
WORTHLESS, LOW_CLASS, SAME_CLASS = 0x05, 0x10, 0x2F  # class 0 is never delivered
VECTOR = st.sampled_from([WORTHLESS, LOW_CLASS, 0x20, 0x21, SAME_CLASS, 0x45, 0x46, 0x80, 0x81, 0xFE, 0xFF])
DESTINATION = st.sampled_from([0, 1, 2, 3, 0xFF])


def bits(*choices: int) -> st.SearchStrategy[int]:
    """None or one of some bits."""
    return st.sampled_from([0, *choices])


def several(*words: st.SearchStrategy[list[Word]], most: int = 30, who: int | None = None) -> st.SearchStrategy:
    """Some of these, by either vCPU or by one."""
    by = WHO if who is None else st.just(who)
    return st.lists(st.tuples(by, st.one_of(*words)), min_size=most // 2, max_size=most)


def ored(*parts: st.SearchStrategy[int]) -> st.SearchStrategy[int]:
    """A word made of parts."""
    return st.tuples(*parts).map(sum)


def registers(*offsets: int, value: st.SearchStrategy[int]) -> st.SearchStrategy[list[Word]]:
    """A write to one of them."""
    return st.tuples(st.sampled_from(offsets), value).map(lambda to: [store(*to)])


ANY = st.one_of(st.integers(0, 0xFFFFFFFF), st.sampled_from([0, 0xFFFFFFFF]))
NO_DEADLINE_TIMER = ANY.map(lambda value: value & ~(1 << 18))  # a mode that CPUID offers on KVM only
LDRS = st.sampled_from([0, 1, 2, 4, 0x11, 0x12, 0x21, 0xFF]).map(lambda value: value << 24)
taking = st.just(TAKE_AND_END)
enabling = registers(SVR, value=st.sampled_from([ENABLED, ENABLED, 0x100, 0xFF]))
priorities = registers(TPR, value=st.sampled_from([0, 0, 0x10, 0x25, 0x40, 0xFF, 0x1FF]))
ipis = st.builds(
    send, ored(VECTOR, bits(LOGICAL), bits(0x4000, 0xC000, 0x8000), bits(1 << 18, 2 << 18, 3 << 18)), DESTINATION
)
messages = st.builds(
    lambda vector, to, logical: [message(vector, to, logical=logical)],
    ored(VECTOR, bits(0x4000, 0xC000)),
    DESTINATION,
    st.booleans(),
)
lines = st.tuples(st.sampled_from([0, 1, 3, 7, 8, 9, 11, 13, 15, 16, 23]), st.integers(0, 1)).map(
    lambda line: [(LINE, *line)]
)
ready = [(vcpu, [store(SVR, ENABLED), store(LDR, 1 << 24 + vcpu)]) for vcpu in range(VCPUS)]


@compared
@given(
    several(
        registers(*range(0, 0x300, 16), *range(0x330, 0x380, 16), *range(0x390, 0x1000, 16), value=ANY),
        registers(LVT[0], value=NO_DEADLINE_TIMER),
        taking,
    )
)
def test_registers_keep_the_bits_that_kvms_keep(steps: list[Step]) -> None:
    """Any value, written to any register that sends nothing and starts no timer, reads as it does on KVM."""
    compare(steps)


@compared
@given(
    several(
        registers(DFR, value=st.sampled_from([0xFFFFFFFF, 0xFFFFFFFF, 0x0FFFFFFF])),
        registers(LDR, value=LDRS),
        registers(ID, value=st.sampled_from([0, 1, 7]).map(lambda id: id << 24)),
        *(enabling, priorities, ipis, ipis, messages, messages, taking, taking),
    )
)
def test_interrupts_arrive_where_kvms_arrive(steps: list[Step]) -> None:
    """Messages and commands, whatever their destination and whoever has which ID and LDR: IRR, TMR, vectors."""
    compare(ready + steps)


@compared
@given(
    several(
        st.builds(
            lambda vector, to, kind: [message(vector | kind, to, logical=True, to_one=not kind)],
            VECTOR,
            st.sampled_from([1, 2, 3]),
            bits(LOWEST),
        ),
        st.builds(lambda vector, to: send(vector | LOWEST | LOGICAL, to), VECTOR, st.sampled_from([1, 2, 3])),
        priorities,
        taking,
    ),
    st.sampled_from([0xFFFFFFFF, 0x0FFFFFFF]),
)
def test_lowest_priority_chooses_as_kvms_does(steps: list[Step], model: int) -> None:
    """Of two enabled APICs one gets it, the same as on KVM, with flat and with cluster addresses."""
    compare([*ready, *((vcpu, [store(DFR, model)]) for vcpu in range(VCPUS)), *steps])


LEVELS, EDGES = [0x21, 0x45, 0x81, 0xFF], [0x10, 0x20, 0x46, 0x80]  # no vector is both
TRIGGER = st.sampled_from([*(vector | LEVEL for vector in LEVELS), *EDGES])
ENTRY = ored(TRIGGER, bits(LOGICAL), bits(MASKED), bits(0x2000, 0x5000))
few_lines = st.builds(lambda pin, level: [(LINE, pin, level)], st.sampled_from([3, 23]), st.integers(0, 1))
entries = st.builds(write_entry, st.sampled_from([3, 23]), ENTRY, st.sampled_from([0, 1, 0xFF]))
odd_entries = st.builds(write_ioapic, st.sampled_from([0, 1, 2, 3, 0xF, 0x40, 0xFF]), ANY)


@compared
@given(
    several(few_lines, few_lines, lines, entries, entries, odd_entries, taking, taking, enabling, priorities, most=40)
)
def test_lines_arrive_at_the_local_apics_as_on_kvm(steps: list[Step]) -> None:
    """Edges and levels, masked and not, taken and ended: the entries with Remote IRR, IRR, TMR and what is taken."""
    compare(ready + steps)


@st.composite
def initializations(draw: st.DrawFn) -> list[Word]:
    """ICW1 to ICW4 and a mask; KVM looks at its lines again when the mask is written."""
    pic, has_icw4 = draw(st.sampled_from([MASTER, SLAVE])), draw(st.integers(0, 1))
    icws = [draw(st.sampled_from([0x20, 0x28, 0x73, 0xF0])), draw(st.sampled_from([2, 4]))]
    icws += [draw(st.sampled_from([0x01, 0x03, 0x11, 0x13]))] if has_icw4 else []
    return [(OUT, pic, 0x10 | has_icw4), *((OUT, pic + 1, value) for value in (*icws, draw(MASKS)))]


@st.composite
def polls(draw: st.DrawFn) -> list[Word]:
    """A poll, read at either port, and a mask."""
    pic = draw(st.sampled_from([MASTER, SLAVE]))
    return [(OUT, pic, 0x0C), (IN, pic + draw(st.integers(0, 1)), 0), (OUT, pic + 1, draw(MASKS))]


def ports(*choices: int, value: st.SearchStrategy[int]) -> st.SearchStrategy[list[Word]]:
    """A write to one of them."""
    return st.tuples(st.sampled_from(choices), value).map(lambda to: [(OUT, *to)])


MASKS = st.one_of(st.just(0), st.just(0), st.sampled_from([0xFF, 0xFB]), st.integers(0, 0xFF))
rising = lines.map(lambda words: [(name, pin, level) for name, pin, _ in words for level in (0, 1)])
serving = st.just([TAKEN, (OUT, SLAVE, 0x20), (OUT, MASTER, 0x20)])
OPERATIONS = st.one_of(st.just(0x20), st.tuples(st.integers(0, 7), st.integers(0, 7)).map(lambda x: x[0] << 5 | x[1]))


@compared
@given(
    several(
        *(lines, rising, rising, rising, taking, serving, serving, serving, initializations(), polls()),
        ports(MASTER + 1, SLAVE + 1, value=MASKS),
        ports(MASTER, SLAVE, value=OPERATIONS),
        ports(MASTER, SLAVE, value=st.sampled_from([0x08, 0x0A, 0x0B, 0x48, 0x68])),
        ports(ELCR, ELCR + 1, value=st.sampled_from([0, 0xFF, 0x08, 0x80])),
        most=40,
        who=0,
    ),
    st.sampled_from([0, 0xFF]),
)
def test_the_two_pics_do_what_kvms_do(steps: list[Step], levels: int) -> None:
    """Lines, masks, ends, rotation, polls, levels, initializations: IRR, ISR, masks, and the vector that is taken."""
    opened = [(OUT, port, 0) for port in (MASTER + 1, SLAVE + 1)]
    compare([(0, [*opened, (OUT, ELCR, levels), (OUT, ELCR + 1, levels)]), *steps])


class HeldOnKvm(OnKvm):
    """KVM's, with what was taken in service until its end. Some hosts' KVM ends an interrupt as it delivers it, and
    honours all the same what is put into its ISR."""

    def say(self, vcpu: int, *words: Word) -> list[int]:
        """See Controllers."""
        if TAKEN not in words:
            return super().say(vcpu, *words)
        return [answer for word in words for answer in self._say(vcpu, word)]

    def _say(self, vcpu: int, word: Word) -> list[int]:
        answers = super().say(vcpu, word)
        if word == TAKEN and answers != [NOTHING]:
            self.put_in_service(vcpu, answers[0])
        return answers


edges = st.builds(write_entry, st.sampled_from([0, 9, 16]), ored(VECTOR, bits(MASKED)), st.sampled_from([0, 1, 0xFF]))
edge_ipis = st.builds(send, VECTOR, DESTINATION)
edge_messages = st.builds(message, VECTOR, DESTINATION).map(lambda word: [word])


@compared
@given(
    several(
        *(edge_ipis, edge_messages, edge_messages, lines, edges, priorities),
        *(st.just([TAKEN]), st.just([TAKEN]), st.just([store(EOI, 0)])),
        most=40,
    )
)
def test_what_is_in_service_holds_back_as_on_kvm(steps: list[Step]) -> None:
    """Edges that are ended later, or inside one another: ISR, PPR, and what can be taken meanwhile."""
    compare(ready + steps, HeldOnKvm)
