"""How are the guests built? gcc and binutils for x86-64; each guest is an ELF that two loaders understand.

A guest is linked as a 64-bit ELF and stored as a 32-bit one, which is what multiboot loaders take; the code in it is
64-bit from start64 on. Beside it stand its disassembly, made from the 64-bit ELF, and its bytes as they lie in memory,
which labkit loads without an ELF reader.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
GUESTS = ("agent", "storm", "spin", "ping", "journal")
TARGET = "x86_64"  # whatever machine the guests are built on
CROSS = "x86_64-linux-gnu-gcc"  # as Debian and others name it
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
BARE = ["-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-mno-red-zone"]
PLAIN = ["-mgeneral-regs-only", "-fcf-protection=none", "-fno-tree-loop-distribute-patterns"]  # no SSE, no memset
FIXED = ["-fno-pic", "-no-pie", "-mcmodel=small"]
PIECES = ["-ffunction-sections", "-fdata-sections"]  # a guest takes what it uses of lib/
FLAGS = ["-std=gnu11", "-O2", "-g0", *WARNINGS, *BARE, *PLAIN, *FIXED, *PIECES]


class BuildError(Exception):
    """A tool failed; the message is what it said."""


def run(*command: str | Path) -> str:
    """Run a tool in guests/, so that no path of the machine gets into what it makes; return what it printed."""
    try:
        done = subprocess.run([*map(str, command)], cwd=HERE, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}; install gcc and binutils") from error
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def compiler() -> str | None:
    """The command that compiles for x86-64 here: $CC, else gcc, else a cross compiler; None if there is none."""
    for cc in (os.environ.get("CC") or "gcc", CROSS):
        try:
            if run(*shlex.split(cc), "-dumpmachine").startswith(TARGET):
                return cc
        except BuildError:
            continue
    return None


def build(out: Path, cc: str = "gcc", sources: Sequence[Path] = ()) -> list[Path]:
    """Build guests into `out`: NAME.elf, NAME.bin, NAME.asm. Returns the ELFs. BuildError if a tool fails.

    `sources`: C files of your own that use lib/, wherever they are; none: the lab's guests. `cc` is a command that
    compiles for x86-64; it knows the binutils that go with it.
    """
    programs = [source.resolve() for source in sources] or [HERE / f"{name}.c" for name in GUESTS]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        script = work / "guest.ld"
        script.write_text(run(*shlex.split(cc), "-E", "-P", "-x", "c", "-Iinclude", "guest.ld"))
        library = [_compile(cc, source, work) for source in sorted(HERE.glob("lib/*.[cS]"))]
        return [_link(cc, program, library, script, work, out.resolve()) for program in programs]


def _compile(cc: str, source: Path, work: Path) -> Path:
    made = work / f"{source.parent.name}-{source.stem}.o"  # a guest may be called as a file of lib/ is
    named = source.relative_to(HERE) if source.is_relative_to(HERE) else source
    run(*shlex.split(cc), *FLAGS, "-Iinclude", "-Ilib", "-c", named, "-o", made)
    return made


def _link(cc: str, source: Path, library: list[Path], script: Path, work: Path, out: Path) -> Path:
    name = source.stem
    wide, image = work / f"{name}.elf64", out / f"{name}.elf"
    program = _compile(cc, source, work)
    link = [
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
        "-Wl,--no-warn-rwx-segments",
        "-Wl,--gc-sections",
    ]
    run(*shlex.split(cc), *link, "-T", script, program, *library, "-o", wide)
    objcopy, objdump = _tool(cc, "objcopy"), _tool(cc, "objdump")
    run(objcopy, "-O", "elf32-i386", wide, image)
    run(objcopy, "-O", "binary", wide, out / f"{name}.bin")
    listing = run(objdump, "-d", "--no-show-raw-insn", wide)
    (out / f"{name}.asm").write_text(listing.replace(str(wide), f"{name}.elf"))
    return image


def _tool(cc: str, name: str) -> str:
    """A program of the binutils that `cc` uses: a cross compiler has its own, the system's stands on the path."""
    return run(*shlex.split(cc), f"-print-prog-name={name}").strip()


def main() -> None:
    """`python guests/build.py --out DIR [mine.c ...]`."""
    parser = argparse.ArgumentParser(description="Build the lab's guests, or your own.")
    parser.add_argument("sources", type=Path, nargs="*", metavar="mine.c", help="your own; none: the lab's guests")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cc", default=compiler() or "gcc", help="a compiler for x86-64")
    arguments = parser.parse_args()
    try:
        for image in build(arguments.out, arguments.cc, arguments.sources):
            print(image.name)
    except BuildError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
