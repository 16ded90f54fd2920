"""How does a running machine move to another process, or another host?

`source.py` and `destination.py` have the order, each from its side, and source.py says whose the machine is at each
moment. `wire.py` is what they say to each other, `hello.py` what machine it is, `expected.py` whether it is the right
one, `channel.py` how bytes get there. `outgoing.py` and `incoming.py` are the handles for whoever waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from labkit.errors import UsageError
from labkit.migration import tls as sealing
from labkit.migration.address import parse
from labkit.migration.expected import Expected
from labkit.migration.hello import Here
from labkit.migration.incoming import Arrival
from labkit.migration.outgoing import Migration
from labkit.migration.progress import Progress, Round, Tell
from labkit.migration.source import Limits

if TYPE_CHECKING:
    from labkit.abi import Irq
    from labkit.board import Board

__all__ = ["Arrival", "Here", "Limits", "Migration", "Progress", "Round", "arrive", "leave"]

M = TypeVar("M")
Folder = str | os.PathLike[str] | None
TIMEOUT_MAX_S = 3600.0


def leave(
    board: Board,
    irq: Irq,
    keep: object,
    address: str,
    *,
    tls: Folder,
    limits: Limits,
    timeout_s: float,
    progress: Tell | None,
) -> Migration:
    """Begin; see `Machine.migrate`. `keep`: what must not be forgotten meanwhile."""
    to, context = parse(address), None if tls is None else sealing.context(tls, False)
    board.check_plugged()
    migration = Migration(
        board, irq, keep, to, tls=context, limits=limits, timeout_s=_checked(timeout_s), tell=progress
    )
    if board.migration is not None:
        raise UsageError(f"the machine is on its way to {board.migration.address} already")
    board.migration = migration
    migration.start()
    return migration


def arrive(
    address: str,
    here: Here,
    name: str,
    hold: Callable[[Board, Irq], M],
    *,
    expect: Mapping[str, Any],
    tls: Folder,
    timeout_s: float,
    progress: Tell | None,
) -> Arrival[M]:
    """Listen; see `labkit.listen`. `name`: the machine's. `hold`: makes of a board what the user gets."""
    context = None if tls is None else sealing.context(tls, True)
    return Arrival(
        parse(address), here, Expected(expect), name, hold, tls=context, timeout_s=_checked(timeout_s), tell=progress
    )


def _checked(timeout_s: float) -> float:
    if not 0 < timeout_s <= TIMEOUT_MAX_S:
        raise UsageError(f"timeout_s={timeout_s!r}: seconds, more than 0 and at most an hour")
    return timeout_s
