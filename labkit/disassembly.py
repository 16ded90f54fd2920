"""Which instructions stand where a vCPU is? Guest code as text, with the names that its ELF has for it.

An address is taken as guest-physical: that is what it is in a guest that maps its code one to one, or not at all.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from labkit.abi import GUEST_IMAGES
from labkit.errors import UsageError
from labkit.loader import Image

NOTHING_THERE = "vm.disassemble() needs the package capstone: pip install 'labkit[debug]'"
LONGEST = 15  # bytes of one instruction
BEFORE = 3  # instructions shown in front of a vCPU's own
COUNT_MAX = 10_000
BITS = {16: "CS_MODE_16", 32: "CS_MODE_32", 64: "CS_MODE_64"}
CODE = ("STT_FUNC", "STT_NOTYPE")  # a label of an assembler's has no type
Read = Callable[[int, int], bytes]


class Names:
    """What an ELF calls its addresses; empty for one that is stripped, or cannot be read."""

    def __init__(self, symbols: Sequence[tuple[int, str]] = ()) -> None:
        self._symbols = sorted(symbols)
        self._starts = [start for start, _ in self._symbols]
        self.addresses = {name: start for start, name in reversed(self._symbols)}

    def of(self, address: int) -> tuple[str, int]:
        """The function an address is in, and how far; "" and 0 if none is known."""
        at = bisect_right(self._starts, address) - 1
        return (self._symbols[at][1], address - self._starts[at]) if at >= 0 else ("", 0)

    def place(self, address: int) -> str:
        """ "finish+0x4", or the bare address."""
        name, offset = self.of(address)
        return f"{name}+{offset:#x}" if offset and name else name or f"{address:#x}"


def names_of(image: Image) -> Names:
    """Those of a guest: of a kernel's file, or of the ELF that was built beside a guest of the lab's."""
    beside = GUEST_IMAGES / f"{image.name}.elf"
    return _names(image.file or (_bytes_of(beside) if image.lab else b""))


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


@lru_cache(maxsize=4)
def _names(file: bytes) -> Names:
    """A file that a user brings may have any symbols, or none that can be read."""
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(io.BytesIO(file))
        table: Any = elf.get_section_by_name(".symtab")
        code = {n for n, section in enumerate(elf.iter_sections()) if section["sh_flags"] & 4}  # SHF_EXECINSTR
        found = [symbol for symbol in (table.iter_symbols() if table else ()) if _is_code(symbol, code)]
        return Names([(symbol["st_value"], _as_written(symbol.name)) for symbol in found])
    except Exception:  # noqa: BLE001 - names are a help; code is shown without them
        return Names()


def _is_code(symbol: Any, sections: set[int]) -> bool:
    return bool(symbol.name) and symbol["st_info"]["type"] in CODE and symbol["st_shndx"] in sections


def _as_written(name: str) -> str:
    """Without what gcc adds for a copy or a part that it made: "wait.constprop.0", "wait.cold"."""
    return name.partition(".")[0] or name


class Instruction(NamedTuple):
    """One of them. `place`: its function and how far in it; `text`: with a name where it jumps to one."""

    address: int
    code: bytes
    place: str
    text: str


class Listing(tuple[Instruction, ...]):
    """Instructions in order. `rip`: where the vCPU is, marked with `=>`; None if an address was asked for."""

    rip: int | None = None
    function: str = ""  # in which rip is, or the address asked for; "" if the ELF has no name for it

    def __repr__(self) -> str:
        width = max((len(one.place) for one in self), default=0)
        return "\n".join(
            f"{'=>' if one.address == self.rip else '  '} {one.address:08x}  {one.place:<{width}}  {one.text}"
            for one in self
        )

    def _repr_html_(self) -> str:
        return f'<pre style="text-align: left">{escape(repr(self))}</pre>'


def around(read: Read, names: Names, rip: int, count: int, bits: int) -> Listing:
    """Where a vCPU is, after a few instructions of the same function, if those lead to it."""
    _, offset = names.of(rip)
    found = list(_decoded(read, names, rip - offset, offset, bits)) if 0 < offset < COUNT_MAX else []
    if found and found[-1].address + len(found[-1].code) != rip:
        found = []  # out of step: there is data in between, or rip is in the middle of one
    before = found[-BEFORE:]
    return _listing([*before, *at(read, names, rip, count - len(before), bits)], names, rip, rip)


def at(read: Read, names: Names, where: int | str, count: int, bits: int) -> Listing:
    """From an address or a function on. UsageError: no such function, not in memory, or no capstone."""
    if isinstance(where, str):
        if where not in names.addresses:
            raise UsageError(f"function {where!r}: the guest's ELF has no such name")
        where = names.addresses[where]
    if not 0 < count <= COUNT_MAX:
        raise UsageError(f"count={count!r}: 1 to {COUNT_MAX} instructions")
    found = _decoded(read, names, where, count * LONGEST, bits)
    return _listing([one for one, _ in zip(found, range(count), strict=False)], names, None, where)


def _listing(found: Sequence[Instruction], names: Names, rip: int | None, where: int) -> Listing:
    made = Listing(found)
    made.rip, made.function = rip, names.of(where)[0]
    return made


def _decoded(read: Read, names: Names, start: int, size: int, bits: int) -> Iterator[Instruction]:
    """What is no instruction ends it."""
    for one in _decoder(bits).disasm(_code(read, start, size), start):
        yield Instruction(one.address, bytes(one.bytes), names.place(one.address), _text(one, names))


def _code(read: Read, start: int, size: int) -> bytes:
    """As far as memory goes."""
    try:
        return read(start, size)
    except UsageError:
        if size <= LONGEST:
            raise
        return _code(read, start, max(LONGEST, size // 2))


def _text(one: Any, names: Names) -> str:
    operands = str(one.op_str)
    if operands.startswith("0x") and int(one.group(_capstone().CS_GRP_BRANCH_RELATIVE)):
        operands = names.place(int(operands, 16))
    return f"{one.mnemonic:<7} {operands}".strip()


def _decoder(bits: int) -> Any:
    if bits not in BITS:
        raise UsageError(f"bits={bits!r}: the code is of {', '.join(map(str, BITS))} bits")
    capstone = _capstone()
    decoder = capstone.Cs(capstone.CS_ARCH_X86, getattr(capstone, BITS[bits]))
    decoder.detail = True  # which instruction is a branch
    return decoder


def _capstone() -> Any:
    try:
        import capstone
    except ImportError as error:
        raise UsageError(NOTHING_THERE) from error
    return capstone
