"""What does a kick cost the others? Two vCPUs share the queue of a slow disk, and kick it under the driver's lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import labkit
from labkit.answers import Storm
from labkit.bench.bare import thread_id
from labkit.bench.row import Effort, Samples, interleaved
from labkit.errors import GuestError
from labkit.native import lib

VCPUS, DEPTH = 2, 8
DELAY_NS, THINK_NS = 200_000, 100_000  # the disk's part of a request, and the guest's work on what it brought
TIMEOUT_S = 20
SLEEPS = 100  # one is too short to time alone
NS_PER_S, PERCENT = 1e9, 100


def throughput_on(effort: Effort) -> Samples:
    """Requests/s with ioeventfd on, beside what the disk alone could do."""
    return _throughput(effort, ioeventfd=True)


def throughput_off(effort: Effort) -> Samples:
    """The same by traps."""
    return _throughput(effort, ioeventfd=False)


def blocked_on(effort: Effort) -> Samples:
    """Percent of the vCPUs' time in kicks and at the lock, beside that of one vCPU with ioeventfd on."""
    return _blocked(effort, ioeventfd=True)


def blocked_off(effort: Effort) -> Samples:
    """The same by traps; the floor stays the one of ioeventfd."""
    return _blocked(effort, ioeventfd=False)


def why_not() -> str:
    """What keeps this machine from showing the difference; empty if nothing does."""
    if len(os.sched_getaffinity(0)) < VCPUS:
        return f"threads, blocked: {VCPUS} vCPUs share one usable CPU here, so these rows say nothing about threads."
    return ""


def _throughput(effort: Effort, *, ioeventfd: bool) -> Samples:
    with _boot(effort.cpu, ioeventfd=ioeventfd) as machine:
        return interleaved(
            lambda: _storm(machine, effort, VCPUS).requests_per_s,
            lambda: NS_PER_S / lib.lk_bare_delay_ns(DELAY_NS, SLEEPS),
            effort.repetitions,
        )


def _blocked(effort: Effort, *, ioeventfd: bool) -> Samples:
    with _boot(effort.cpu, ioeventfd=ioeventfd) as machine, _boot(effort.cpu, ioeventfd=True) as alone:
        return interleaved(
            lambda: _storm(machine, effort, VCPUS).blocked_share * PERCENT,
            lambda: _storm(alone, effort, 1).blocked_share * PERCENT,
            effort.repetitions,
        )


@contextmanager
def _boot(cpu: str, *, ioeventfd: bool) -> Iterator[labkit.Machine]:
    """Each vCPU keeps to a CPU of its own, for two would now and then share one; the iothread goes where it likes."""
    cpus = sorted(os.sched_getaffinity(0))
    with labkit.boot("blk", cpu=cpu, ioeventfd=ioeventfd, vcpus=VCPUS, delay_ns=DELAY_NS) as machine:
        machine.guest.parked()  # so that each vCPU's thread is there, and has its name
        for vcpu in range(VCPUS):
            os.sched_setaffinity(thread_id(f"{machine.name}-vcpu{vcpu}"), {cpus[vcpu % len(cpus)]})
        yield machine


def _storm(machine: labkit.Machine, effort: Effort, vcpus: int) -> Storm:
    requests = max(DEPTH, effort.requests // 4)  # each takes some hundred microseconds
    done = machine.guest.storm(requests, DEPTH, vcpus=vcpus, think_ns=THINK_NS, timeout_s=TIMEOUT_S)
    if done.requests != requests or done.errors:
        raise GuestError(f"a storm of {requests} requests: {done.requests} completed, {done.errors} with errors")
    return done
