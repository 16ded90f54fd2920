"""Does guests/build.py build a guest of a user's own, from anywhere, and say what is wrong with it?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kernels import GUESTS
from rulebook import Boot

HELLO = """
#include "report.h"
_Noreturn void guest_main(uint32_t vcpu, uint32_t vcpus, uint32_t info)
{
    (void)vcpu, (void)vcpus, (void)info;
    say("hello");
    finish(3);
}
"""


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """As a user calls it, from another folder."""
    command = [sys.executable, GUESTS / "build.py", "--out", out, source.name]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=source.parent)


@pytest.mark.parametrize("name", ["hello", "ring"])
def test_a_guest_of_ones_own_is_built_and_runs(boot: Boot, tmp_path: Path, name: str) -> None:
    """One C file, wherever it is and also if a file of the library has that name."""
    source = tmp_path / f"{name}.c"
    source.write_text(HELLO)
    done = build(source, tmp_path / "out")
    assert (done.returncode, done.stdout) == (0, f"{name}.elf\n"), done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{name}.asm", f"{name}.bin", f"{name}.elf"]
    vm = boot(kernel=tmp_path / "out" / f"{name}.elf")
    assert (vm.wait(10), vm.console) == (7, "hello")


def test_a_mistake_is_told_by_the_compiler(tmp_path: Path) -> None:
    """What gcc says, and no traceback."""
    source = tmp_path / "wrong.c"
    source.write_text(HELLO.replace("finish", "finnish"))
    done = build(source, tmp_path / "out")
    assert done.returncode == 1
    assert "finnish" in done.stderr
    assert "Traceback" not in done.stderr
