"""What does the guest answer to a step? Plain tuples, with units in their names."""

from __future__ import annotations

from typing import NamedTuple

from labkit import views
from labkit.abi import Status


class Added(NamedTuple):
    """A request in the descriptor table, not yet published: head descriptor, slot, address of its data."""

    head: int
    slot: int
    buffer_gpa: int


class Completion(NamedTuple):
    """What wait() reaped: how many, and of the last one head, used.len, status byte (0xff: it has none), slot."""

    reaped: int
    head: int
    used_len: int
    status: int
    interrupts: int
    slot: int


class Negotiated(NamedTuple):
    """What the driver and the device agreed on."""

    offered: int
    accepted: int
    queues: int
    bar0: int
    status: Status


class Share(NamedTuple):
    """Where the time of one vCPU went in a storm, as parts of 1: inside kicks, waiting for the lock, all the rest."""

    kick: float
    lock: float
    rest: float


class Storm(NamedTuple):
    """A load and its times, as the guest measured them: on which CPU, says `cpu`.

    `seconds` is wall time; `kick_share` and `lock_share` are the parts of the vCPUs' time spent inside kicks and
    waiting for the driver's lock, `shares` those of each vCPU. `think_ns` is the work on each completion.
    """

    requests: int
    errors: int
    depth: int
    vcpus: int
    cpu: str
    seconds: float
    kicks: int
    interrupts: int
    kick_share: float
    lock_share: float
    think_ns: int
    shares: tuple[Share, ...]

    @property
    def requests_per_s(self) -> float:
        """Throughput."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def blocked_share(self) -> float:
        """The part of the vCPUs' time in which they could do nothing else: in kicks and waiting for the lock."""
        return self.kick_share + self.lock_share

    @property
    def blocked_ns_per_request(self) -> float:
        """The same as time of all vCPUs together, for each request."""
        return self.blocked_share * self.vcpus * self.seconds * 1e9 / self.requests if self.requests else 0.0

    @property
    def cpu_note(self) -> str:
        """`cpu` for a caption above these times: it says so if they are an emulator's."""
        return views.cpu_note(self.cpu)

    def _caption(self) -> str:
        return f"storm, {self.cpu_note}"

    def _values(self) -> dict[str, object]:
        requests = f"{self.requests}, {self.depth} in flight" + (f", {self.errors} errors" if self.errors else "")
        work = f", {self.think_ns / 1000:g} us of work on each" if self.think_ns else ""
        return {
            "requests": requests + work,
            "took": f"{self.seconds * 1000:.1f} ms, {self.requests_per_s:,.0f} requests a second",
            "kicks": self.kicks,
            "interrupts": self.interrupts,
            **{f"vCPU {index}": _share_text(share) for index, share in enumerate(self.shares)},
        }

    def _repr_html_(self) -> str:
        return views.named(self._caption(), self._values())

    def __repr__(self) -> str:
        return views.lines(self._caption(), self._values())


def _share_text(share: Share) -> str:
    return f"{share.kick:.0%} in kicks, {share.lock:.0%} at the lock, {share.rest:.0%} free"
