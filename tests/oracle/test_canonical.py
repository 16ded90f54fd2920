"""From what two machines trace to lines that can be compared."""

from __future__ import annotations

import pytest

from labkit.abi import Status
from labkit.trace.events import Actor, Event, Ignored, Kind, Run, State, decode
from oracle import canonical, differences, recording
from oracle.report import Result, scenario_table
from oracle.scenarios import Scenario

VCPU_THREAD, MAIN_THREAD = 7, 5


def traced(thread: int, said: str) -> str:
    """A line of QEMU's trace."""
    return f"{thread}@1700000000.000001:{said}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (traced(VCPU_THREAD, "virtio_set_status vdev 0x55 val 7"), ["vcpu status 7"]),
        (traced(VCPU_THREAD, "virtio_set_status vdev 0x55 val 131"), ["vcpu status 0x83"]),
        (traced(MAIN_THREAD, "virtio_queue_notify vdev 0x55 n 0 vq 0x7f"), ["main queue_notify 0"]),
        (
            traced(VCPU_THREAD, "kvm_set_ioeventfd_pio fd: 17 @0xc010 val=0x0 assign: 1 size: 2 match: 1"),
            ["vcpu assign bar0+16 value 0"],
        ),
        (
            traced(MAIN_THREAD, "kvm_set_ioeventfd_pio fd: 17 @0xd010 val=0x2 assign: 0 size: 2 match: 1"),
            ["main deassign 0xd010 value 2"],
        ),
        (traced(MAIN_THREAD, "runstate_set current_run_state 9 (running) new_state 4 (paused)"), ["main paused"]),
        (traced(MAIN_THREAD, "runstate_set current_run_state 4 (paused) new_state 6 (prelaunch)"), []),
        ("a warning that is no trace", []),
    ],
)
def test_a_line_of_qemu(line: str, expected: list[str]) -> None:
    """Thread, act, port and value are kept; pointers, fds and times are not."""
    assert canonical.of_qemu([line], VCPU_THREAD) == expected


def event(kind: Kind, actor: int, queue: int, *numbers: int) -> Event:
    """An event of labkit's feed, numbers padded to the five of a record."""
    padded = (*numbers, 0, 0, 0, 0, 0)
    return decode(1, 0, kind, actor, queue, (padded[0], padded[1], padded[2], padded[3], padded[4]))


def test_the_events_of_labkit() -> None:
    """The same words for status, run state, assign and deassign; another errno than 0 shows."""
    up = Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK
    events = [
        event(Kind.STATUS, Actor.VCPU0, -1, 0, up),
        event(Kind.STATUS, Actor.OWNER, -1, up, 0x83),
        event(Kind.STATUS, Actor.OWNER, -1, up, 0),
        event(Kind.ASSIGN, Actor.VCPU0, 0, 0xC010, 0, 17),
        event(Kind.DEASSIGN, Actor.OWNER, 0, 0xD010, 0, 17, 2),
        event(Kind.RUNSTATE, Actor.OWNER, -1, State.RUNNING, State.PAUSED),
        event(Kind.RUNSTATE, Actor.OWNER, -1, State.PAUSED, State.CLOSED),
    ]
    assert canonical.of_labkit(events) == [
        "vcpu status 7",
        "main status 0x83",
        "main status 0",
        "vcpu assign bar0+16 value 0",
        "main deassign 0xd010 value 0 errno 2",
        "main paused",
    ]


def test_a_trap_is_told_once_whoever_runs_the_queue() -> None:
    """The kick that traps is the vCPU's line; a run by the iothread is another, a run in the trap is not."""
    trap = event(Kind.KICK_TRAP, Actor.VCPU0, 0, 0, 2, 0xC010)
    at_once = event(Kind.QUEUE_NOTIFY, Actor.VCPU0, 0, Run.TRAP)
    later = event(Kind.QUEUE_NOTIFY, Actor.IOTHREAD, 0, Run.IOTHREAD)
    drained = event(Kind.QUEUE_NOTIFY, Actor.VCPU0, 0, Run.DRAIN)
    assert canonical.of_labkit([trap, at_once]) == ["vcpu queue_notify 0"]
    assert canonical.of_labkit([trap, later]) == ["vcpu queue_notify 0", "main queue_notify 0"]
    assert canonical.of_labkit([drained]) == ["vcpu queue_notify 0"]


def test_a_kick_that_is_ignored_is_not_told() -> None:
    """QEMU traces nothing of a kick without a ring, and another thread's event in between changes nothing."""
    trap = event(Kind.KICK_TRAP, Actor.VCPU0, 3, 3, 2, 0xC010)
    other = event(Kind.QUEUE_NOTIFY, Actor.IOTHREAD, 0, Run.IOTHREAD)
    ignored = event(Kind.KICK_IGNORED, Actor.VCPU0, 3, 3, Ignored.NO_RING)
    assert canonical.of_labkit([trap, other, ignored]) == ["main queue_notify 0"]


def test_a_recording_is_read_as_it_was_written() -> None:
    """Titles, actions and indented lines, in order; without KVM's own lines where there was no KVM."""
    scenario = Scenario("one", "a first: one", ("driver_ok:on",))
    lines = ["driver_ok:on -> answer=0", "    vcpu status 7", "    vcpu assign bar0+16 value 0"]
    text = recording.to_text({scenario: lines, Scenario("two", "another", ()): ["cont"]})
    assert recording.of_text(text) == {"one": lines, "two": ["cont"]}
    assert recording.without_kvm(lines) == lines[:2]


def test_a_difference_names_whose_line_it_is() -> None:
    """`- ` is QEMU's alone, `+ ` labkit's alone, in order, whatever is the same around them."""
    found = differences.between(["a", "    b", "c"], ["a", "    d", "c", "e"])
    assert found == ("- b", "+ d", "+ e")
    assert differences.between(["a"], ["a"]) == ()


def test_the_table_shows_events_and_reasons() -> None:
    """Actions are parted by `;`, the bring-up and what causes nothing are left out, a difference has its reason."""
    lines = ["up", "    vcpu status 3", "on", "    vcpu status 7", "    vcpu assign bar0+16 value 0", "look"]
    kick = ["up", "kick", "    vcpu queue_notify 0", "    main queue_notify 0"]
    results = [
        Result(Scenario("one", "first", ()), lines, None),
        Result(Scenario("two", "second", ()), kick, differences.Difference("it must be so", ("- a", "+ b"))),
    ]
    assert scenario_table(results).splitlines()[2:] == [
        "| first | status 7, assign | the same |",
        "| second | trap, notify | `- a`, `+ b`: it must be so |",
    ]
