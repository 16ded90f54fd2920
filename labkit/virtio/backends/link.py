"""How are two machines connected? By a cable with two ends; what goes in at one comes out at the other."""

from __future__ import annotations

from types import TracebackType

from labkit.errors import UsageError
from labkit.virtio.backends.cable import Cable


class LinkEnd:
    """One end of a `link`, for `boot("net", net=end)`. It belongs to the machine it was given to, and goes with it."""

    def __init__(self, cable: Cable) -> None:
        self._cable = cable
        self._used = False

    def plug(self) -> Cable:
        """The cable, once. UsageError: a machine was given this end before, or it was closed."""
        if self._used:
            raise UsageError(
                "net=: this end of the link was given to a machine before; labkit.link() makes two new ends"
            )
        if not self._cable.is_open:
            raise UsageError("net=: this end of the link is closed; labkit.link() makes two new ends")
        self._used = True
        return self._cable

    def close(self) -> None:
        """Close an end that no machine has; a machine closes its own. Idempotent."""
        if not self._used:
            self._cable.close()

    def __enter__(self) -> LinkEnd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "given to a machine" if self._used else "free" if self._cable.is_open else "closed"
        return f"end of a link, {state}"


def link() -> tuple[LinkEnd, LinkEnd]:
    """The two ends of a new cable between two machines: `boot("net", net=end)` for each.

    Frames that the other machine has not taken wait in the cable: with Linux's defaults 93 of the longest, or 278 of 60
    bytes. What comes then is dropped, and counted by the sender.
    """
    import socket

    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setblocking(False)
    first, second = (LinkEnd(Cable(end.detach(), "link", is_socket=True)) for end in pair)
    return first, second
