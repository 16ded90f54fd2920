"""How does a cell become a guest? `%%guest` compiles it, links it with the guests' library, and boots that kernel."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from argparse import Namespace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import labkit
from labkit import errors, toolchain, views
from labkit.cpu import BACK_ENDS
from labkit.installation import BUILD_AGAIN, NEEDS, PACKAGE
from labkit.ipython.line import Crashed, Line, Refused, name, on_or_off, seconds
from labkit.machine import Machine

LIBRARY = PACKAGE / "guest_library"
WAIT_S = 1.0  # for a guest that ends by itself
SHOWN = 10_000  # characters of a console

BOOT: dict[str, dict[str, Any]] = {  # options that boot has, too
    "--cpu": {"choices": BACK_ENDS},
    "--cmdline": {},
    "--device": {},
    "--disk": {},
    "--writable": {"action": "store_true", "default": None},
    "--delay-ns": {"type": int},
    "--ioeventfd": {"type": on_or_off, "metavar": "on|off"},
    "--vcpus": {"type": int},
    "--memory-mib": {"type": int},
    "--queues": {"type": int},
    "--net": {},
    "--pcap": {},
    "--irq": {},
    "--revision": {},
    "--mutation": {"action": "append", "dest": "mutations"},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "--name": {"type": name, "default": "vm"},
    "--asm": {"action": "store_true"},
    "--wait": {"type": seconds, "default": WAIT_S, "metavar": "S"},
    **BOOT,
}
WHAT = """Compile the cell into a guest and boot it.

C with the library of the guests (`#include "report.h"`, "virtio_legacy.h", "abi.h" ...), from `guest_main` on; --asm:
assembly for gcc, in 64-bit mode, with the same entry and library. The machine is `vm`, or what --name says; one of that
name that this magic booted before is closed first. A guest that ends within --wait seconds shows what it has printed.
The other options are those of labkit.boot; docs/ipython.md has an example.
"""


class Ended(NamedTuple):
    """A guest that has ended by itself: its exit code, what it printed, and on which CPU it ran."""

    name: str
    exit_code: int
    console: str
    cpu: str

    def _values(self) -> dict[str, object]:
        told, more = self.console.rstrip("\n")[:SHOWN], len(self.console) - SHOWN
        rest = f"\n... and {more} characters more: {self.name}.console" if more > 0 else ""
        code = f"{self.exit_code} (the guest wrote {self.exit_code >> 1})"
        return {"exit code": code, "cpu": self.cpu, "console": told + rest or "–"}

    def _repr_html_(self) -> str:
        return views.named(f"{self.name}: the guest has ended", self._values())

    def __repr__(self) -> str:
        return views.lines(f"{self.name}: the guest has ended", self._values())


class Warned(NamedTuple):
    """What a compiler said of a cell that it took all the same."""

    text: str

    def __repr__(self) -> str:
        return self.text.rstrip()


class GuestMagic:
    """`%%guest` of one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._made: WeakValueDictionary[str, Machine] = WeakValueDictionary()  # a forgotten one is closed
        self._line = Line("%%guest", WHAT, OPTIONS)
        self.__doc__ = f"{WHAT}\n{self._line.format_usage()}"

    def __call__(self, line: str, cell: str) -> Machine | Ended:
        """Refused: the cell does not compile, or boot refuses an option. Crashed: where, and what it printed before."""
        asked = self._line.read(line)
        with tempfile.TemporaryDirectory(prefix="labkit-cell-") as work:
            image, warnings = built(cell, Path(work), assembly=asked.asm)
            if warnings:
                self._show(Warned(warnings))
            vm = self._boot(image, asked)
        try:
            code = vm.wait(asked.wait)
        except errors.GuestError as error:
            printed = f"\nit had printed:\n{vm.console[:SHOWN]}" if vm.console else ""
            raise Crashed(f"{error}{printed}") from None
        return vm if code is None else Ended(asked.name, code, vm.console, vm.cpu)

    def _boot(self, image: Path, asked: Namespace) -> Machine:
        """In the place of the one that it booted before."""
        options = {key: value for key, value in vars(asked).items() if value is not None and _of_boot(key)}
        old = self._made.pop(asked.name, None)
        if old is not None:
            old.close()
        try:
            vm = labkit.boot(kernel=image, **options)
        except errors.UsageError as error:
            raise Refused(str(error)) from None
        self._made[asked.name] = self._shell.user_ns[asked.name] = vm
        return vm

    def _show(self, what: object) -> None:
        """Before the cell's own value."""
        data, metadata = self._shell.display_formatter.format(what)
        self._shell.display_pub.publish(data, metadata)


def _of_boot(option: str) -> bool:
    return option == "mutations" or f"--{option.replace('_', '-')}" in BOOT


def built(cell: str, work: Path, *, assembly: bool) -> tuple[Path, str]:
    """The kernel and the compiler's warnings. Refused: with what the compiler said, by the lines of the cell."""
    cc = toolchain.compiler()
    if cc is None:
        raise Refused(f"%%guest needs {NEEDS['guests']}")
    if not LIBRARY.is_dir():
        raise Refused(f"the guests' library is not in this installation; {BUILD_AGAIN}")
    source, program, wide, image = (
        work / f"cell.{suffix}" for suffix in ("S" if assembly else "c", "o", "elf64", "elf")
    )
    source.write_text(f"\n{cell}", "utf-8", "replace")  # line 1 is that of the magic, as the notebook counts
    tools, folder = _tools(cc)
    try:
        warnings = tools.compile(source, program)
        tools.link(program, wide)
        tools.store(wide, image)
    except toolchain.BuildError as error:
        said = str(error).replace(f"{work}/", "").replace(f"{folder}/", "")
        raise Refused(f"the cell was not built\n{said}") from None
    return image, warnings


@cache
def _tools(cc: str) -> tuple[toolchain.Toolchain, str]:
    """With the library's objects, in a folder that goes with the process."""
    folder = tempfile.mkdtemp(prefix="labkit-library-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return toolchain.Toolchain(cc, LIBRARY, Path(folder)), folder
