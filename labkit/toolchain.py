"""How is a guest built? gcc and binutils for x86-64; each guest is an ELF that two loaders understand.

A guest is linked as a 64-bit ELF and stored as a 32-bit one, which is what multiboot loaders take; the code in it is
64-bit from start64 on. guests/build.py uses this before labkit is installed, so it imports nothing of labkit.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

TARGET = "x86_64"  # whatever machine the guests are built on
CROSS = "x86_64-linux-gnu-gcc"  # as Debian and others name it
WARNINGS = ["-Wall", "-Wextra"]
BARE = ["-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-mno-red-zone"]
PLAIN = ["-mgeneral-regs-only", "-fcf-protection=none", "-fno-tree-loop-distribute-patterns"]  # no SSE, no memset
FIXED = ["-fno-pic", "-no-pie", "-mcmodel=small"]
PIECES = ["-ffunction-sections", "-fdata-sections"]  # a guest takes what it uses of lib/
FLAGS = ["-std=gnu11", "-O2", "-g0", *WARNINGS, *BARE, *PLAIN, *FIXED, *PIECES]
LINK = ["-nostdlib", "-static", "-no-pie"]
LINKER = ["--build-id=none", "-z,noexecstack", "--no-warn-rwx-segments", "--gc-sections"]
SCRIPT = "guest.ld"


class BuildError(Exception):
    """A tool failed; the message is what it said."""


class Said(NamedTuple):
    """What a tool that succeeded has printed; `warnings`: on stderr."""

    output: str
    warnings: str


def run(*command: str | Path, at: Path) -> Said:
    """Run a tool in `at`, so that no path of the machine gets into what it makes. BuildError: it failed."""
    plain = {**os.environ, "LC_ALL": "C"}  # the same quotes everywhere
    try:
        done = subprocess.run(
            [*map(str, command)],
            cwd=at,
            env=plain,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}; install gcc and binutils") from error
    if done.returncode:
        raise BuildError(done.stderr.strip() or f"{command[0]} ended with {done.returncode}")
    return Said(done.stdout, done.stderr)


def compiler() -> str | None:
    """The command that compiles for x86-64 here: $CC, else gcc, else a cross compiler; None if there is none."""
    for cc in (os.environ.get("CC") or "gcc", CROSS):
        try:
            if run(*shlex.split(cc), "-dumpmachine", at=Path()).output.startswith(TARGET):
                return cc
        except BuildError:
            continue
    return None


class Toolchain:
    """A compiler, the guests' library at `source` (lib/, include/, guest.ld), and a folder `work` for its objects.

    `cc` is a command that compiles for x86-64; it knows the binutils that go with it.
    """

    def __init__(self, cc: str, source: Path, work: Path) -> None:
        self._cc, self._source, self._work = shlex.split(cc), source, work
        self._library: list[Path] = []

    def compile(self, program: Path, made: Path, *options: str) -> str:
        """Into an object; returns the warnings. They name the file alone: it is compiled where it is."""
        include = [f"-I{self._source / folder}" for folder in ("include", "lib")]
        return run(*self._cc, *FLAGS, *options, *include, "-c", program.name, "-o", made, at=program.parent).warnings

    def link(self, program: Path, wide: Path) -> None:
        """The object and what it uses of the library as a 64-bit ELF."""
        script = self._work / SCRIPT
        if not self._library or not all(made.exists() for made in (script, *self._library)):
            self._work.mkdir(exist_ok=True)  # once, for it is most of the work; unless somebody tidied up
            script.write_text(run(*self._cc, "-E", "-P", "-x", "c", "-Iinclude", SCRIPT, at=self._source).output)
            self._library = [self._compiled(part) for part in sorted(self._source.glob("lib/*.[cS]"))]
        options = [f"-Wl,{option}" for option in LINKER]
        run(*self._cc, *LINK, *options, "-T", script, program, *self._library, "-o", wide, at=self._work)

    def _compiled(self, part: Path) -> Path:
        """Of the library, which has no warnings."""
        made = self._work / "lib" / f"{part.stem}.o"
        made.parent.mkdir(exist_ok=True)
        options = ("-Werror", "-Iinclude", "-Ilib")
        run(*self._cc, *FLAGS, *options, "-c", part.relative_to(self._source), "-o", made, at=self._source)
        return made

    def store(self, wide: Path, image: Path) -> None:
        """As a 32-bit ELF."""
        run(self._tool("objcopy"), "-O", "elf32-i386", wide, image, at=self._work)

    def bytes(self, wide: Path, image: Path) -> None:
        """As it lies in memory."""
        run(self._tool("objcopy"), "-O", "binary", wide, image, at=self._work)

    def listing(self, wide: Path) -> str:
        """Its disassembly."""
        return run(self._tool("objdump"), "-d", "--no-show-raw-insn", wide, at=self._work).output

    def _tool(self, name: str) -> str:
        """A program of the binutils that `cc` uses: a cross compiler has its own, the system's is on the path."""
        return run(*self._cc, f"-print-prog-name={name}", at=self._work).output.strip()
