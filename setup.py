"""What is built besides Python? The C core (through cffi) and the guest images (with gcc); both by `build_ext`."""

import importlib.util
import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class BuildCoreAndGuests(build_ext):
    """`build_ext` that also fills labkit/guest_images/, beside the package that gets the extension.

    That is the source tree for an editable install or `--inplace`, and the build directory for a wheel. cffi derives
    its own `build_ext` from this one (keyword `cffi_modules` below), so one command makes both.
    """

    def run(self) -> None:
        """Build the extension, then the guests."""
        super().run()
        package_root = ROOT if self.inplace else Path(self.build_lib)
        build_guest_images(package_root / "labkit" / "guest_images")


def build_guest_images(out: Path) -> None:
    """Put every guest (*.elf, *.bin), its disassembly (*.asm) and abi.h into `out`; nothing else stays there."""
    spec = importlib.util.spec_from_file_location("labkit_guests_build", ROOT / "guests" / "build.py")
    assert spec is not None and spec.loader is not None
    guests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(guests)

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    guests.build(out, cc=os.environ.get("CC", "gcc"))
    shutil.copy(ROOT / "guests" / "include" / "abi.h", out)


setup(
    cffi_modules=["labkit/native/build.py:ffibuilder"],
    cmdclass={"build_ext": BuildCoreAndGuests},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
