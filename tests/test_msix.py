"""Where does an interrupt go? Masks, pending bits, and routes told to the back end no more often than needed.

There is no guest: `FakeRouter` stands for the CPU back end and remembers what it was told. The eventfds are real.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from labkit.abi import NUMBERS
from labkit.errors import HostError
from labkit.memory import GuestMemory
from labkit.native import ffi, lib
from labkit.pc.bus import Bus
from labkit.pc.msix import CAP, CONTROL, ENABLE, ENTRY_BYTES, ENTRY_CONTROL, MASK_ALL, MASKED, PBA, Msix
from labkit.pc.pci import PciFunction

pytestmark = pytest.mark.usefixtures("leaves_nothing")

VECTORS = 2
APIC = 0xFEE00000
NONE, MSIX, HELD = lib.IRQ_WAY_NONE, lib.IRQ_WAY_MSIX, lib.IRQ_WAY_MASKED


class FakeRouter:
    """Stands for the CPU back end: remembers vectors and routes. Fails at vector `refuses`, as KVM_IRQFD may."""

    def __init__(self, refuses: int | None = None) -> None:
        self.bound: list[tuple[int, int]] = []
        self.routes: list[list[tuple[int, int]]] = []
        self.on_route: Callable[[], None] = lambda: None
        self._refuses = refuses

    def bind_vector(self, vector: int, fd: int) -> None:
        """Remember it."""
        if vector == self._refuses:
            raise HostError("KVM_IRQFD", errno.EBUSY)
        self.bound.append((vector, fd))

    def route(self, messages: Sequence[tuple[int, int]]) -> None:
        """Remember it."""
        self.on_route()
        self.routes.append(list(messages))


class Bench:
    """A function with MSI-X, a device of the C core, and the driver's hands."""

    def __init__(self, router: FakeRouter) -> None:
        self.memory = GuestMemory(1)
        self.device: Any = ffi.gc(lib.lk_device_new(self.memory.native, lib.DEVICE_NULL), lib.lk_device_free)
        self.function, self.router = PciFunction({}, Bus(1 << 16), Bus(1 << 52)), router
        try:
            self.msix = Msix(self.function, VECTORS, self.device, router)
        except BaseException:
            self.memory.close()
            raise

    def control(self, value: int) -> None:
        """A guest's write of the control word."""
        self.function.write_config(CONTROL, 2, value)
        self.msix.control_written()

    def entry(self, vector: int, data: int, *, masked: bool = False) -> None:
        """A table entry as a driver writes it: masked first, then the message, then the mask bit as wanted."""
        at = vector * ENTRY_BYTES
        self.msix.write(at + ENTRY_CONTROL, 4, MASKED)
        for offset, value in ((0, APIC), (4, 0), (8, data), (ENTRY_CONTROL, MASKED if masked else 0)):
            self.msix.write(at + offset, 4, value)

    def mask(self, vector: int, masked: bool) -> None:
        """The mask bit of an entry."""
        self.msix.write(vector * ENTRY_BYTES + ENTRY_CONTROL, 4, MASKED if masked else 0)

    def raises(self, vector: int) -> int:
        """The device raises a vector; which way it went."""
        return int(lib.lk_vector_raise(self.device, vector))

    def arrived(self, vector: int) -> int:
        """How many interrupts the back end got on this vector since last asked."""
        try:
            return os.eventfd_read(dict(self.router.bound)[vector])
        except BlockingIOError:
            return 0

    @property
    def pending(self) -> int:
        """The pending bits as the guest reads them."""
        return self.msix.read(PBA, 4) & 0xFFFFFFFF

    def close(self) -> None:
        """Give everything back."""
        self.msix.close()
        self.memory.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Two vectors, MSI-X off."""
    bench = Bench(FakeRouter())
    yield bench
    bench.close()


def test_the_capability_says_where_the_table_is(bench: Bench) -> None:
    """The guest finds MSI-X by the capability list: 2 vectors, table at 0 and pending bits at 0x800 of BAR 1."""
    function = bench.function
    assert function.get(NUMBERS["PCI_STATUS"], 2) & NUMBERS["PCI_STATUS_CAPABILITIES"]
    assert function.get(NUMBERS["PCI_CAPABILITIES"], 1) == CAP
    assert function.get(CAP, 2) == NUMBERS["PCI_CAP_MSIX"], "and it is the last of the list"
    assert function.get(CONTROL, 2) == VECTORS - 1
    assert function.get(CAP + NUMBERS["MSIX_TABLE"], 4) == NUMBERS["MSIX_BAR"]
    assert function.get(CAP + NUMBERS["MSIX_PBA"], 4) == PBA | NUMBERS["MSIX_BAR"]


def test_of_the_control_word_two_bits_can_be_written(bench: Bench) -> None:
    """Enable and mask-all are the guest's, the number of vectors is not."""
    bench.control(0xFFFF)
    assert bench.function.get(CONTROL, 2) == ENABLE | MASK_ALL | VECTORS - 1
    bench.control(0)
    assert bench.function.get(CONTROL, 2) == VECTORS - 1


def test_each_vector_has_an_eventfd_of_its_own(bench: Bench) -> None:
    """The back end is given one eventfd a vector, the ones that the C core writes to."""
    assert [vector for vector, _ in bench.router.bound] == list(range(VECTORS))
    assert [bench.device.vectors[vector].fd for vector, _ in bench.router.bound] == [fd for _, fd in bench.router.bound]
    assert len({fd for _, fd in bench.router.bound}) == VECTORS


def test_all_vectors_are_masked_at_first(bench: Bench) -> None:
    """After power-on an enabled MSI-X delivers nothing: every entry is masked, empty, and no route is set."""
    bench.control(ENABLE)
    assert [bench.msix.read(n * ENTRY_BYTES + ENTRY_CONTROL, 4) for n in range(VECTORS)] == [MASKED] * VECTORS
    assert bench.raises(0) == HELD
    assert (bench.arrived(0), bench.router.routes) == (0, [])


def test_a_message_is_delivered(bench: Bench) -> None:
    """An unmasked entry of an enabled MSI-X reaches its own eventfd and no other."""
    bench.control(ENABLE)
    bench.entry(0, 0x41)
    bench.entry(1, 0x42)
    assert bench.raises(1) == MSIX
    assert (bench.arrived(0), bench.arrived(1), bench.pending) == (0, 1, 0)
    assert bench.router.routes[-1] == [(APIC, 0x41), (APIC, 0x42)]


def test_a_masked_vector_is_pending_and_delivered_once_on_unmask(bench: Bench) -> None:
    """However often it was raised under the mask, the pending bit is one bit, and unmasking delivers it."""
    bench.control(ENABLE)
    bench.entry(1, 0x42, masked=True)
    assert [bench.raises(1) for _ in range(3)] == [HELD] * 3
    assert (bench.pending, bench.arrived(1)) == (0b10, 0)
    bench.mask(1, False)
    assert (bench.pending, bench.arrived(1)) == (0, 1)


def test_the_route_is_there_before_the_pending_message(bench: Bench) -> None:
    """Unmasking sets the route first: the message that was pending goes where the entry says now."""
    bench.control(ENABLE)
    bench.entry(0, 0x41, masked=True)
    bench.raises(0)
    arrived_at_route: list[int] = []
    bench.router.on_route = lambda: arrived_at_route.append(bench.arrived(0))
    bench.mask(0, False)
    assert arrived_at_route == [0]
    assert bench.arrived(0) == 1


def test_mask_all_holds_every_vector(bench: Bench) -> None:
    """The function's mask counts above the vectors' own; lifting it delivers what is pending and unmasked."""
    bench.control(ENABLE)
    bench.entry(0, 0x41)
    bench.entry(1, 0x42, masked=True)
    bench.control(ENABLE | MASK_ALL)
    assert (bench.raises(0), bench.raises(1), bench.pending) == (HELD, HELD, 0b11)
    bench.control(ENABLE)
    assert (bench.arrived(0), bench.arrived(1), bench.pending) == (1, 0, 0b10)


def test_masking_a_vector_leaves_the_others_pending_bits_alone(bench: Bench) -> None:
    """A write to one entry delivers nothing on another that is still masked."""
    bench.control(ENABLE)
    bench.entry(0, 0x41, masked=True)
    bench.entry(1, 0x42, masked=True)
    bench.raises(0)
    bench.mask(1, False)
    bench.mask(1, True)
    assert (bench.pending, bench.arrived(0), bench.arrived(1)) == (0b01, 0, 0)


def test_routes_are_set_once(bench: Bench) -> None:
    """Setting routes costs the kernel a grace period: masking and unmasking the same message sets none again."""
    bench.control(ENABLE | MASK_ALL)
    bench.entry(0, 0x41)
    bench.entry(1, 0x42)
    assert bench.router.routes == []
    bench.control(ENABLE)
    assert bench.router.routes == [[(APIC, 0x41), (APIC, 0x42)]]
    for masked in (True, False, True, False):
        bench.mask(0, masked)
    bench.control(ENABLE | MASK_ALL)
    bench.control(ENABLE)
    assert len(bench.router.routes) == 1


def test_a_changed_message_is_routed_again(bench: Bench) -> None:
    """A new address or new data of an unmasked vector reaches the back end; a masked vector's waits for its unmask."""
    bench.control(ENABLE)
    bench.entry(0, 0x41)
    bench.entry(1, 0x42, masked=True)
    assert bench.router.routes == [[(APIC, 0x41), (0, 0)]]
    bench.mask(1, False)
    bench.msix.write(8, 4, 0x51)
    assert bench.router.routes[1:] == [[(APIC, 0x41), (APIC, 0x42)], [(APIC, 0x51), (APIC, 0x42)]]


def test_an_entry_can_be_written_and_read_in_parts(bench: Bench) -> None:
    """Accesses of 1, 2, 4 and 8 bytes reach the same table."""
    bench.msix.write(0, 8, 0x1122334455667788)
    bench.msix.write(8, 2, 0xBEEF)
    bench.msix.write(10, 1, 0x7F)
    assert bench.msix.read(0, 4) == 0x55667788
    assert bench.msix.read(4, 4) == 0x11223344
    assert bench.msix.read(8, 4) == 0x007FBEEF
    assert bench.msix.read(0, 8) == 0x1122334455667788


def test_beside_table_and_pending_bits_there_is_nothing(bench: Bench) -> None:
    """The rest of BAR 1 reads zero and takes no write; pending bits cannot be written."""
    bench.control(ENABLE)
    bench.raises(0)
    end = VECTORS * ENTRY_BYTES
    for offset in (end, end - 2, PBA, PBA + 8, NUMBERS["MSIX_BAR_BYTES"] - 4):
        bench.msix.write(offset, 4, 0xFFFFFFFF)
    assert [bench.msix.read(offset, 4) for offset in (end, PBA + 8, 0xFFC)] == [0, 0, 0]
    assert bench.pending == 0b01


def test_a_vector_that_does_not_exist_is_no_interrupt(bench: Bench) -> None:
    """NO_VECTOR, or a number beyond the last vector, raises nothing."""
    bench.control(ENABLE)
    for vector in (VECTORS, NUMBERS["MSIX_VECTORS_MAX"] - 1, NUMBERS["MSIX_VECTORS_MAX"], NUMBERS["NO_VECTOR"]):
        assert bench.raises(vector) == NONE
    assert bench.pending == 0


def test_a_reset_masks_all_and_forgets_what_was_pending(bench: Bench) -> None:
    """MSI-X off, every vector masked, no pending bit, nothing delivered; the eventfds stay."""
    bench.control(ENABLE)
    bench.entry(0, 0x41, masked=True)
    bench.raises(0)
    bench.msix.reset()
    assert (bench.msix.enabled, bench.pending, bench.arrived(0)) == (False, 0, 0)
    assert bench.msix.read(ENTRY_CONTROL, 4) == MASKED
    bench.control(ENABLE)
    bench.entry(0, 0x43)
    assert bench.raises(0) == MSIX


def test_the_same_message_after_a_reset_is_still_routed(bench: Bench) -> None:
    """The back end keeps its routes over a reset: the same driver writing the same messages costs no new route."""
    for _ in range(2):
        bench.control(ENABLE | MASK_ALL)
        bench.entry(0, 0x41)
        bench.control(ENABLE)
        bench.msix.reset()
    assert bench.router.routes == [[(APIC, 0x41), (0, 0)]]


def test_a_back_end_that_refuses_a_vector_leaves_no_eventfd() -> None:
    """Half-built MSI-X is undone: the error goes up, and no fd stays open (leaves_nothing)."""
    with pytest.raises(HostError, match="KVM_IRQFD: EBUSY"):
        Bench(FakeRouter(refuses=1))


def test_closed_msix_raises_nothing(bench: Bench) -> None:
    """The C core has no fd to write to any more, and close may be called twice."""
    bench.msix.close()
    bench.msix.close()
    assert bench.raises(0) == NONE
