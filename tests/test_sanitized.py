"""Does the C core stay within its memory? Tests of rings, loop, feed, devices again, on a core that watches itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parent.parent
NAMES = (
    *("queue", "event_idx", "fuzz_rings", "loop", "feed", "msix", "memory"),
    *("terminal", "own_rings", "net", "fuzz_net", "rules_backends", "hotplug", "irqchip", "ioapic", "pic", "cpu_state"),
)
TESTS = [ROOT / "tests" / f"test_{name}.py" for name in NAMES]


def libasan() -> Path:
    """gcc's address sanitizer; skips where gcc came without it."""
    answer = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    path = Path(answer.strip())
    if not path.is_absolute():
        pytest.skip("gcc has no libasan here")
    return path.resolve()


def plain_environment() -> dict[str, str]:
    """The environment without what would lead Python or the sanitizer elsewhere."""
    ours = ("PYTHON", "LD_PRELOAD", "ASAN_", "UBSAN_", "PYTEST_", "LABKIT_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_core_runs_clean_under_sanitizers(tmp_path: Path) -> None:
    """With address and undefined-behaviour sanitizers built in, not one of these tests makes the core trespass."""
    preload, package = libasan(), tmp_path / "package"
    build = ["setup.py", "-q", "build", "--force", "--build-base", tmp_path / "objects", "--build-lib", package]
    built = subprocess.run(
        [sys.executable, "-W", "ignore", *build],
        cwd=ROOT,
        env=plain_environment() | {"LABKIT_SANITIZE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (core,) = (package / "labkit" / "native").glob("_core*.so")
    with core.open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".dynsym")
        assert symbols.get_symbol_by_name("__asan_init"), "the core was built without the sanitizer"

    sanitized = {
        "PYTHONPATH": str(package),
        "LD_PRELOAD": str(preload),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # each plugin costs a second here
        "PYTHONMALLOC": "malloc",  # so that buffers lent to the core have guarded ends too
    }
    pytest_ = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--capture=no"]
    run = subprocess.run(
        [*pytest_, "-p", "pytest_timeout", "-p", "no:cacheprovider", *TESTS],
        cwd=tmp_path,
        env=plain_environment() | sanitized,
        capture_output=True,
        text=True,
        check=False,
    )
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    assert f"core {core}" in run.stdout, "another core was tested"
    assert " failed" not in output
    assert "runtime error" not in output
    assert "AddressSanitizer" not in output
