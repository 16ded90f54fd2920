"""What may a source say of its machine? Each number within its bounds, each text as long as it may be."""

from __future__ import annotations

from typing import Any

import pytest
from rulebook import Boot

from labkit import UsageError
from labkit.installation import VERSION
from labkit.loader import Image, Segment, lab_guest
from labkit.migration.hello import MORE_TEXTS, NUMBERS, TEXTS, Hello, Here, check, describe, image_of, plan_of
from labkit.state import Number


@pytest.fixture
def said(boot: Boot) -> dict[str, Any]:
    """What a machine says of itself."""
    vm = boot()
    return describe(vm._board, vm._irq)


def test_what_is_said_is_believed(said: dict[str, Any]) -> None:
    """Every word comes through the check, and makes a plan of the same machine."""
    hello = check(said)
    assert {**hello.numbers, **hello.texts} == said
    plan = plan_of(hello, image_of(hello, b""), Here(), trusted=True)
    plan.model.close()
    assert (plan.vcpus, plan.memory_mib, plan.revision, plan.model.name) == (1, 16, "v6", "blk")


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_end_at_their_bounds(said: dict[str, Any], name: str) -> None:
    """At the bound it is taken, one further it is not; nor is anything that is no whole number."""
    bounds = NUMBERS[name]
    assert isinstance(bounds, Number)
    for good in (bounds.least, bounds.most):
        assert check(said | {name: good}).numbers[name] == good
    for bad in (bounds.least - 1, bounds.most + 1, 1.5, "1", None, [], {}):
        with pytest.raises(UsageError, match=f"HELLO.{name} is no whole number from {bounds.least} to {bounds.most}"):
            check(said | {name: bad})


@pytest.mark.parametrize("name", TEXTS | MORE_TEXTS)
def test_texts_are_short_and_printable(said: dict[str, Any], name: str) -> None:
    """Nothing that a terminal would obey, nothing that cannot be encoded."""
    most = (TEXTS | MORE_TEXTS)[name]
    for bad in ("x" * (most + 1), "a\0b", "\x1b[2J", "a\nb", "\ud800", None, 5, [], {}):
        with pytest.raises(UsageError, match=f"HELLO: {name} is no text of at most {most} characters"):
            check(said | {name: bad})


@pytest.mark.parametrize("bad", [None, [], 5, "", [[]]])
def test_what_describes_no_machine(bad: object) -> None:
    """Anything but names with values."""
    with pytest.raises(UsageError, match="HELLO describes no machine"):
        check(bad)


def test_fields_are_those_of_this_version(said: dict[str, Any]) -> None:
    """One missing or one too many is another version's."""
    for name in NUMBERS:
        with pytest.raises(UsageError, match=f"has not the fields of this version: {name}"):
            check({key: value for key, value in said.items() if key != name})
    with pytest.raises(UsageError, match="has not the fields of this version: more"):
        check(said | {"more": 1})


@pytest.mark.parametrize(("name", "value"), [("revision", "v7"), ("cpu", "tcg"), ("device", "scsi"), ("mac", "x")])
def test_words_are_those_that_are_known(said: dict[str, Any], name: str, value: str) -> None:
    """Rules, CPUs and devices that this labkit has; a MAC that is one."""
    said |= {"device": "net"} if name == "mac" else {}
    with pytest.raises(UsageError, match=value):
        plan_of(check(said | {name: value}), lab_guest("agent"), Here(), trusted=True)


def test_another_build_of_the_guest_is_refused(said: dict[str, Any]) -> None:
    """Its memory would be one build's, and after a reset another's."""
    with pytest.raises(UsageError, match=f"the guest is of another build \\(labkit {VERSION}, here {VERSION}\\)"):
        image_of(check(said | {"digest": "0" * 64}), b"")


def test_a_kernel_is_no_larger_than_its_machine() -> None:
    """Nobody makes room for what the machine could not hold."""
    image = Image("big", (Segment(1 << 20, b"", 1 << 30),), 1 << 20, lab=False)
    with pytest.raises(UsageError, match=r"big needs memory up to .*: memory_mib=16 is too small"):
        plan_of(Hello({"memory_mib": 16}, {}), image, Here(), trusted=True)


def test_a_ram_disk_is_no_larger_than_memory_may_be(said: dict[str, Any]) -> None:
    """It comes along in whatever size it has; a stranger cannot ask for terabytes."""
    for sectors in (1, 4 << 20):
        hello = check(said | {"sectors": sectors})
        plan = plan_of(hello, image_of(hello, b""), Here(), trusted=True)
        assert plan.model.image.sectors == sectors  # type: ignore[attr-defined]
        plan.model.close()
    for sectors in (0, (4 << 20) + 1, (1 << 64) - 1):
        hello = check(said | {"sectors": sectors})
        with pytest.raises(UsageError, match=r"sectors|bytes"):
            plan_of(hello, image_of(hello, b""), Here(), trusted=True)
