"""Was an acknowledged write lost, or a block damaged? The journal guest's table, and its disk held against it.

The blocks are made here anew, from what abi.h says of them: guest and host agree, or one of them is wrong.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from labkit import Machine
from labkit.abi import NUMBERS, SECTOR_BYTES

GPA = NUMBERS["GPA_JOURNAL"]
UP, STOPPED, FAILED = (NUMBERS[f"JOURNAL_{name}"] for name in ("UP", "STOPPED", "FAILED"))
ALL_WELL, NOT_WELL = 1, 3  # what port 0xf4 makes of the guest's 0 and 1
WORD = 8
WORD_MASK = (1 << 64) - 1
BODY_WORDS = (NUMBERS["JOURNAL_BLOCK_SUM"] - NUMBERS["JOURNAL_BLOCK_BODY"]) // WORD
BLOCK = struct.Struct(f"<3Q{BODY_WORDS}QQ")  # magic, sector, seq, body, sum
LOOK_AGAIN_S = 0.001

Reader = Callable[[int, int], bytes]  # (gpa, bytes) -> those bytes of guest memory


class Table(NamedTuple):
    """What the guest knows. `acked[sector]`: the seq last acknowledged there, 0 if none; `submitted`: the last seq."""

    state: int
    span: int
    submitted: int
    writes: int
    verified: int
    acked: tuple[int, ...]


# -- the guest's memory ------------------------------------------------------------------------------------------------


def memfd_reader(fd: int) -> Reader:
    """Reads guest memory through its memfd: in another process too, and when the machine is dead."""
    return lambda gpa, size: os.pread(fd, size, gpa)


def read_table(memory: bytes | Reader) -> Table:
    """The table in guest RAM, given whole or by a reader (`vm.memory.read`). AssertionError: the guest is not up.

    To hold a disk against it the machine must stand still, or be dead: the guest writes on.
    """
    read: Reader = memory if callable(memory) else lambda gpa, size: memory[gpa : gpa + size]

    def word(name: str) -> int:
        return int.from_bytes(read(GPA + NUMBERS[f"JOURNAL_{name}"], WORD), "little")

    magic, span = int.from_bytes(read(GPA, WORD), "little"), word("SPAN")
    assert magic == NUMBERS["JOURNAL_MAGIC"], f"no journal at {GPA:#x}: {magic:#x}; the guest is not up"
    acked = struct.unpack(f"<{span}Q", read(GPA + NUMBERS["JOURNAL_TABLE"], WORD * span))
    return Table(word("STATE"), span, word("SUBMITTED"), word("ACKED"), word("VERIFIED"), acked)


def wait_for_writes(vm: Machine, count: int, timeout_s: float = 60.0) -> Table:
    """Let the guest run until so many writes are acknowledged. AssertionError: it did not get there."""
    return wait_for_writes_in(vm.memory.read, count, timeout_s)


def wait_for_writes_in(read: Reader, count: int, timeout_s: float = 60.0) -> Table:
    """The same for guest memory that somebody else's machine writes."""
    address, deadline = GPA + NUMBERS["JOURNAL_ACKED"], time.monotonic() + timeout_s
    while int.from_bytes(read(address, WORD), "little") < count:
        assert time.monotonic() < deadline, f"no {count} writes within {timeout_s:g} s"
        time.sleep(LOOK_AGAIN_S)
    return read_table(read)


def wait_until_up(vm: Machine, timeout_s: float = 60.0) -> None:
    """Let the guest boot, as far as the line that says so. AssertionError: it did not get there."""
    deadline = time.monotonic() + timeout_s
    while "driver_ok_ticks" not in vm.console:
        assert vm.state == "running" and time.monotonic() < deadline, f"{vm}: {vm.console}"
        time.sleep(LOOK_AGAIN_S)


def ask_to_stop(vm: Machine) -> None:
    """The guest drains, reads every sector once more, and ends; `vm.wait` says how."""
    vm.memory.write(GPA + NUMBERS["JOURNAL_STOP"], (1).to_bytes(WORD, "little"))


# -- the disk ----------------------------------------------------------------------------------------------------------


def make_block(sector: int, seq: int) -> bytes:
    """What write `seq` puts into `sector`."""
    body = (seq << NUMBERS["JOURNAL_SEQ_SHIFT"] | sector) * NUMBERS["JOURNAL_MIX"] & WORD_MASK
    words = [NUMBERS["JOURNAL_BLOCK_MAGIC"], sector, seq, *[body] * BODY_WORDS]
    return BLOCK.pack(*words, sum(words) & WORD_MASK)


def check_disk(disk: Path | bytes, table: Table, span: int | None = None) -> int:
    """Hold a disk against a table; returns how many sectors were looked at. AssertionError says what is wrong where.

    A sector with an acknowledged write holds a whole block of its own, never older than the table says. It may be
    newer, for a write is on the disk before the guest knows it, but no newer than the last that was submitted.
    """
    data = disk if isinstance(disk, bytes) else disk.read_bytes()
    looked_at = [sector for sector in range(table.span if span is None else span) if table.acked[sector]]
    for sector in looked_at:
        _check_block(data[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES], sector, table)
    return len(looked_at)


def _check_block(block: bytes, sector: int, table: Table) -> None:
    where = f"sector {sector}, acknowledged with seq {table.acked[sector]}"
    assert len(block) == SECTOR_BYTES, f"{where}: beyond the end of the disk"
    _, owner, seq, *_ = BLOCK.unpack(block)
    wanted = make_block(owner, seq)
    differing = next((at for at in range(SECTOR_BYTES) if block[at] != wanted[at]), None)
    assert differing is None, f"{where}: no whole block, byte {differing} is not of sector {owner}, seq {seq}"
    assert owner == sector, f"{where}: a block of sector {owner}, seq {seq}"
    assert seq >= table.acked[sector], f"{where}: an older block, seq {seq}: a write was lost"
    assert seq <= table.submitted, f"{where}: seq {seq}, and only {table.submitted} were submitted"
