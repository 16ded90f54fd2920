"""Does guest memory change while the machine is paused? All of it is compared, from a stop's end to the next start.

By content, page by page; a page that nobody has ever touched is zero. A byte that is written as it was is not seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.dirty import PAGE_BYTES

if TYPE_CHECKING:
    from labkit.board import Board

ZERO = bytes(PAGE_BYTES)


class Stillness:
    """Of one machine, while a schedule is played: a context manager.

    `stops`: events in the feed at the end of each stop. `changed`: guest-physical addresses, one a page.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._then: dict[int, bytes] | None = None  # while it is paused
        self.stops: list[int] = []
        self.changed: list[int] = []

    def __enter__(self) -> Stillness:
        self._board.runstate.witness = self._hears
        return self

    def __exit__(self, *error: object) -> None:
        """What is paused still is looked at now."""
        self._board.runstate.witness = None
        self._look()

    def _hears(self, running: bool) -> None:
        if running:
            self._look()
        else:
            self._then = self._pages()
            self.stops.append(self._board.feed.position())

    def _pages(self) -> dict[int, bytes]:
        """By index, of those that anybody has touched."""
        read = self._board.memory.read
        return {page: read(page * PAGE_BYTES, PAGE_BYTES) for page in self._board.dirty.touched()}

    def _look(self) -> None:
        then, self._then = self._then, None
        if then is None:
            return
        now = self._pages()
        for page in sorted(then.keys() | now.keys()):
            before, after = then.get(page, ZERO), now.get(page, ZERO)
            if before != after:
                first = next(at for at in range(PAGE_BYTES) if before[at] != after[at])
                self.changed.append(page * PAGE_BYTES + first)
