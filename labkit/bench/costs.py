"""What do the lab's own habits cost? An event in the feed, and the import of the package."""

from __future__ import annotations

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
    """A fresh interpreter from start to exit, ms."""
    return interleaved(lambda: _python_ms("labkit"), lambda: _python_ms("_cffi_backend"), effort.repetitions)


def _python_ms(module: str) -> float:
    """Its own working directory is kept off the path, so that both find modules alike."""
    start = time.perf_counter()
    command = [sys.executable, "-P", "-c", f"import {module}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise HostError(f"import {module}", 5, done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    return (time.perf_counter() - start) * MS_PER_S
