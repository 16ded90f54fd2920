"""Does a migration under QEMU give figures, and is the guest well behind it? Times are never judged."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import journal
import pytest
from journal import check_disk, read_table

from labkit import HostError
from labkit.abi import NUMBERS, SECTOR_BYTES
from labkit.bench import qemu_migration
from labkit.bench.qemu import PROGRAM
from labkit.bench.qemu_migration import Side, migrate_under_qemu, migrated

DISK_SECTORS = 64
ACCELERATORS = [pytest.param("tcg"), pytest.param("kvm", marks=[pytest.mark.kvm, pytest.mark.slow])]
Command = Callable[..., list[str]]

pytestmark = pytest.mark.skipif(shutil.which(PROGRAM) is None, reason=f"no {PROGRAM} on the path")


def children() -> set[str]:
    """Process ids of what this process has started and not waited for."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {pid for task in tasks for pid in task.read_text().split()}


@pytest.fixture(autouse=True)
def nothing_is_left(leaves_nothing: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # noqa: ARG001 - around this one
    """No process, no folder, and by the other fixture no fd."""
    before = children()
    with tempfile.TemporaryDirectory() as scratch:  # `tmp_path` with the path of a socket in it can be too long for one
        monkeypatch.setattr(tempfile, "tempdir", scratch)
        yield
        assert children() - before == set()
        assert os.listdir(scratch) == []


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty image; its name holds what QEMU's options must not trip over."""
    path = tmp_path / "a disk, empty.img"
    path.write_bytes(bytes(DISK_SECTORS * SECTOR_BYTES))
    return path


@pytest.fixture
def command(disk: Path) -> Command:
    """How both sides are started, with QEMU's emulator unless told otherwise."""

    def with_line(line: str, accelerator: str = "tcg", memory_mib: int = 64) -> list[str]:
        return qemu_migration._command(PROGRAM, accelerator, disk, True, memory_mib, "journal", line)

    return with_line


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_an_idle_guest_gives_figures(disk: Path, accelerator: str) -> None:
    """Nobody runs for a part of the time that the whole takes."""
    figures = migrate_under_qemu(PROGRAM, accelerator, disk=disk, line="idle")
    assert 0 < figures.downtime_ms < figures.total_ms


def table_of(side: Side, folder: Path) -> journal.Table:
    """What the guest tells there."""
    saved = folder / "words"
    side.command("pmemsave", val=journal.GPA, size=NUMBERS["JOURNAL_BYTES"], filename=str(saved))
    words = saved.read_bytes()
    return read_table(lambda gpa, size: words[gpa - journal.GPA :][:size])


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_no_write_is_lost_on_the_way(command: Command, disk: Path, tmp_path: Path, accelerator: str) -> None:
    """A guest that writes all the time goes on behind the migration, and every acknowledged write is on the disk."""
    with migrated(command("span=16", accelerator)) as (figures, destination):
        assert 0 < figures.downtime_ms < figures.total_ms
        arrived = table_of(destination, tmp_path)
        while (table := table_of(destination, tmp_path)).verified < arrived.verified + 20:
            assert table.state == journal.UP
        destination.command("stop")
        assert check_disk(disk, table_of(destination, tmp_path)) == 16


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"path": "false"}, "EIO.*; it said: nothing"),
        ({"path": "/nowhere/qemu"}, "ENOENT.*it cannot be started"),
        ({"accelerator": "steam"}, "it ended; it said: .*steam"),
        ({"disk": Path("/nowhere/disk.img")}, "it ended; it said: .*/nowhere/disk.img"),
        ({"line": "span=0"}, "its guest (said|ended).*failed=span"),
        ({"line": "span=65"}, "failed=capacity"),
        ({"guest": "spin"}, "spin failed=no console"),
    ],
)
def test_what_goes_wrong_is_told(disk: Path, options: dict[str, object], complaint: str) -> None:
    """By QEMU or by the guest in it; the caller hears what it said."""
    arguments = {"path": PROGRAM, "accelerator": "tcg", "disk": disk} | options
    with pytest.raises(HostError, match=complaint):
        migrate_under_qemu(**arguments)


def test_a_side_that_does_not_fit_is_told(command: Command, tmp_path: Path) -> None:
    """A destination of another size refuses what comes, and that is an error, not a wait."""
    channel = f"unix:{tmp_path}/channel"
    with ExitStack() as undo:
        source = undo.enter_context(Side(command("idle"), tmp_path / "one"))
        other = [*command("idle", memory_mib=32), "-incoming", channel]
        destination = undo.enter_context(Side(other, tmp_path / "other"))
        source.wait_until_up()
        with pytest.raises(HostError, match=r"failed|ended"):
            qemu_migration._migrate(source, destination, channel, 300)


def test_a_monitor_refuses_what_it_does_not_know(command: Command, tmp_path: Path) -> None:
    """The answer of QEMU is in the error."""
    with Side(command("idle"), tmp_path / "said") as side, pytest.raises(HostError, match="fly: The command fly"):
        side.command("fly")


def test_an_interrupt_leaves_nothing(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle: both are killed."""

    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(Side, "event", interrupted)
    with pytest.raises(KeyboardInterrupt):
        migrate_under_qemu(PROGRAM, "tcg", disk=disk, line="idle")
