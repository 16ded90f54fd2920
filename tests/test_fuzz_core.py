"""Can any driver make the C core do more than break its own device? tests/fuzz/core_fuzz.c, with sanitizers, no Python.

A failure names its seed and step; `core_fuzz --seed N --steps N --trace` does the same again.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from fuzzing import CORE, PROGRAMS, SANITIZE, build, much, needs_sanitizers, report

from labkit.virtio import catalogue

NAMES = ("core_fuzz", "checks", "driver", "kinds", "console", "cable", "model", "world")
PARTS = tuple(PROGRAMS / f"{name}.c" for name in NAMES)
CALLED = tuple(source for source in CORE if source.stem not in ("loop", "worker"))  # the program is the iothread itself
STEPS = much(30_000, 100_000)
SEEDS = range(1, 1 + much(3, 10))
SABOTAGE = {
    "overrun": "use-after-poison",
    "stray": "written where no chain allows it",
    "used-idx": r"\d+ served, |\d+ chains taken",
    "inuse": "inuse 1, but 0 chains",
    "lost-kick": "kicks trapped",
    "counted-twice": "kicks signalled",
    "asks": "written where no chain allows it",
    "interrupt": r"1 interrupts, 0 due|2 interrupts, 1 due",
    "mended": "broken is 0",
    "pending": "is pending, with nothing that holds it back",
}
NOT_FUZZED: set[str] = set()  # devices whose chains are served by code that is not in the C core

pytestmark = [pytest.mark.slow, pytest.mark.timeout(much(600, 1200))]


@pytest.fixture(scope="module")
def core_fuzz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built from the core's own sources."""
    needs_sanitizers()
    return build(tmp_path_factory.mktemp("fuzz") / "core_fuzz", *PARTS, *CALLED, flags=SANITIZE)


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The program, to its end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ASAN_", "UBSAN_", "LD_"))}
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_core_does_what_the_model_foresees(core_fuzz: Path, seed: int) -> None:
    """Used ring and writable buffers change and nothing else; counters, indices and broken are as foreseen."""
    start = time.monotonic()
    done = run(core_fuzz, "--seed", seed, "--steps", STEPS)
    assert done.returncode == 0, done.stderr
    report(f"core: {done.stdout.strip()}, {time.monotonic() - start:.1f} s")


def test_most_runs_are_foreseen(core_fuzz: Path) -> None:
    """The model gives up only on chains that write over their own descriptions; wraps and breaks both occur."""
    said = run(core_fuzz, "--kind", "blk").stdout
    numbers = {name: int(value) for value, name in re.findall(r"(\d+) ([a-z]+)", said)}
    assert numbers["foreseen"] > 0.95 * numbers["runs"]
    assert min(numbers["requests"], numbers["wraps"], numbers["breaks"]) > 50


def test_the_same_seed_does_the_same(core_fuzz: Path) -> None:
    """Or a failure could not be replayed."""
    arguments = ("--seed", 7, "--steps", 2000, "--trace")
    once, again = run(core_fuzz, *arguments), run(core_fuzz, *arguments)
    assert (once.stdout, once.stderr) == (again.stdout, again.stderr)
    assert once.stderr.count("\n") == 2000


@pytest.mark.parametrize("wrong", SABOTAGE)
def test_a_wrong_is_reported(core_fuzz: Path, wrong: str) -> None:
    """The program can fail: each deliberate wrong ends it, with what was seen and how to replay it."""
    done = run(core_fuzz, "--seed", 1, "--sabotage", wrong)
    assert done.returncode != 0
    assert re.search(SABOTAGE[wrong], done.stderr)
    assert re.search(r"replay: core_fuzz --seed 1 --steps \d+", done.stderr)


def test_every_device_is_fuzzed(core_fuzz: Path) -> None:
    """A device of the catalogue has an entry in tests/fuzz/kinds.c."""
    assert set(run(core_fuzz, "--kinds").stdout.split()) == set(catalogue.MAKERS) - NOT_FUZZED
