"""Which guests are there? labkit/toolchain.py says how they are built; this builds all of them.

Beside each stand its disassembly, made from the 64-bit ELF, and its bytes as they lie in memory, which labkit loads
without an ELF reader.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
GUESTS = ("agent", "storm", "spin", "ping", "journal")


def _toolchain() -> ModuleType:
    """By its path: labkit need not be installed."""
    path = HERE.parent / "labkit" / "toolchain.py"
    spec = importlib.util.spec_from_file_location("labkit_toolchain", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toolchain = _toolchain()
compiler = toolchain.compiler


def build(out: Path, cc: str = "gcc", sources: Sequence[Path] = ()) -> list[Path]:
    """Build guests into `out`: NAME.elf, NAME.bin, NAME.asm. Returns the ELFs. BuildError if a tool fails.

    `sources`: C files of your own that use lib/, wherever they are; none: the lab's guests. `cc` is a command that
    compiles for x86-64; it knows the binutils that go with it.
    """
    programs = [source.resolve() for source in sources] or [HERE / f"{name}.c" for name in GUESTS]
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        tools = toolchain.Toolchain(cc, HERE, Path(scratch))
        return [_guest(tools, program, Path(scratch), out) for program in programs]


def _guest(tools: Any, source: Path, work: Path, out: Path) -> Path:
    name = source.stem
    wide, image = work / f"{name}.elf64", out / f"{name}.elf"
    program = work / f"guest-{name}.o"  # a guest may be called as a file of lib/ is
    tools.compile(source, program, "-Werror")
    tools.link(program, wide)
    tools.store(wide, image)
    tools.bytes(wide, out / f"{name}.bin")
    (out / f"{name}.asm").write_text(tools.listing(wide).replace(str(wide), f"{name}.elf"))
    return image


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
    except toolchain.BuildError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
