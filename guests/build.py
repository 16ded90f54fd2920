"""How are the guests built? gcc and binutils; each guest is an ELF that two loaders understand, and its disassembly.

A guest is linked as a 64-bit ELF and stored as a 32-bit one, which is what multiboot loaders take; the code in it is
64-bit from start64 on. Beside it stand its disassembly, made from the 64-bit ELF, and its bytes as they lie in memory,
which labkit loads without an ELF reader.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
GUESTS = ("agent", "storm", "spin", "ping")
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
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is missing: install gcc and binutils") from error
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def build(out: Path, cc: str = "gcc") -> list[Path]:
    """Build every guest into `out`: NAME.elf, NAME.bin, NAME.asm. Returns the ELFs. BuildError if a tool fails."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        script = work / "guest.ld"
        script.write_text(run(cc, "-E", "-P", "-x", "c", "-Iinclude", "guest.ld"))
        library = [_compile(cc, source, work) for source in sorted(HERE.glob("lib/*.[cS]"))]
        return [_link(cc, name, library, script, work, out.resolve()) for name in GUESTS]


def _compile(cc: str, source: Path, work: Path) -> Path:
    made = work / f"{source.stem}.o"
    run(cc, *FLAGS, "-Iinclude", "-Ilib", "-c", source.relative_to(HERE), "-o", made)
    return made


def _link(cc: str, name: str, library: list[Path], script: Path, work: Path, out: Path) -> Path:
    wide, image = work / f"{name}.elf64", out / f"{name}.elf"
    program = _compile(cc, HERE / f"{name}.c", work)
    link = [
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
        "-Wl,--no-warn-rwx-segments",
        "-Wl,--gc-sections",
    ]
    run(cc, *link, "-T", script, program, *library, "-o", wide)
    run("objcopy", "-O", "elf32-i386", wide, image)
    run("objcopy", "-O", "binary", wide, out / f"{name}.bin")
    listing = run("objdump", "-d", "--no-show-raw-insn", wide)
    (out / f"{name}.asm").write_text(listing.replace(str(wide), f"{name}.elf"))
    return image


def main() -> None:
    """`python guests/build.py --out DIR`."""
    parser = argparse.ArgumentParser(description="Build the lab's guests.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cc", default="gcc")
    arguments = parser.parse_args()
    for image in build(arguments.out, arguments.cc):
        print(image.name)


if __name__ == "__main__":
    main()
