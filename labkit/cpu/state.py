"""What is in the CPUs of a stopped machine? Named parts, each plain bytes, of each vCPU and of what they share.

What a part means only the back end knows that saved it, and it alone can load it: it looks at each before it believes
any. Here is only the form, in memory and as plain values for a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from labkit.abi import NUMBERS
from labkit.errors import UsageError

VERSION = 1
PARTS_MAX = 32  # of a vCPU
PART_MAX_BYTES = 1 << 16
NAME_MAX = 32
NOTES_MAX, NOTE_MAX = 1024, 256  # how many reasons, and how many characters each
FIELDS = ("back_end", "version", "vcpus", "shared", "left_out")
Parts = Mapping[str, bytes]


class CpuState(NamedTuple):
    """State of every vCPU, by index, and of interrupt controllers and clocks beside them.

    `left_out` says in words what this host could not tell of them.
    """

    back_end: str
    vcpus: tuple[Parts, ...]
    shared: Parts
    left_out: tuple[str, ...] = ()
    version: int = VERSION

    def to_plain(self) -> dict[str, Any]:
        """As str, int, bytes, lists and dicts."""
        vcpus = [dict(parts) for parts in self.vcpus]
        return {**self._asdict(), "vcpus": vcpus, "shared": dict(self.shared), "left_out": list(self.left_out)}

    @classmethod
    def from_plain(cls, plain: object) -> CpuState:
        """Undo `to_plain`. UsageError: another form or version. What the parts hold is looked at by who loads them."""
        fields = _fields(plain)
        vcpus = _list(fields["vcpus"], "vcpus", NUMBERS["VCPUS_MAX"])
        notes = _list(fields["left_out"], "left_out", NOTES_MAX)
        return cls(
            _text(fields["back_end"], "back_end", NAME_MAX),
            tuple(_parts(parts, f"vCPU {index}") for index, parts in enumerate(vcpus)),
            _parts(fields["shared"], "shared"),
            tuple(_text(note, "left_out", NOTE_MAX) for note in notes),
        )

    def check(self, back_end: str, vcpus: int) -> None:
        """UsageError unless it is of this back end and of as many vCPUs."""
        if self.version != VERSION:
            raise UsageError(f"the CPU state has version {self.version}: this labkit knows version {VERSION}")
        if self.back_end != back_end:
            raise UsageError(f"the CPU state is of cpu={self.back_end!r}: it cannot be loaded with cpu={back_end!r}")
        if len(self.vcpus) != vcpus:
            raise UsageError(f"the CPU state is of {len(self.vcpus)} vCPUs: this machine has {vcpus}")


def check_parts(parts: Parts, sizes: Mapping[str, int], whose: str, optional: frozenset[str] = frozenset()) -> None:
    """UsageError unless `parts` are those that `sizes` names, but for optional ones, each with its size in bytes."""
    for name, data in parts.items():
        if name not in sizes:
            raise UsageError(f"the CPU state has {name} of {whose}, which nothing here can load")
        if len(data) != sizes[name]:
            raise UsageError(f"{name} of {whose} has {len(data)} bytes in the CPU state: {sizes[name]} are needed")
    if missing := [name for name in sizes if name not in parts and name not in optional]:
        raise UsageError(f"the CPU state lacks {', '.join(missing)} of {whose}")


def _fields(plain: object) -> dict[str, Any]:
    if not isinstance(plain, dict) or set(plain) != set(FIELDS):
        raise UsageError(f"no CPU state: a dict of {', '.join(FIELDS)} is needed")
    version = plain["version"]
    if type(version) is not int or version != VERSION:
        raise UsageError(f"a CPU state of version {version!r:.40}: this labkit knows version {VERSION}")
    return plain


def _list(value: object, what: str, most: int) -> list[object]:
    if not isinstance(value, list) or len(value) > most:
        raise UsageError(f"{what} in a CPU state is a list of at most {most}")
    return value


def _text(value: object, what: str, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise UsageError(f"{what} in a CPU state is a line of at most {most} characters")
    return value


def _parts(value: object, whose: str) -> dict[str, bytes]:
    if not isinstance(value, dict) or len(value) > PARTS_MAX:
        raise UsageError(f"{whose} in a CPU state is a dict of at most {PARTS_MAX} parts")
    for name, data in value.items():
        _text(name, f"the name of a part of {whose}", NAME_MAX)
        if not isinstance(data, bytes) or len(data) > PART_MAX_BYTES:
            raise UsageError(f"{name} of {whose} in a CPU state is at most {PART_MAX_BYTES} bytes")
    return dict(value)
