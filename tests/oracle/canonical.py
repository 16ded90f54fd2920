"""What did each machine do, in words that are the same for both?

A line is the thread and the act: `vcpu status 7`, `vcpu assign bar0+16 value 0`, `main queue_notify 0`, `main paused`.
Threads are `vcpu`, and `main` for any other: QEMU's main loop does what labkit's iothread and owner thread do.
Pointers, fd numbers and times are left out. A kick that traps is a `queue_notify` of the vCPU, whoever runs the queue.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from labkit.abi import Register, Status
from labkit.trace.events import Event, Kind
from oracle.scenarios import BAR0

RUN = "queue_notify"
_TRACED = re.compile(r"(?P<thread>\d+)@[\d.]+:(?P<event>\w+) (?P<said>.*)")
_IOEVENTFD = re.compile(r"fd: \d+ @(?P<port>0x[0-9a-f]+) val=(?P<value>0x[0-9a-f]+) assign: (?P<assign>[01])")
_STATES = ("paused", "running")  # QEMU's others are between the two, as when a stopped machine is reset


def _port(port: int) -> str:
    return "bar0+16" if port == BAR0 + Register.QUEUE_NOTIFY else f"{port:#x}"


def _status(value: int) -> str:
    return f"status {value if value < 10 else hex(value)}"


def without_runs(lines: Iterable[str]) -> list[str]:
    """The lines without runs of a queue: under load their number is chance."""
    return [line for line in lines if RUN not in line]


# -- QEMU --------------------------------------------------------------------------------------------------------------


def of_qemu(traced: Iterable[str], vcpu_thread: int) -> list[str]:
    """The lines of QEMU's trace, canonically."""
    found = (match for line in traced if (match := _TRACED.fullmatch(line)))
    told = ((int(match["thread"]) == vcpu_thread, _qemu_act(match["event"], match["said"])) for match in found)
    return [f"{'vcpu' if by_vcpu else 'main'} {act}" for by_vcpu, act in told if act]


def _qemu_act(event: str, said: str) -> str:
    words = said.split()
    match event:
        case "virtio_set_status":
            return _status(int(words[-1]))
        case "virtio_queue_notify":
            return f"{RUN} {int(words[words.index('n') + 1])}"
        case "runstate_set":
            state = words[-1].strip("()")
            return state if state in _STATES else ""
        case "kvm_set_ioeventfd_pio":
            match = _IOEVENTFD.match(said)
            assert match is not None, said
            act = "assign" if match["assign"] == "1" else "deassign"
            return f"{act} {_port(int(match['port'], 16))} value {int(match['value'], 16)}"
    return ""


# -- labkit ------------------------------------------------------------------------------------------------------------


def of_labkit(events: list[Event]) -> list[str]:
    """The same of labkit's feed."""
    return [f"{_thread(event)} {act}" for event, act in _labkit_acts(events) if act]


def _thread(event: Event) -> str:
    return "vcpu" if event.actor.startswith("vcpu") else "main"


def _labkit_acts(events: list[Event]) -> Iterator[tuple[Event, str]]:
    for at, event in enumerate(events):
        match event.kind:
            case Kind.STATUS:
                yield event, _status(_of_words(str(event["after"])))
            case Kind.RUNSTATE:
                yield event, str(event["after"]) if event["after"] in _STATES else ""
            case Kind.ASSIGN | Kind.DEASSIGN:
                failed = f" errno {event['errno']}" if event["errno"] else ""
                yield event, f"{event.name} {_port(int(str(event['port']), 16))} value {event['value']}{failed}"
            case Kind.KICK_TRAP if not _is_ignored(events, at):
                yield event, f"{RUN} {event.queue}"
            case Kind.QUEUE_NOTIFY if event["by"] != "trap":  # that one was told as the kick
                yield event, f"{RUN} {event.queue}"


def _is_ignored(events: list[Event], at: int) -> bool:
    """Did the thread that took the trap go on to say that the kick does nothing?"""
    after = (event for event in events[at + 1 :] if event.actor == events[at].actor)
    return next((event.kind for event in after), None) is Kind.KICK_IGNORED


def _of_words(text: str) -> int:
    return sum(Status[word] if word in Status.__members__ else int(word, 0) for word in text.split("|"))
