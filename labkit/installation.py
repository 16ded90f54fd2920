"""Which labkit is installed, what was left out of it, why, and how is it mended? setup.py writes down the latter."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from labkit.errors import HostError

VERSION = "0.1.0"  # as in pyproject.toml; to be read where there is no metadata too, as beside a plain build
PACKAGE = Path(__file__).resolve().parent
LEFT_OUT = PACKAGE / "left_out.txt"  # a line for each part: "core: no C compiler (gcc)"; no file, nothing left out

PARTS = {"core": "the C core", "kvm": "the KVM back end", "guests": "the lab's own guests"}
NEEDS = {
    "core": "gcc and the headers of Python (Debian, Ubuntu: apt-get install gcc libc6-dev python3-dev)",
    "kvm": "the kernel's headers, linux/kvm.h (Debian, Ubuntu: apt-get install linux-libc-dev)",
    "guests": "a compiler for x86-64 (Debian, Ubuntu: apt-get install gcc, or gcc-x86-64-linux-gnu elsewhere)",
}
IN_A_TREE = (PACKAGE.parent / "Makefile").is_file()
BUILD_AGAIN = "build again: " + ("make install" if IN_A_TREE else "pip install --force-reinstall --no-deps labkit")


def left_out() -> dict[str, str]:
    """Part → why it was not built, for each part of PARTS that this installation does without."""
    if not LEFT_OUT.is_file():
        return {}
    lines = (line.partition(": ") for line in LEFT_OUT.read_text().splitlines())
    return {part: why for part, _, why in lines if part in PARTS}


def mend(part: str) -> str:
    """What to install, and what to run after that."""
    if part == "kvm" and os.uname().machine != "x86_64":
        return "on this kind of machine guests run on the emulated CPU"
    return f"install {NEEDS[part]}, then {BUILD_AGAIN}"


def missing(part: str, found: str = "not there", kind: type[HostError] = HostError) -> HostError:
    """The error for whoever needs a part that was left out; `found` is said where no reason was written down.

    Without the core it speaks of the core: the other parts are of no use then, and mostly lack the same compiler.
    """
    why = {part: found} | left_out()
    named = "core" if "core" in why else part
    return kind(PARTS[named], errno.ENOSYS, f"left out of this installation: {why[named]}; {mend(named)}")
