"""Whose is the machine when a process of a move is killed? Kill -9 of either at every gate, in the middle of writes.

What must come of it, from the rules (labkit/migration/source.py):

- Until RUNS is sent it is the source's: if the destination dies before, the source has the disk back and runs on, and
  `migrate` says why. If it dies later, the machine has died with its owner, and the source does not run.
- Without its whole state nobody can go on with it: if the source dies before STATE is sent, the machine is dead, and
  the destination throws away what it has. If it dies later, the destination has the disk's lock, for a dead process has
  none: it needs no word more, and runs.

In all of them no acknowledged write is lost, no block is damaged, and never two processes run the guest.

A process that stands still and wakes up again is one more: it knows of nothing, and does as the rules say.

- The other waits in vain and decides alone, by the lock: who has it runs the machine, who cannot have it does not.
- A RAM disk has no lock. The destination needs YOURS, then, whether the source is dead or silent. The source that has
  not said YOURS runs on; one that has said it runs on if the destination is dead, and not if it is silent.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from journal import ALL_WELL, check_disk, memfd_reader, wait_for_writes_in
from movers import ROUNDS, WAIT_S, Stop
from moving import Move, Side

from labkit import UsageError
from labkit.abi import SECTOR_BYTES
from labkit.migration.address import parse
from labkit.migration.channel import Channel
from labkit.migration.wire import Kind, Wire
from labkit.trace.events import Gate
from labkit.virtio.backends.image import open_image

DISK_SECTORS = 64
WRITES_AFTER = 64
END = re.compile(r"^journal acked=\d+ verified=\d+ errors=0$", re.MULTILINE)

SOURCE, DESTINATION, NOBODY = "source", "destination", "nobody"

# gate: (who runs it when the destination is killed there, when the source is)
OUTCOMES = {
    Gate.CONNECTED: (SOURCE, NOBODY),
    Gate.HELLO_SENT: (SOURCE, NOBODY),
    Gate.ROUND_SENT: (SOURCE, NOBODY),
    Gate.WELCOME_HEARD: (SOURCE, NOBODY),
    Gate.STOPPED: (SOURCE, NOBODY),
    Gate.REST_SENT: (SOURCE, NOBODY),
    Gate.DISK_LET_GO: (SOURCE, NOBODY),
    Gate.STATE_SENT: (SOURCE, DESTINATION),
    Gate.TAKEN_HEARD: (SOURCE, DESTINATION),
    Gate.YOURS_SENT: (SOURCE, DESTINATION),
    Gate.RUNS_HEARD: (NOBODY, DESTINATION),
    Gate.ACCEPTED: (SOURCE, NOBODY),
    Gate.HELLO_HEARD: (SOURCE, NOBODY),
    Gate.BUILT: (SOURCE, NOBODY),
    Gate.WELCOME_SENT: (SOURCE, NOBODY),
    Gate.ROUND_STORED: (SOURCE, NOBODY),
    Gate.STATE_HEARD: (SOURCE, DESTINATION),
    Gate.LOADED: (SOURCE, DESTINATION),
    Gate.DISK_TAKEN: (SOURCE, DESTINATION),
    Gate.TAKEN_SENT: (SOURCE, DESTINATION),
    Gate.YOURS_HEARD: (SOURCE, DESTINATION),
    Gate.RUNS_SENT: (NOBODY, DESTINATION),
    Gate.RUNS: (NOBODY, DESTINATION),
}

# gate of the side that is killed: who runs it, if its disk decides nothing
OUTCOMES_WITHOUT_LOCK = {
    Gate.STATE_SENT: NOBODY,
    Gate.TAKEN_HEARD: NOBODY,
    Gate.YOURS_SENT: DESTINATION,
    Gate.TAKEN_SENT: SOURCE,
    Gate.YOURS_HEARD: SOURCE,
    Gate.RUNS_SENT: NOBODY,
}

# Who stalls where, where the other stands then, who runs it: by the lock, and without one.
STALLS = [
    (Stop(Gate.ROUND_STORED), Stop(Gate.ROUND_SENT), SOURCE, SOURCE),
    (Stop(Gate.STATE_HEARD), Stop(Gate.STATE_SENT), SOURCE, SOURCE),
    (Stop(Gate.LOADED), Stop(Gate.STATE_SENT), SOURCE, SOURCE),
    (Stop(Gate.DISK_TAKEN), Stop(Gate.STATE_SENT), DESTINATION, SOURCE),
    (Stop(Gate.TAKEN_SENT), Stop(Gate.TAKEN_HEARD), DESTINATION, DESTINATION),
    (Stop(Gate.YOURS_HEARD), Stop(Gate.YOURS_SENT), DESTINATION, DESTINATION),
    (Stop(Gate.DISK_LET_GO), Stop(Gate.ROUND_STORED, ROUNDS), SOURCE, SOURCE),
    (Stop(Gate.STATE_SENT), Stop(Gate.TAKEN_SENT), DESTINATION, SOURCE),
    (Stop(Gate.TAKEN_HEARD), Stop(Gate.TAKEN_SENT), DESTINATION, SOURCE),
    (Stop(Gate.YOURS_SENT), Stop(Gate.YOURS_HEARD), DESTINATION, DESTINATION),
]

# Where the other side stands meanwhile, if it might be before or behind a gate that changes the outcome.
OTHER_HALTS_AT = {
    Gate.CONNECTED: Gate.ACCEPTED,
    Gate.HELLO_SENT: Gate.ACCEPTED,
    Gate.YOURS_SENT: Gate.TAKEN_SENT,
    Gate.ACCEPTED: Gate.HELLO_SENT,
    Gate.HELLO_HEARD: Gate.HELLO_SENT,
    Gate.BUILT: Gate.HELLO_SENT,
    Gate.WELCOME_SENT: Gate.HELLO_SENT,
    Gate.ROUND_STORED: Gate.ROUND_SENT,
    Gate.STATE_HEARD: Gate.STATE_SENT,
    Gate.LOADED: Gate.STATE_SENT,
    Gate.DISK_TAKEN: Gate.STATE_SENT,
    Gate.TAKEN_SENT: Gate.TAKEN_HEARD,
    Gate.YOURS_HEARD: Gate.YOURS_SENT,
    Gate.RUNS_SENT: Gate.YOURS_SENT,
    Gate.RUNS: Gate.YOURS_SENT,
}

# Gates of the destination at which its guest has all of the source's memory, and has not run: both are the same.
ALIKE = (Gate.LOADED, Gate.DISK_TAKEN, Gate.TAKEN_SENT, Gate.YOURS_HEARD, Gate.RUNS_SENT)

STOPS = [Stop(gate) for gate in OUTCOMES] + [Stop(Gate.ROUND_SENT, ROUNDS)]


def side_of(gate: Gate) -> str:
    """Whose gate it is."""
    return SOURCE if gate <= Gate.RUNS_HEARD else DESTINATION


def name_of(stop: Stop) -> str:
    """For the test's."""
    return stop.gate.name.lower() + (f"_{stop.round}" if stop.round else "")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty image, and nothing else there in the end."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(DISK_SECTORS * SECTOR_BYTES))
    yield path
    assert list(tmp_path.iterdir()) == [path]


# -- what must be true afterwards --------------------------------------------------------------------------------------


def is_locked(disk: Path) -> bool:
    """Can nobody else write it?"""
    try:
        open_image(disk, writable=True).close()
    except UsageError as error:
        if "in use" not in str(error):
            raise
        return True
    return False


def runs_alone(move: Move, runner: Side) -> None:
    """Its journal goes on, nobody else's moves, and it has the disk."""
    other = move.other(runner)
    others = other.journal()
    wait_for_writes_in(memfd_reader(runner.memory), runner.table().writes + WRITES_AFTER)
    assert move.disk is None or is_locked(move.disk)
    assert other.journal() == others, f"the {other.name} runs too"


def ends_well(move: Move, runner: Side) -> None:
    """Its guest has read every block once more, and found what it knew; so does the host. The disk is free then."""
    runner.tell("end")
    exit_code, console = move.hear(runner, "ended")
    assert exit_code == ALL_WELL and END.search(console), console
    move.hear(runner, "closed")
    runner.wait_until_gone()
    last, moved = runner.table(), move.source.table()
    assert all(seq >= before for seq, before in zip(last.acked, moved.acked, strict=True)), "a write was forgotten"
    if move.disk is not None:
        assert check_disk(move.disk, last) > 0
        assert not is_locked(move.disk), "the other has had the lock"


def rests(move: Move, side: Side) -> None:
    """It does not run, does not come to, and leaves nothing."""
    before = side.journal()
    side.tell("close")
    move.hear(side, "closed")
    side.wait_until_gone()
    assert side.journal() == before, f"the {side.name} has run"


def died(move: Move, victim: Side) -> None:
    """The machine is gone with it; its disk is free and has all that it knew of."""
    if move.disk is not None:
        assert not is_locked(move.disk)
        assert check_disk(move.disk, victim.table()) > 0


def check_said(move: Move, side: Side, outcome: str) -> str:
    """What `side` has made of it: it has the machine or not, and says in the project's words why it did not move."""
    state, is_clear, why = move.hear(side, "settled")
    if side is move.source:
        assert state == ("running" if outcome == SOURCE else "migrated"), why
        assert is_clear or (not why and outcome != SOURCE)
        assert outcome == SOURCE or not why or "handed over" in why
    else:
        assert state == ("running" if outcome == DESTINATION else "nothing"), why
        assert is_clear == (outcome != DESTINATION)
    return str(why)


def check_outcome(move: Move, outcome: str, victim: Side) -> None:
    """Of a walk on which `victim` has died."""
    survivor = move.other(victim)
    check_said(move, survivor, outcome)
    if outcome == survivor.name:
        runs_alone(move, survivor)
        ends_well(move, survivor)
    else:
        rests(move, survivor)
        died(move, victim)


# -- the walks ---------------------------------------------------------------------------------------------------------


def test_the_table_has_every_gate() -> None:
    """None is forgotten when one is added."""
    assert set(OUTCOMES) == set(Gate)


@pytest.mark.parametrize("locks", [True, False])
def test_nobody_is_killed(cpu: str, disk: Path, locks: bool) -> None:
    """The move itself: it runs there, and has been stopped here."""
    with Move(cpu, disk.parent, disk if locks else None) as move:
        check_said(move, move.source, DESTINATION)
        check_said(move, move.destination, DESTINATION)
        runs_alone(move, move.destination)
        ends_well(move, move.destination)
        rests(move, move.source)


def die_at_own_gate(move: Move, stop: Stop, outcome: str) -> None:
    """The side whose gate it is."""
    victim = move.side(side_of(stop.gate))
    move.hear(victim, "end of line")
    victim.wait_until_dead()
    check_outcome(move, outcome, victim)


@pytest.mark.parametrize("stop", STOPS, ids=name_of)
def test_a_side_dies_at_its_own_gate(cpu: str, disk: Path, stop: Stop) -> None:
    """In the middle of its work, the other in the middle of its own."""
    dies = side_of(stop.gate)
    with Move(cpu, disk.parent, disk, **{dies: {"die": stop}}) as move:
        die_at_own_gate(move, stop, OUTCOMES[stop.gate][dies is SOURCE])


@pytest.mark.parametrize("stop", STOPS, ids=name_of)
def test_the_other_dies_while_a_side_is_at_a_gate(cpu: str, disk: Path, stop: Stop) -> None:
    """The one at the gate hears of it with its next word, or the last."""
    name = side_of(stop.gate)
    dies = DESTINATION if name is SOURCE else SOURCE
    stands = OTHER_HALTS_AT.get(stop.gate)
    with Move(cpu, disk.parent, disk, **{name: {"halt": stop}, dies: {"halt": stands and Stop(stands)}}) as move:
        witness, victim = move.side(name), move.side(dies)
        move.hear(witness, "halted")
        move.hear(victim, "memory" if stands is None else "halted")  # it is there, in any case
        if stop.gate in ALIKE:
            assert witness.contents() == victim.contents()
        victim.kill()
        witness.tell("go")
        check_outcome(move, OUTCOMES[stop.gate][dies is SOURCE], victim)


@pytest.mark.parametrize("gate", OUTCOMES_WITHOUT_LOCK, ids=lambda gate: name_of(Stop(gate)))
def test_a_side_dies_and_no_lock_decides(cpu: str, disk: Path, gate: Gate) -> None:
    """A RAM disk's machine goes on by the words alone."""
    with Move(cpu, disk.parent, None, **{side_of(gate): {"die": Stop(gate)}}) as move:
        die_at_own_gate(move, Stop(gate), OUTCOMES_WITHOUT_LOCK[gate])


# -- and who stands still ----------------------------------------------------------------------------------------------


def stall(move: Move, stop: Stop, outcome: str) -> None:
    """The side at `stop` stands still until the other has decided; then it wakes up, and decides the same."""
    victim = move.side(side_of(stop.gate))
    witness = move.other(victim)
    move.hear(witness, "halted")
    move.hear(victim, "halted")
    victim.stall()
    witness.tell("go")
    check_said(move, witness, outcome)
    victim.tell("go")
    victim.wake()
    why = check_said(move, victim, outcome)
    assert outcome == SOURCE or victim is move.destination or not why, "RUNS was there to be heard"
    runner = move.side(outcome)
    runs_alone(move, runner)
    ends_well(move, runner)
    rests(move, move.other(runner))


@pytest.mark.parametrize("case", STALLS, ids=lambda case: name_of(case[0]))
def test_a_side_stalls_and_wakes_up(cpu: str, disk: Path, case: tuple[Stop, Stop, str, str]) -> None:
    """The lock decides."""
    stop, stands, outcome, _ = case
    with Move(cpu, disk.parent, disk, **stalling(stop, stands)) as move:
        stall(move, stop, outcome)


@pytest.mark.parametrize("case", STALLS, ids=lambda case: name_of(case[0]))
def test_a_side_stalls_and_no_lock_decides(cpu: str, disk: Path, case: tuple[Stop, Stop, str, str]) -> None:
    """The words do."""
    stop, stands, _, outcome = case
    with Move(cpu, disk.parent, None, **stalling(stop, stands)) as move:
        stall(move, stop, outcome)


def stalling(stop: Stop, stands: Stop) -> dict[str, dict[str, object]]:
    """Orders for both sides."""
    return {side_of(each.gate): {"halt": each, "hurried": True} for each in (stop, stands)}


def test_a_word_to_nobody_is_none_of_its_errors() -> None:
    """Who says RUNS to a source that has said YOURS and died must not take that word for the answer."""
    ours, theirs = (Channel(end, parse("unix:/nowhere"), WAIT_S) for end in socket.socketpair())
    with ours:
        with theirs:
            Wire(theirs).send(Kind.YOURS)
        Wire(ours).try_to_send(Kind.RUNS)
        assert Wire(ours).expect(Kind.YOURS).kind is Kind.YOURS
