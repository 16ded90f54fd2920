"""Do events arrive in order, whoever emits them, and does a reader learn what it has missed?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest

from labkit.abi import Register, Status
from labkit.memory import GuestMemory
from labkit.native import ffi, lib
from labkit.trace import Trace
from labkit.trace.events import FIELDS, Actor, Cause, Event, Kind, Owner, actor_text, decode, status_text
from labkit.trace.feed import Feed
from labkit.trace.recorded import Recorded

pytestmark = pytest.mark.usefixtures("leaves_nothing")

SMALL = 64  # the least a feed can hold


@pytest.fixture
def small() -> Iterator[Feed]:
    """A feed that holds 64 events."""
    native = ffi.gc(lib.lk_feed_new(SMALL), lib.lk_feed_free)
    yield Feed(SimpleNamespace(feed=native))
    ffi.release(native)


@pytest.fixture
def feed() -> Iterator[Feed]:
    """The feed of a machine's memory, as large as machines have it."""
    with closing(GuestMemory(1)) as memory:
        yield Feed(memory.native)


def no_recording() -> Recorded:
    """A feed without a machine has nothing else to save."""
    raise AssertionError


def values(events: list[Event]) -> list[int]:
    """The first field of each event: what the tests number them by."""
    return [int(event["kicks"]) for event in events]


def emit(feed: Feed, numbers: range) -> None:
    """One event for each number."""
    for number in numbers:
        feed.emit(Kind.DRAIN, -1, number, number)


# -- order and loss ----------------------------------------------------------------------------------------------------


def test_events_come_in_the_order_they_were_emitted(feed: Feed) -> None:
    """seq counts from 1 without gaps, and time does not go back."""
    emit(feed, range(100))
    events, lost = feed.read()
    assert (values(events), lost) == (list(range(100)), 0)
    assert [event.seq for event in events] == list(range(1, 101))
    times = [event.time_ns for event in events]
    assert times == sorted(times)


def test_a_mark_divides_before_from_after(feed: Feed) -> None:
    """Reading from a position gives what was emitted since, and nothing at the end or beyond it."""
    emit(feed, range(5))
    mark = feed.position()
    emit(feed, range(5, 8))
    assert mark == 5
    assert values(feed.read(mark)[0]) == [5, 6, 7]
    assert feed.read(feed.position()) == ([], 0)
    assert feed.read(feed.position() + 100) == ([], 0)


def test_an_empty_feed_reads_empty(feed: Feed) -> None:
    """No event, no loss."""
    assert feed.read() == ([], 0)
    assert feed.position() == 0


@pytest.mark.parametrize("emitted", [SMALL - 1, SMALL, SMALL + 1, 3 * SMALL, 10 * SMALL + 7])
def test_the_newest_events_win_and_the_lost_are_counted(small: Feed, emitted: int) -> None:
    """A full feed forgets its oldest: what is read and what is lost add up to what was emitted."""
    emit(small, range(emitted))
    events, lost = small.read()
    assert lost == max(0, emitted - SMALL)
    assert values(events) == list(range(lost, emitted))
    assert small.position() == emitted


def test_loss_is_counted_from_where_one_reads(small: Feed) -> None:
    """A reader who had seen the first half has lost only what came after."""
    emit(small, range(2 * SMALL))
    assert small.read(SMALL // 2)[1] == SMALL // 2
    assert small.read(SMALL)[1] == 0


def test_more_events_than_one_batch(feed: Feed) -> None:
    """A read of more events than are copied at a time gives them all, once."""
    emit(feed, range(10_000))
    events, lost = feed.read()
    assert (len(events), lost) == (10_000, 0)
    assert values(events) == list(range(10_000))


# -- threads -----------------------------------------------------------------------------------------------------------


def test_several_threads_share_one_order(feed: Feed) -> None:
    """Each thread's events are in its own order in the one sequence, and none is missing or there twice."""
    threads, each = 4, 500

    def work(thread: int) -> None:
        for number in range(each):
            feed.emit(Kind.KICK_TRAP, thread, number)

    run_together(threads, work)
    events, lost = feed.read()
    assert (len(events), lost) == (threads * each, 0)
    assert [event.seq for event in events] == list(range(1, threads * each + 1))
    for thread in range(threads):
        assert [event["value"] for event in events if event.queue == thread] == list(range(each))


def test_reading_while_others_write(small: Feed) -> None:
    """A reader that races with writers sees whole events in order, and read and lost add up to what was emitted."""
    threads, each = 3, 2000
    seen: list[Event] = []
    lost = at = 0
    done = threading.Event()

    def work(thread: int) -> None:
        for number in range(each):
            small.emit(Kind.REQUEST, thread, number, number, number, number, number)

    def write_all() -> None:
        run_together(threads, work)
        done.set()

    writers = threading.Thread(target=write_all)
    writers.start()
    over = False
    while not over:
        over = done.is_set()  # asked before the read: what is emitted before the last read is in it
        events, missed = small.read(at)
        seen += events
        lost += missed
        at += len(events) + missed
    writers.join()
    assert len(seen) + lost == threads * each == small.position()
    assert all(len({event["sector"], event["bytes"], event["head"]}) == 1 for event in seen)
    assert [event.seq for event in seen] == sorted({event.seq for event in seen})


def test_writers_that_lap_each_other_leave_the_feed_readable() -> None:
    """However far a thread that was held up while writing is overtaken, the newest events can all be read after."""
    threads, each = 16, 1000
    for _ in range(5):
        native = ffi.gc(lib.lk_feed_new(SMALL), lib.lk_feed_free)
        run_together(threads, lambda _, native=native: lib.lk_event_ps(native, each))
        events, lost = Feed(SimpleNamespace(feed=native)).read()
        assert lost == threads * each - SMALL
        assert [event.seq for event in events] == list(range(threads * each - SMALL + 1, threads * each + 1))
        ffi.release(native)


def run_together(count: int, work: Callable[[int], object]) -> None:
    """Run `work(0)`, `work(1)` ... in a thread each, all let go at once; wait for their end."""
    gate = threading.Barrier(count)

    def one(number: int) -> None:
        gate.wait()
        work(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_an_event_names_the_thread_that_did_it(feed: Feed) -> None:
    """The actor is the emitting thread's own, and a thread that has said nothing is the host."""

    def as_vcpu() -> None:
        lib.lk_set_actor(Actor.VCPU0 + 3)
        feed.emit(Kind.DEVICE_RESET)

    thread = threading.Thread(target=as_vcpu)
    thread.start()
    thread.join()
    feed.emit(Kind.DEVICE_RESET)
    assert [event.actor for event in feed.read()[0]] == ["vcpu3", "host"]


# -- after the machine -------------------------------------------------------------------------------------------------


def test_a_kept_feed_answers_after_the_machine_is_gone() -> None:
    """Events, positions and loss are as they were; an event that comes too late is not recorded, and harms nobody."""
    memory = GuestMemory(1)
    feed = Feed(memory.native)
    emit(feed, range(10))
    before = feed.read(), feed.read(7), feed.position()
    feed.keep()
    memory.close()
    assert (feed.read(), feed.read(7), feed.position()) == before
    feed.emit(Kind.DRAIN, -1, 1)
    feed.keep()
    assert feed.position() == 10


def test_a_kept_feed_knows_what_it_had_lost(small: Feed) -> None:
    """Keeping a feed that had run over keeps the count too."""
    emit(small, range(SMALL + 5))
    small.keep()
    assert Trace(small, no_recording, "kvm").lost == 5
    assert len(Trace(small, no_recording, "kvm").events()) == SMALL
    assert small.read(SMALL)[1] == 0, "nothing was lost after this position"


# -- events as objects -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_can_be_decoded(kind: Kind) -> None:
    """Each kind has its fields, up to five with names of their own, and an event of it prints in one line."""
    shape = FIELDS[kind]
    names = [name for name, _ in shape]
    assert len(set(names)) == len(names) <= 5
    for numbers in ((0,) * 5, (1, 2, 3, 4, 5), (2**64 - 1,) * 5):
        event = decode(1, 2, kind, Actor.HOST, 0, numbers)
        assert list(event.values) == names
        assert event.name in str(event) or kind is Kind.OWNER
        assert "\n" not in str(event)


def test_fields_are_told_in_words() -> None:
    """Numbers with names are shown by name; numbers without stay numbers."""
    owner = decode(1, 0, Kind.OWNER, Actor.VCPU0, 0, (Owner.NONE, Owner.VMM, 2, Cause.DRIVER_OK, 9))
    assert owner.values == {"before": "none", "after": "vmm", "rule": "R2", "cause": "DRIVER_OK", "fd": 9}
    assert str(owner) == "vcpu0     queue 0 owner none -> vmm because DRIVER_OK (R2)"
    gone = decode(1, 0, Kind.OWNER, Actor.VCPU0, 0, (Owner.VMM, Owner.NONE, 10, Cause.PAUSE, 2**64 - 1))
    assert gone["fd"] == -1  # there is none, and no number of twenty digits
    register = decode(1, 0, Kind.REGISTER, Actor.VCPU0, -1, (Register.STATUS, 1, 7, 1, 0))
    assert (register.queue, register["register"], register["value"]) == (None, "STATUS", "0x7")
    unknown = decode(1, 0, Kind.REGISTER, Actor.VCPU0, -1, (99, 1, 7, 1, 0))
    assert unknown["register"] == 99


def test_every_actor_has_its_word() -> None:
    """Threads by name, vCPUs by number."""
    assert [actor_text(actor) for actor in Actor] == ["host", "owner", "iothread", "backend", "vcpu0"]
    assert actor_text(Actor.VCPU0 + 7) == "vcpu7"


def test_status_is_told_bit_by_bit() -> None:
    """Known bits by name, others in hex, none at all as 0."""
    assert status_text(0) == "0"
    assert status_text(Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK) == "ACKNOWLEDGE|DRIVER|DRIVER_OK"
    assert status_text(0x48) == "0x48"
    assert status_text(Status.FAILED | 0x40) == "FAILED|0x40"


def test_numbers_are_stored_modulo_two_to_the_64(feed: Feed) -> None:
    """A negative number from Python does not fail to be recorded."""
    feed.emit(Kind.EXIT, -1, -1)
    assert feed.read()[0][0]["exit_code"] == 2**64 - 1


# -- the trace ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def trace(feed: Feed) -> Trace:
    """A trace of four events on two queues."""
    feed.emit(Kind.KICK_TRAP, 0, 0, 2, 0xC010)
    feed.emit(Kind.QUEUE_NOTIFY, 0, 1)
    feed.emit(Kind.KICK_TRAP, 1, 1, 2, 0xC010)
    feed.emit(Kind.DEVICE_RESET)
    return Trace(feed, no_recording, "emulated")


def test_a_trace_is_filtered_by_kind_queue_and_position(trace: Trace) -> None:
    """Filters narrow what is shown and change nothing."""
    assert [event.name for event in trace.events()] == ["kick_trap", "queue_notify", "kick_trap", "device_reset"]
    assert [event.queue for event in trace.events("kick_trap")] == [0, 1]
    assert [event.name for event in trace.events(queue=0)] == ["kick_trap", "queue_notify"]
    assert [event.name for event in trace.events("kick_trap", queue=1, since=1)] == ["kick_trap"]
    assert [event.name for event in trace.events(since=3)] == ["device_reset"]
    assert (trace.mark(), trace.lost) == (4, 0)


def test_a_trace_as_a_table(trace: Trace) -> None:
    """One row an event, one column a field, time from the first row on; an empty selection keeps its columns."""
    frame = trace.frame()
    assert list(frame["event"]) == ["kick_trap", "queue_notify", "kick_trap", "device_reset"]
    assert list(frame["seq"]) == [1, 2, 3, 4]
    assert frame["time_s"].iloc[0] == 0
    assert frame.loc[0, "port"] == "0xc010"
    empty = trace.frame("crash")
    assert list(empty.columns) == ["seq", "time_s", "actor", "event", "queue"]


def test_a_trace_prints_itself(trace: Trace) -> None:
    """As the last line of a cell: a table with a caption; as text: how many events there are."""
    assert repr(trace) == "<trace: 4 events, cpu: emulated, whose times say nothing about hardware>"
    assert (
        "<caption>last events, cpu: emulated, whose times say nothing about hardware</caption>" in trace._repr_html_()
    )
    assert "port=0xc010" in trace._repr_html_()
