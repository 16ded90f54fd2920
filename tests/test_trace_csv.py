"""Is the table in a file the table in a notebook? Read back by pandas."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas
import pytest
from rulebook import Boot

import labkit
from labkit.trace import frame
from labkit.trace.events import Event, Kind
from labkit.trace.tracepoints import KernelEvent

SAMPLE = Path(__file__).parent / "data" / "format1.labkit"
MIXED = ["before", "after", "value"]  # words of one kind of event, numbers of another


def read(path: Path) -> pandas.DataFrame:
    """As the docstring of `vm.trace.csv` says."""
    return pandas.read_csv(path)


def words(table: pandas.DataFrame) -> pandas.DataFrame:
    """The mixed columns as a file has them."""
    for name in MIXED:
        if name in table and table[name].dtype == object:
            table[name] = table[name].map(str, na_action="ignore").astype("str")
    return table


def test_a_table_is_the_frame_again(tmp_path: Path) -> None:
    """Same columns in the same order, same types, same values, to the last digit of a time."""
    trace = labkit.replay(SAMPLE).trace
    trace.csv(tmp_path / "all.csv")
    pandas.testing.assert_frame_equal(read(tmp_path / "all.csv"), words(trace.frame()), check_exact=True)


@pytest.mark.parametrize("kinds", [("owner",), ("kick_eventfd", "drain"), ("request",)])
def test_a_part_is_the_frame_of_the_part(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    """Nothing mixed is left there, so it is equal as it is."""
    trace = labkit.replay(SAMPLE).trace
    trace.csv(tmp_path / "part.csv", *kinds, queue=0, since=20)
    expected = trace.frame(*kinds, queue=0, since=20)
    assert len(expected)
    pandas.testing.assert_frame_equal(read(tmp_path / "part.csv"), expected, check_exact=True)


def test_of_a_machine_too(boot: Boot, tmp_path: Path) -> None:
    """While it runs."""
    vm = boot()
    vm.guest.read(0)
    vm.pause()
    vm.trace.csv(tmp_path / "live.csv")
    pandas.testing.assert_frame_equal(read(tmp_path / "live.csv"), words(vm.trace.frame()), check_exact=True)


def test_numbers_are_whole_and_commas_are_text(tmp_path: Path) -> None:
    """A number that no float holds stands there as it is, and so does a text with a comma and a quote."""
    event = Event(1, 5, Kind.EXIT, "vcpu0", None, {"exit_code": (1 << 64) - 1})
    point = KernelEvent(7, "vcpu0", 1, "kvm_entry", {"vcpu": 0}, 'vcpu 0, rip "0x1000"')
    frame.write(tmp_path / "odd.csv", [event], [point])
    with open(tmp_path / "odd.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert first["exit_code"] == "18446744073709551615"
    assert second["text"] == point.text
    assert (first["seq"], second["seq"]) == ("1", "")


def test_no_events_are_a_table_too(tmp_path: Path) -> None:
    """With the columns that every one has."""
    trace = labkit.replay(SAMPLE).trace
    trace.csv(tmp_path / "none.csv", since=10**6)
    assert list(read(tmp_path / "none.csv").columns) == list(trace.frame(since=10**6).columns)
