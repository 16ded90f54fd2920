"""Which part of the machine answers an address? Ranges never overlap, so the answer is one part or none."""

from __future__ import annotations

from bisect import bisect_right
from typing import Protocol

from labkit.errors import UsageError

ALL_ONES = {width: (1 << 8 * width) - 1 for width in range(1, 9)}  # an access across pages comes in odd parts


class Handler(Protocol):
    """A part that answers a range; `offset` counts from the start of the range, `width` is 1 to 8 bytes."""

    def read(self, offset: int, width: int) -> int:
        """The value the guest reads."""

    def write(self, offset: int, width: int, value: int) -> None:
        """The guest writes `value`."""


class Bus:
    """Addresses to handlers: one for I/O ports, one for MMIO. Nobody home: reads give all ones, writes are lost."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._starts: list[int] = []
        self._claims: list[tuple[range, Handler]] = []

    def claim(self, addresses: range, handler: Handler) -> None:
        """Give `addresses` to `handler`. UsageError if any is taken or out of range; nothing changes then."""
        at = bisect_right(self._starts, addresses.start)
        before_ends = at == 0 or self._claims[at - 1][0].stop <= addresses.start
        after_begins = at == len(self._starts) or addresses.stop <= self._starts[at]
        if not addresses or addresses.start < 0 or addresses.stop > self._size or not (before_ends and after_begins):
            raise UsageError(f"addresses {addresses.start:#x} to {addresses.stop - 1:#x} are taken or do not exist")
        self._starts.insert(at, addresses.start)
        self._claims.insert(at, (addresses, handler))

    def release(self, addresses: range) -> None:
        """Take back what `claim` gave; nothing happens if it was not given."""
        for at, (claimed, _) in enumerate(self._claims):
            if claimed == addresses:
                del self._starts[at], self._claims[at]
                return

    def read(self, address: int, width: int) -> int:
        """What the guest reads at `address`; the handler of the first byte answers for all of them."""
        found = self._find(address)
        if found is None:
            return ALL_ONES[width]
        addresses, handler = found
        return handler.read(address - addresses.start, width) & ALL_ONES[width]

    def write(self, address: int, width: int, value: int) -> None:
        """The guest writes `value` at `address`."""
        found = self._find(address)
        if found is not None:
            addresses, handler = found
            handler.write(address - addresses.start, width, value)

    def _find(self, address: int) -> tuple[range, Handler] | None:
        at = bisect_right(self._starts, address) - 1
        return self._claims[at] if at >= 0 and address in self._claims[at][0] else None
