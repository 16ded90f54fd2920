"""Is a schedule the same after it was written down, and is one that is of something else refused?"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orders import KICK_AND_STOP, PAUSE, TWO_VCPUS

from labkit import UsageError
from labkit.races import schedules
from labkit.races.scenario import kick
from labkit.trace.events import Actor

ACTORS = st.sampled_from([Actor.OWNER, Actor.IOTHREAD, Actor.BACKEND, *range(Actor.VCPU0, Actor.VCPU0 + 8)])


@given(st.lists(ACTORS, max_size=schedules.DECISIONS_MAX // 8).map(bytes))
def test_a_schedule_is_the_same_after_it_was_a_text(actors: bytes) -> None:
    """Whoever goes, and however often."""
    text = schedules.encode(TWO_VCPUS, actors)
    assert schedules.decode(TWO_VCPUS, text) == actors
    assert schedules.encode(TWO_VCPUS, schedules.decode(TWO_VCPUS, text)) == text


def test_a_schedule_is_short_and_can_be_read() -> None:
    """Who goes, and how often in a row."""
    actors = bytes([Actor.VCPU0, Actor.VCPU0, Actor.VCPU0, Actor.IOTHREAD, Actor.OWNER, Actor.VCPU0 + 1])
    assert schedules.encode(TWO_VCPUS, actors).endswith(":vx3 i m v.1")


@given(st.text(max_size=40))
def test_any_other_text_is_refused(text: str) -> None:
    """With a UsageError, whatever it is."""
    with pytest.raises(UsageError):
        schedules.decode(KICK_AND_STOP, text)


@given(st.text(alphabet="ibmvx.0123456789 :-", max_size=20))
def test_parts_that_are_no_actors_are_refused(parts: str) -> None:
    """Either it is a schedule, or an error: never another one, and none that is too long."""
    head = schedules.encode(KICK_AND_STOP, b"")
    try:
        actors = schedules.decode(KICK_AND_STOP, head + parts)
    except UsageError:
        return
    assert len(actors) <= schedules.DECISIONS_MAX
    assert schedules.decode(KICK_AND_STOP, schedules.encode(KICK_AND_STOP, actors)) == actors


def test_a_schedule_of_another_scenario_is_refused() -> None:
    """By the name in its head."""
    with pytest.raises(UsageError, match="it is of kick-and-pause, not of kick-and-stop"):
        schedules.decode(KICK_AND_STOP, schedules.encode(PAUSE, b"\x10"))


def test_a_schedule_of_another_version_is_refused() -> None:
    """The steps have changed, so who goes when means something else."""
    other = replace(KICK_AND_STOP, guest=(*KICK_AND_STOP.guest, kick()))
    with pytest.raises(UsageError, match="was another one then"):
        schedules.decode(other, schedules.encode(KICK_AND_STOP, b"\x10"))


def test_the_longest_schedule_is_the_longest() -> None:
    """A count does not make a text of 20 bytes one of a gigabyte."""
    head = schedules.encode(KICK_AND_STOP, b"")
    assert len(schedules.decode(KICK_AND_STOP, f"{head}vx{schedules.DECISIONS_MAX}")) == schedules.DECISIONS_MAX
    for parts in (f"vx{schedules.DECISIONS_MAX + 1}", f"vx{schedules.DECISIONS_MAX} i", "vx" + "9" * 5000):
        with pytest.raises(UsageError, match="is no actor"):
            schedules.decode(KICK_AND_STOP, head + parts)
