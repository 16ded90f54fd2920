"""What is built besides Python? The C core (through cffi) and the guest images (with gcc); both by `build_ext`.

Without a compiler or linux/kvm.h neither is built: labkit installs and imports all the same, and replays recordings.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
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
        package_root = ROOT if self.inplace else Path(self.build_lib)
        images = package_root / "labkit" / "guest_images"
        if lacking := what_is_lacking():
            print(f"labkit: no C core and no guests, for there is no {lacking}; replay works", file=sys.stderr)
            self.extensions = []
            put_header(images)
        else:
            super().run()
            build_guest_images(images)


def what_is_lacking() -> str:
    """The compiler, or the kernel's header; empty if both are there."""
    cc = os.environ.get("CC", "gcc")
    if shutil.which(cc.split()[0]) is None:
        return cc
    preprocess = [*cc.split(), "-E", "-xc", "-"]
    asked = subprocess.run(preprocess, input=b"#include <linux/kvm.h>", capture_output=True, check=False)
    return "linux/kvm.h" if asked.returncode else ""


def put_header(out: Path) -> None:
    """abi.h, which Python reads, into an empty `out`."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copy(ROOT / "guests" / "include" / "abi.h", out)


def build_guest_images(out: Path) -> None:
    """Put every guest (*.elf, *.bin), its disassembly (*.asm) and abi.h into `out`; nothing else stays there."""
    spec = importlib.util.spec_from_file_location("labkit_guests_build", ROOT / "guests" / "build.py")
    assert spec is not None and spec.loader is not None
    guests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(guests)

    put_header(out)
    guests.build(out, cc=os.environ.get("CC", "gcc"))


setup(
    cffi_modules=["labkit/native/build.py:ffibuilder"],
    cmdclass={"build_ext": BuildCoreAndGuests},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
