"""What is built besides Python? The C core (through cffi), the guest images (with gcc), and for a package the notebooks
as students get them; all by `build_ext`.

The library of the guests goes into the package as source, for guests that a notebook compiles (labkit/ipython).

Where the tools for one of them are not there, labkit is installed without it, and labkit/left_out.txt says why; where
they are there and fail, so does the build.
"""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
IMAGES = ROOT / "labkit" / "guest_images"
HEADER = ROOT / "guests" / "include" / "abi.h"


def load(name: str, path: Path) -> ModuleType:
    """A script of the tree, as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildCoreAndGuests(build_ext):
    """`build_ext` that also fills labkit/guest_images/, beside the package that gets the extension.

    That is the source tree for an editable install or `--inplace`, and the build directory for a wheel. cffi derives
    its own `build_ext` from this one (keyword `cffi_modules` below), so one command makes both.
    """

    def run(self) -> None:
        """Build the extension, then the guests, and write down what had to be left out."""
        package = (ROOT if self.inplace else Path(self.build_lib)) / "labkit"
        core = load("labkit_core_build", ROOT / "labkit" / "native" / "build.py")
        left_out = {"core": core.refused(core.CORE_PROBE)}
        if left_out["core"]:
            self.extensions = []
            for old in (package / "native").glob("_core*.so"):
                old.unlink()
        else:
            left_out["kvm"] = core.refused(core.KVM_PROBE)
        super().run()
        left_out["guests"] = build_guest_images(package / "guest_images")
        copy_guest_library(package / "guest_library")
        if not self.inplace:  # in the source tree they are made when asked for
            write_notebooks(package / "course" / "notebooks")
        self.write_down(package / "left_out.txt", {part: why for part, why in left_out.items() if why})

    def write_down(self, path: Path, left_out: dict[str, str]) -> None:
        """One warning, and the file that labkit/installation.py reads; no file if nothing was left out."""
        path.unlink(missing_ok=True)
        if left_out:
            lines = [f"{part}: {why}" for part, why in left_out.items()]
            path.write_text("\n".join(lines) + "\n")
            self.warn("labkit is installed without some of its parts (labkit doctor says more). " + "; ".join(lines))


def build_guest_images(out: Path) -> str | None:
    """Put every guest (*.elf, *.bin), its disassembly (*.asm) and abi.h into `out`; nothing else stays there.

    Without a compiler for x86-64: images that an sdist brought, if they were built for this abi.h, else abi.h alone.
    Returns why there are no guests, None if there are.
    """
    guests = load("labkit_guests_build", ROOT / "guests" / "build.py")
    cc = guests.compiler()
    brought = {}
    if cc is None and (IMAGES / "abi.h").is_file() and (IMAGES / "abi.h").read_bytes() == HEADER.read_bytes():
        brought = {path.name: path.read_bytes() for path in IMAGES.iterdir()}

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copy(HEADER, out)
    if cc is not None:
        guests.build(out, cc=cc)
    for name, content in brought.items():
        (out / name).write_bytes(content)
    return None if any(out.glob("*.bin")) else "no compiler for x86-64 (gcc, x86_64-linux-gnu-gcc)"


def write_notebooks(out: Path) -> None:
    """The course without its solutions."""
    student = load("labkit_course_student", ROOT / "labkit" / "course" / "student.py")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name, content in student.made_from(ROOT / "notebooks").items():
        (out / name).write_bytes(content)


def copy_guest_library(out: Path) -> None:
    """Put lib/, include/ and guest.ld into `out`; nothing else stays there."""
    shutil.rmtree(out, ignore_errors=True)
    for part in ("lib", "include"):
        shutil.copytree(ROOT / "guests" / part, out / part)
    shutil.copy(ROOT / "guests" / "guest.ld", out)


setup(
    cffi_modules=["labkit/native/build.py:builder"],
    cmdclass={"build_ext": BuildCoreAndGuests},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
