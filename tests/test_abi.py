"""Do gcc, the C core and Python read the same numbers, and has each number that needs one its name?"""

from __future__ import annotations

import subprocess
from enum import IntEnum, IntFlag
from itertools import pairwise
from pathlib import Path

import pytest

from labkit import abi
from labkit.abi import NUMBERS
from labkit.native import lib
from labkit.trace import events

ROOT = Path(__file__).resolve().parent.parent
ABI_H = ROOT / "guests" / "include" / "abi.h"
EVENTS_H = ROOT / "labkit" / "native" / "decl" / "events.h"
EVENT_NUMBERS = abi.header_numbers(EVENTS_H)


def named(numbers: dict[str, int], prefix: str, *without: str) -> dict[str, int]:
    """The numbers whose name begins with `prefix`, by the rest of their name."""
    return {
        name.removeprefix(prefix): value
        for name, value in numbers.items()
        if name.startswith(prefix) and name not in without
    }


def members(names: type[IntEnum] | type[IntFlag]) -> dict[str, int]:
    """Name -> value of an enum, aliases too."""
    return {name: int(member) for name, member in names.__members__.items()}


def test_the_installed_header_is_the_guests_header() -> None:
    """The abi.h that Python reads is the one the guests are compiled with."""
    assert (abi.GUEST_IMAGES / "abi.h").read_text() == ABI_H.read_text()


def test_cffi_reads_every_number_as_python_does() -> None:
    """Each #define of abi.h and events.h has the same value in the C core."""
    numbers = NUMBERS | EVENT_NUMBERS
    assert {name: getattr(lib, name) for name in numbers} == numbers


@pytest.mark.parametrize("header", [ABI_H, EVENTS_H], ids=lambda path: path.name)
def test_gcc_reads_every_number_as_python_does(header: Path) -> None:
    """The preprocessor finds the same names with the same values: the reader of the text has missed none."""
    listing = subprocess.run(["gcc", "-E", "-dM", header], capture_output=True, text=True, check=True).stdout
    fixed = subprocess.run(["gcc", "-E", "-dM", "-"], input="", capture_output=True, text=True, check=True).stdout
    defines = [line.split(maxsplit=2)[1:] for line in set(listing.splitlines()) - set(fixed.splitlines())]
    assert {name: int(*literal, 0) for name, *literal in defines if literal} == abi.header_numbers(header)


@pytest.mark.parametrize(
    ("names", "prefix", "without"),
    [
        (abi.Command, "CMD_", ("CMD_NONE", "CMD_LAST")),
        (abi.AgentStatus, "AGENT_", ()),
        (abi.Irq, "IRQ_", ()),
        (abi.Fault, "FAULT_", ()),
        (abi.Register, "REG_", ("REG_CONFIG_NO_MSIX", "REG_CONFIG_MSIX")),
        (abi.Status, "STATUS_", ()),
        (abi.PciCommand, "PCI_COMMAND_", ()),
        (abi.BlkType, "BLK_T_", ()),
        (abi.BlkStatus, "BLK_S_", ()),
    ],
)
def test_every_number_of_a_family_has_its_member(
    names: type[IntEnum] | type[IntFlag], prefix: str, without: tuple[str, ...]
) -> None:
    """A number added to the header and forgotten in its enum is found, and so is a member with another's value."""
    assert members(names) == named(NUMBERS, prefix, *without)


@pytest.mark.parametrize(("names", "prefix"), [(abi.Feature, "FEATURE_"), (abi.BlkFeature, "BLK_F_")])
def test_every_feature_bit_has_its_member(names: type[IntFlag], prefix: str) -> None:
    """Features stand in the header as bit numbers and in the enum as bits."""
    assert members(names) == {name: 1 << bit for name, bit in named(NUMBERS, prefix).items()}


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (events.Kind, "EV_"),
        (events.Run, "RUN_"),
        (events.Ignored, "IGNORED_"),
        (events.IrqWay, "IRQ_WAY_"),
        (events.Owner, "OWNER_"),
        (events.Cause, "CAUSE_"),
        (events.State, "STATE_"),
        (events.Broken, "BROKEN_"),
        (events.Actor, "ACTOR_"),
    ],
)
def test_every_word_of_the_feed_has_its_member(names: type[IntEnum], prefix: str) -> None:
    """events.h and trace/events.py name the same kinds, causes, owners and reasons."""
    assert members(names) == named(EVENT_NUMBERS, prefix)


def test_no_two_members_share_a_number() -> None:
    """An alias would hide one name behind another."""
    for names in (abi.Command, abi.AgentStatus, abi.Register, events.Kind, events.Cause, events.Broken):
        assert len({int(member) for member in names}) == len(names.__members__)


def test_commands_have_no_gap() -> None:
    """The agent's table of commands runs from 1 to CMD_LAST."""
    assert sorted(abi.Command) == list(range(1, NUMBERS["CMD_LAST"] + 1))


def test_the_memory_map_does_not_overlap() -> None:
    """What the host and the guest put into low memory has a place of its own, below the least memory there is."""
    n = NUMBERS
    regions = [
        (n["GPA_PAGE_TABLES"], n["PAGE_TABLES_BYTES"]),
        (n["GPA_MULTIBOOT_INFO"], n["MULTIBOOT_INFO_BYTES"]),
        (n["GPA_MAILBOX"], n["MAILBOX_STRIDE"] * n["VCPUS_MAX"]),
        (n["GPA_IMAGE"], n["IMAGE_MAX_BYTES"]),
        (n["GPA_RINGS"], n["RING_STRIDE"] * n["QUEUE_MAX"]),
        (n["GPA_BUFFERS"], n["BUFFER_STRIDE"] * n["REQUEST_SLOTS"]),
        (n["GPA_REQUESTS"], n["REQUEST_STRIDE"] * n["REQUEST_SLOTS"]),
        (n["GPA_INDIRECT"], n["INDIRECT_STRIDE"] * n["REQUEST_SLOTS"]),
        (n["GPA_JOURNAL"], n["JOURNAL_BYTES"]),
        (n["MEMORY_MIN_MIB"] << 20, 0),
    ]
    for (start, size), (following, _) in pairwise(regions):
        assert start + size <= following, f"{start:#x} runs into {following:#x}"


def test_a_mailbox_holds_its_parts() -> None:
    """Arguments, results, status and samples follow one another inside one stride."""
    n = NUMBERS
    slots = 8 * n["MB_SLOTS"]
    assert n["MB_ARGS"] + slots <= n["MB_RESULTS"]
    assert n["MB_RESULTS"] + slots <= n["MB_STATUS"] < n["MB_SAMPLES"]
    assert n["MB_SAMPLES"] + 8 * n["MB_SAMPLES_MAX"] <= n["MAILBOX_STRIDE"]


def test_the_journals_words_hold_its_table() -> None:
    """A sector number fits below the seq in the word that a block's body is made of, and a block fills its sector."""
    n = NUMBERS
    assert n["JOURNAL_TABLE"] + 8 * n["JOURNAL_SPAN_MAX"] <= n["JOURNAL_BYTES"]
    assert n["JOURNAL_SPAN_MAX"] <= 1 << n["JOURNAL_SEQ_SHIFT"]
    assert n["JOURNAL_BLOCK_SUM"] + 8 == n["SECTOR_BYTES"]


def test_a_ring_of_any_size_fits_its_place() -> None:
    """Descriptors, avail and used of the largest queue a device of ours has fit into RING_STRIDE."""
    num = max(NUMBERS["BLK_QUEUE_SIZE"], NUMBERS["NULL_QUEUE_SIZE"])
    align = NUMBERS["RING_ALIGN"]
    used = (16 * num + 6 + 2 * num + align - 1) // align * align
    assert used + 6 + 8 * num <= NUMBERS["RING_STRIDE"]
