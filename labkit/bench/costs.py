"""What do the lab's own habits cost? An event in the feed, and the import of the package."""

from __future__ import annotations

import errno
import subprocess
import sys

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
    """The import in a fresh interpreter, ms, by its own clock."""
    return interleaved(lambda: _import_ms("labkit"), lambda: _import_ms("_cffi_backend"), effort.repetitions)


def _import_ms(module: str) -> float:
    """The working directory is kept off the path (-P), so that both find modules alike."""
    code = f"from time import perf_counter as now; start = now(); import {module}; print(now() - start)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise HostError(f"import {module}", errno.EIO, said)
    return float(done.stdout) * MS_PER_S
