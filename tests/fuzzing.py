"""How much is tried, and how are the tests' C programs built? `make fuzz` sets LABKIT_FUZZ and tries more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.native.build import HERE as NATIVE
from labkit.native.build import SOURCES

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tests" / "fuzz"
FULL = bool(os.environ.get("LABKIT_FUZZ"))
STRICT = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror")
SANITIZE = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")
CORE = tuple(NATIVE / f"{name}.c" for name in SOURCES)


def much(short: int, full: int) -> int:
    """How many: in make test, and in make fuzz."""
    return full if FULL else short


def report(line: str) -> None:
    """A line of make fuzz's summary; make test says nothing."""
    if FULL:
        sys.stdout.write(f"\n{line}\n")
        sys.stdout.flush()


def needs_sanitizers() -> None:
    """Skip where gcc came without its sanitizers."""
    for name in ("libasan.so", "libubsan.so"):
        found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
        if not Path(found.strip()).is_absolute():
            pytest.skip(f"gcc has no {name} here")


def build(program: Path, *sources: Path, flags: tuple[str, ...] = ()) -> Path:
    """Compile `sources` to `program`; a warning fails the test."""
    include = (f"-I{NATIVE}", f"-I{ROOT / 'guests' / 'include'}")
    command = ["gcc", *STRICT, *flags, *include, *map(str, sources), "-o", str(program), "-lpthread"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return program
