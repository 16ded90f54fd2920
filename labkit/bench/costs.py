"""What do the lab's own habits cost? An event in the feed, and the import of the package."""

from __future__ import annotations

import errno
import subprocess
import sys
import time

from labkit import abi
from labkit.bench.row import Effort, Samples, interleaved
from labkit.errors import HostError
from labkit.memory import GuestMemory
from labkit.native import lib

PS_PER_NS, MS_PER_S = 1e3, 1e3


def event(effort: Effort) -> Samples:
    """One event emitted from C, ns. Needs no guest."""
    memory = GuestMemory(abi.MEMORY_MIN_MIB)
    try:
        return interleaved(
            lambda: lib.lk_event_ps(memory.native.feed, effort.events) / PS_PER_NS,
            lambda: lib.lk_bare_event_ps(effort.events) / PS_PER_NS,
            effort.repetitions,
        )
    finally:
        memory.close()


def importing(effort: Effort) -> Samples:
    """The import in a fresh interpreter by its own clock, ms; beside it what such an interpreter takes by itself."""
    return interleaved(_import_ms, _interpreter_ms, effort.repetitions)


def _import_ms() -> float:
    code = "from time import perf_counter as now; start = now(); import labkit; print(now() - start)"
    return float(_python(code)) * MS_PER_S


def _interpreter_ms() -> float:
    start = time.perf_counter()
    _python("pass")
    return (time.perf_counter() - start) * MS_PER_S


def _python(code: str) -> str:
    """What it prints; run with the working directory off the path (-P)."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise HostError("python -c", errno.EIO, said)
    return done.stdout.decode()
