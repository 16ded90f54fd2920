"""What does labkit do where a part of it could not be built: install, import, and say what is missing?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from labkit import abi, installation
from labkit.course import copies, student
from labkit.loader import load_kernel

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("setup.py", "pyproject.toml", "pytest_labkit.py", "README.md", "LICENSE", "guests", "labkit", "notebooks")
MADE = shutil.ignore_patterns("guest_images", "guest_library", "*.so", "__pycache__", "left_out.txt")
HEADER = ROOT / "guests" / "include" / "abi.h"
RECORDING = ROOT / "tests" / "data" / "format1.labkit"
NO_PROGRAMS = {"PATH": ""}


class Built(NamedTuple):
    """A package built away from the tree, and what the build said."""

    package: Path
    warnings: str

    @property
    def left_out(self) -> str:
        """What the build wrote down; empty if nothing was left out."""
        path = self.package / "labkit" / "left_out.txt"
        return path.read_text() if path.exists() else ""

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python with this labkit, from a place where no other is found first."""
        environment = {**os.environ, "PYTHONPATH": str(self.package)}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=self.package, env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    def verb(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `labkit` with these arguments."""
        return self.python("-c", "from labkit.cli import main; main()", *arguments)


def build(tree: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build the package of `tree` into out/package, as pip does for a wheel."""
    clean = {name: value for name, value in os.environ.items() if name not in ("CC", "CFLAGS", "CPPFLAGS")}
    command = [sys.executable, "-W", "ignore", "setup.py", "-q", "build", "--build-base", out / "objects"]
    return subprocess.run(
        [*map(str, command), "--build-lib", str(out / "package")],
        cwd=tree,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def built(tree: Path, out: Path, **environment: str) -> Built:
    """Return a package whose build must succeed."""
    done = build(tree, out, **environment)
    assert done.returncode == 0, done.stderr
    return Built(out / "package", done.stderr)


def copy_of_the_tree(to: Path) -> Path:
    """Return a fresh copy of what a wheel is built from, without anything that was built before."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=MADE)
        else:
            to.mkdir(exist_ok=True)
            shutil.copy(source, to)
    return to


@pytest.fixture(scope="module")
def without_compiler(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """labkit as it is built from a fresh tree where no program can be found, so no compiler either."""
    place = tmp_path_factory.mktemp("without_compiler")
    return built(copy_of_the_tree(place / "tree"), place, **NO_PROGRAMS)


def test_without_a_compiler_the_build_succeeds_and_says_what_is_left_out(without_compiler: Built) -> None:
    """One warning names core and guests with the reason; the same is written down; nothing half built is left."""
    assert without_compiler.warnings.count("installed without") == 1
    for line in without_compiler.left_out.splitlines():
        assert line in without_compiler.warnings
    assert "core: no C compiler" in without_compiler.left_out
    assert "guests: no compiler for x86-64" in without_compiler.left_out
    assert not [*without_compiler.package.rglob("*.so"), *without_compiler.package.rglob("*.o")]
    images = without_compiler.package / "labkit" / "guest_images"
    assert [path.name for path in images.iterdir()] == ["abi.h"]


def test_a_package_has_the_course_without_its_solutions(without_compiler: Built, tmp_path: Path) -> None:
    """Every notebook as students get it, from a package that has neither the tree nor a core."""
    ran = without_compiler.verb("lab", str(tmp_path), "--no-serve")
    assert ran.returncode == 0, ran.stderr
    copied = {path.name: path.read_bytes() for path in tmp_path.glob("*.ipynb")}
    assert copied == {name: copies.alone(content) for name, content in student.made_from(ROOT / "notebooks").items()}
    assert copied
    assert not any(b"BEGIN SOLUTION" in content for content in copied.values())


def test_without_the_core_labkit_imports_and_explains_the_rules(without_compiler: Built) -> None:
    """Rules, errors, numbers and a device class of one's own need no core."""
    ran = without_compiler.python(
        "-c",
        "import labkit, labkit.abi\n"
        "class Own(labkit.Device):\n    queue_sizes = (64,)\n    def handle(self, queue): pass\n"
        "assert 'STOP' in labkit.rules.text('R5') and labkit.rules.diagram('today')\n"
        "print(labkit.__file__, labkit.abi.ABI_VERSION)",
    )
    assert (ran.stdout.split(), ran.stderr) == (
        [str(without_compiler.package / "labkit" / "__init__.py"), str(abi.ABI_VERSION)],
        "",
    )


def test_the_library_of_the_guests_is_in_the_package(without_compiler: Built, tmp_path: Path) -> None:
    """Where a compiler comes later, a guest of one's own is built by what the package has, without the tree."""
    ran = without_compiler.python(
        "-c",
        "import sys\nfrom pathlib import Path\nfrom labkit import installation, toolchain\n"
        "work = Path(sys.argv[1])\nsource, made, wide = work / 'own.c', work / 'own.o', work / 'own.elf64'\n"
        'source.write_text(\'#include "report.h"\\nvoid guest_main(void) { say("it"); finish(0); }\')\n'
        "tools = toolchain.Toolchain(toolchain.compiler(), installation.PACKAGE / 'guest_library', work)\n"
        "assert tools.compile(source, made) == ''\ntools.link(made, wide)\ntools.store(wide, work / 'own.elf')",
        str(tmp_path),
    )
    assert ran.stderr == ""
    assert load_kernel(tmp_path / "own.elf").segments


def test_without_the_core_the_magics_say_what_is_missing(without_compiler: Built) -> None:
    """As a boot does, and not by an AttributeError."""
    ran = without_compiler.python("-c", "import labkit; labkit.load_ipython_extension(None)")
    assert "the C core: ENOSYS" in ran.stderr.splitlines()[-1]


def test_without_the_core_a_recording_is_replayed(without_compiler: Built) -> None:
    """What a machine did can be read where none can be booted, by Python and in a shell."""
    ran = without_compiler.python(
        "-c", f"import labkit; r = labkit.replay({str(RECORDING)!r}); print(len(r.trace.events()) > 0, r.state)"
    )
    assert (ran.stdout.split()[:1], ran.stderr) == (["True"], "")
    shown = without_compiler.verb("replay", str(RECORDING))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout


def test_without_the_core_a_boot_says_what_is_missing(without_compiler: Built) -> None:
    """The host's fault, in one line on stderr, with the reason of the build and the mend; exit code 3."""
    for arguments in (["boot"], ["boot", "--disk", str(HEADER)], ["bench"]):
        ran = without_compiler.verb(*arguments)
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (3, "", 1), ran.stderr
        assert ran.stderr.startswith("labkit: the C core: ENOSYS")
        assert "no C compiler" in ran.stderr and "install gcc" in ran.stderr and "build again" in ran.stderr


def test_without_the_core_the_doctor_says_so(without_compiler: Built) -> None:
    """Exit code 1, no traceback, and the missing parts with their reasons and mends."""
    ran = without_compiler.verb("doctor")
    assert (ran.returncode, ran.stderr) == (1, "")
    assert "missing  C core: no C compiler" in ran.stdout
    assert "missing  guest agent: no compiler for x86-64" in ran.stdout
    assert ran.stdout.count("then build again") == 1 + 5  # the core, five guests


def test_without_a_compiler_prebuilt_guests_are_kept(tmp_path: Path) -> None:
    """Images that came with the sources go into the package, if they speak the ABI of those sources; else none does."""
    tree = copy_of_the_tree(tmp_path / "tree")
    images = tree / "labkit" / "guest_images"
    images.mkdir()
    shutil.copy(HEADER, images)
    (images / "agent.bin").write_bytes(b"an image")
    kept = built(tree, tmp_path / "same", **NO_PROGRAMS)
    assert (kept.package / "labkit" / "guest_images" / "agent.bin").read_bytes() == b"an image"
    assert "guests" not in kept.left_out

    (images / "abi.h").write_text("#define ABI_VERSION 0\n")
    fresh = built(tree, tmp_path / "other", **NO_PROGRAMS)
    (only,) = (fresh.package / "labkit" / "guest_images").iterdir()
    assert only.read_bytes() == HEADER.read_bytes()
    assert "guests: " in fresh.left_out


def test_a_compiler_that_finds_no_headers_of_python_is_quoted(tmp_path: Path) -> None:
    """Where gcc is there and Python.h is not, the core is left out with gcc's own words; the guests are built."""
    fake = tmp_path / "headers"
    fake.mkdir()
    (fake / "Python.h").write_text("#error no Python.h here\n")
    half = built(copy_of_the_tree(tmp_path / "tree"), tmp_path, CFLAGS=f"-I{fake}")
    assert "no Python.h here" in half.left_out and half.left_out.startswith("core: ")
    assert (half.package / "labkit" / "guest_images" / "agent.bin").is_file()


@pytest.mark.slow
def test_without_the_kernels_header_the_core_is_built_without_kvm(tmp_path: Path) -> None:
    """Where linux/kvm.h cannot be read, everything but the KVM back end is built; who asks for KVM hears why."""
    fake = tmp_path / "headers" / "linux"
    fake.mkdir(parents=True)
    (fake / "kvm.h").write_text("#error no linux/kvm.h here\n")
    without = built(ROOT, tmp_path, CFLAGS=f"-I{fake.parent}")
    (note,) = without.left_out.splitlines()
    assert note.startswith("kvm: ") and "no linux/kvm.h here" in note

    assert without.python("-c", "from labkit import native as n; assert n.BUILT and not n.HAS_KVM").stderr == ""
    asked = without.python("-c", "import labkit; labkit.boot('blk', cpu='kvm')")
    assert ": the KVM back end: ENOSYS" in asked.stderr and "no linux/kvm.h here" in asked.stderr
    doctor = without.verb("doctor")
    assert doctor.stderr == "" and "/dev/kvm: the KVM back end: ENOSYS" in doctor.stdout


def test_a_core_that_does_not_compile_is_no_missing_tool(tmp_path: Path) -> None:
    """Where every tool is there and a source is wrong, the build fails: a developer is not left with less."""
    tree = copy_of_the_tree(tmp_path / "tree")
    (tree / "labkit" / "native" / "feed.c").write_text("this is not C\n")
    done = build(tree, tmp_path)
    assert done.returncode != 0
    assert "feed.c" in done.stderr and "installed without" not in done.stderr


def test_a_built_core_leaves_no_note() -> None:
    """This installation, which the tests run on, has everything."""
    assert installation.left_out() == {}
