"""What can be told of a machine at one moment? Registers, flags and ring indices, each with its range and its words.

A value of None is not known: nobody has told it yet. NONE and NO_INDEX are known: there is no such thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from labkit.abi import NO_VECTOR, QUEUE_MAX, VCPUS_MAX
from labkit.trace.events import NO_INDEX, Owner, State, command_text, flags_text, status_text

NONE = -1  # no eventfd, no port, no exit code, no crash
U16, U32, U64 = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
FD_MAX = (1 << 31) - 1

Key = tuple[str, int]  # a field and its queue; DEVICE for what belongs to no queue
DEVICE = -1


class Field(NamedTuple):
    """A value's name for people, its range, what it is at power-on, and how it is said in words."""

    label: str
    least: int
    most: int
    power_on: int
    text: Callable[[int], object] = int


def _enum(names: type[Owner] | type[State]) -> Callable[[int], str]:
    return lambda number: names(number).name.lower()


def _hex(number: int) -> str:
    return hex(number)


def _hex_or_none(number: int) -> str:
    return "-" if number == NONE else hex(number)


def _or_none(number: int) -> object:
    return "-" if number == NONE else number


def _index(number: int) -> object:
    return "-" if number == NO_INDEX else number


def _switch(number: int) -> str:
    return "on" if number else "off"


def _yes(number: int) -> str:
    return "yes" if number else "no"


OF_DEVICE: dict[str, Field] = {
    "run_state": Field("state", 0, max(State), State.PAUSED, _enum(State)),
    "exit_code": Field("exit code", NONE, U64, NONE, _or_none),
    "crash_vcpu": Field("crashed vCPU", NONE, VCPUS_MAX - 1, NONE, _or_none),
    "crash_rip": Field("crashed at rip", NONE, U64, NONE, _hex_or_none),
    "plugged": Field("plugged", 0, 1, 0, _yes),
    "broken": Field("broken", 0, 1, 0, _yes),
    "status": Field("STATUS", 0, 0xFF, 0, status_text),
    "command": Field("COMMAND", 0, U16, 0, command_text),
    "flags": Field("flags", 0, 3, 0, flags_text),
    "guest_features": Field("GUEST_FEATURES", 0, U32, 0, _hex),
    "queue_sel": Field("QUEUE_SEL", 0, U16, 0),
    "isr": Field("ISR", 0, 0xFF, 0),
    "msix": Field("MSI-X", 0, 1, 0, _switch),
    "config_vector": Field("config vector", 0, U16, NO_VECTOR, _hex),
}
OF_QUEUE: dict[str, Field] = {
    "pfn": Field("pfn", 0, U32, 0, _hex),
    "vector": Field("vector", 0, U16, NO_VECTOR, _hex),
    "avail_idx": Field("avail.idx", 0, NO_INDEX, NO_INDEX, _index),
    "last_avail": Field("last_avail", 0, U16, 0),
    "used_idx": Field("used.idx", 0, NO_INDEX, NO_INDEX, _index),
    "in_flight": Field("in flight", 0, U32, 0),
    "owner": Field("owner", 0, max(Owner), Owner.NONE, _enum(Owner)),
    "fd": Field("fd", NONE, FD_MAX, NONE, _or_none),
    "port": Field("port", NONE, U16, NONE, _hex_or_none),
    "pending": Field("pending", 0, U64, 0),
    "trapped": Field("trapped", 0, U64, 0),
    "signalled": Field("signalled", 0, U64, 0),
    "drained": Field("drained", 0, U64, 0),
    "synthetic": Field("synthetic", 0, U64, 0),
}
INDICES = ("avail_idx", "used_idx", "last_avail")  # they go round at 65536


def keys(queues: int) -> Iterable[Key]:
    """Every field of a device with that many queues."""
    yield from ((name, DEVICE) for name in OF_DEVICE)
    yield from ((name, queue) for queue in range(min(queues, QUEUE_MAX)) for name in OF_QUEUE)


def field(key: Key) -> Field:
    """What stands behind a key."""
    return (OF_DEVICE if key[1] == DEVICE else OF_QUEUE)[key[0]]


def label(key: Key) -> str:
    """`STATUS`, `queue 0 avail.idx`."""
    return field(key).label if key[1] == DEVICE else f"queue {key[1]} {field(key).label}"


def text(key: Key, value: int | None) -> object:
    """A value in words; `?` for one that nobody has told."""
    return "?" if value is None else field(key).text(value)
