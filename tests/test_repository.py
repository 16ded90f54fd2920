"""Does the repository keep its own promises? Versions, import rules, the numbers' header, what is committed."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import labkit

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "labkit"
SUPPORTED_PYTHONS = ("3.11", "3.12", "3.13")
COMMITTED_FILE_MAX_BYTES = 1 << 20

# -- versions: pyproject.toml, environment.yml and requirements.lock say the same --------------------------------------

CONDA_ONLY = {"pip", "c-compiler", "make"}  # what a system has, or pyproject says in another place
CONDA_NAMES = {"playwright": "playwright-python"}  # the plain name is another package there, without Python
PIP_ONLY = {"capstone", "perfetto"}  # extras that environment.yml has by pip


def pyproject() -> dict:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def by_name(requirements: list[str]) -> dict[str, Requirement]:
    """Index requirement strings by normalised name; a name may stand once only."""
    parsed = [Requirement(text) for text in requirements]
    names = [canonicalize_name(requirement.name) for requirement in parsed]
    assert len(set(names)) == len(names), "a name stands twice"
    return dict(zip(names, parsed, strict=True))


def run_and_develop() -> list[str]:
    """Return what labkit needs to run and to be developed."""
    project = pyproject()["project"]
    return project["dependencies"] + project["optional-dependencies"]["dev"]


def locked_versions(python: str) -> dict[str, str]:
    """Return name → version of requirements.lock for one Python, e.g. "3.12" (its first patch release is taken)."""
    versions: dict[str, str] = {}
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line.startswith((" ", "#")) or not line:
            continue
        requirement = Requirement(line.rstrip(" \\"))
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in versions, f"{name} is locked twice for Python {python}"
            versions[name] = str(requirement.specifier).removeprefix("==")
    return versions


def test_conda_and_pip_users_get_the_same_ranges() -> None:
    """environment.yml names the packages of pyproject.toml, each with the same range, and one Python of those tested.

    One, as `python=3.x`: that is where Binder reads which it is, and it takes an older one if it finds none.
    """
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (python,) = [entry for entry in environment["dependencies"] if str(entry).startswith("python=")]
    plain = by_name([entry for entry in environment["dependencies"] if isinstance(entry, str) and entry != python])
    build = [text for text in pyproject()["build-system"]["requires"] if not text.startswith("cffi")]
    expected = by_name(run_and_develop() + build)

    assert {name: str(plain[name].specifier) for name in plain.keys() - CONDA_ONLY} == {
        CONDA_NAMES.get(name, name): str(requirement.specifier)
        for name, requirement in expected.items()
        if name not in PIP_ONLY
    }
    assert python.removeprefix("python=") in SUPPORTED_PYTHONS
    assert [entry for entry in environment["dependencies"] if isinstance(entry, dict)] == [
        {"pip": ["-e .[debug,emulated,perfetto]"]}
    ]


@pytest.mark.parametrize("python", SUPPORTED_PYTHONS)
def test_the_lock_covers_every_dependency(python: str) -> None:
    """Each dependency of pyproject.toml, build tools too, is locked to one version inside its range."""
    extras = pyproject()["project"]["optional-dependencies"]
    texts = [*run_and_develop(), *extras["emulated"], *extras["docs"], *pyproject()["build-system"]["requires"], "pip"]
    wanted = [Requirement(text) for text in texts]
    locked = locked_versions(python)
    for requirement in wanted:
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not locked: make lock"
        assert requirement.specifier.contains(version), f"locked {version} is outside {requirement}: make lock"


def test_the_package_knows_its_version() -> None:
    """What `labkit.__version__` and a recording say is what pyproject.toml says."""
    assert labkit.__version__ == pyproject()["project"]["version"]


def test_the_lock_names_no_place() -> None:
    """requirements.lock holds versions and hashes, and no address or path of the machine that wrote it."""
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|--index-url|--find-links|^/|/(home|tmp|root)/", text, re.MULTILINE)


# -- abi.h: literals only ----------------------------------------------------------------------------------------------

DEFINE = re.compile(r"#define\s+(?P<name>[A-Z][A-Z0-9_]*)\s+(?P<value>\S+)\s*(/\*.*)?")
LITERAL = re.compile(r"0[xX][0-9a-fA-F]+|0|[1-9][0-9]*")
INCLUDE_GUARD = "#define LABKIT_ABI_H"


def test_numbers_are_plain_literals() -> None:
    """Every #define of abi.h is one plain number, which gcc, as and cffi all read alike, and has a name of its own."""
    lines = (ROOT / "guests" / "include" / "abi.h").read_text().splitlines()
    defines = [line for line in lines if line.lstrip().startswith("#define") and line.strip() != INCLUDE_GUARD]
    names = []
    for line in defines:
        match = DEFINE.fullmatch(line)
        assert match and LITERAL.fullmatch(match["value"]), f"not a plain literal: {line}"
        names.append(match["name"])
    assert names, "abi.h holds no number"
    assert len(set(names)) == len(names), "a name is defined twice"


# -- imports go one way ------------------------------------------------------------------------------------------------

LEAVES = frozenset(
    {"abi", "errors", "files", "installation", "state", "views", "trace.events", "trace.fields", "trace.recorded"}
)
PARTS = LEAVES | {
    *("native", "memory", "trace", "trace.feed", "trace.gates", "cpu", "pc", "pc.firmware", "virtio", "virtio.looks"),
    *("dirty", "holds", "loader", "owner", "runstate", "threads"),
}
WHOLE = PARTS | {"answers", "recorder", "board", "guest", "terminal", "machine"}

# room → the other rooms it may import. A module belongs to the longest room that its name starts with; a room may
# import itself. "" is the front door, labkit/__init__.py. A new room is added here, with what it may know.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "abi": frozenset(),
    "errors": frozenset(),
    "installation": frozenset({"errors"}),
    "files": frozenset({"errors"}),
    "toolchain": frozenset(),  # builds the guests before labkit is installed
    "state": frozenset({"errors"}),
    "views": frozenset(),
    "trace.events": frozenset({"abi"}),
    "trace.fields": frozenset({"abi", "trace.events"}),
    "trace.recorded": frozenset({"trace.events", "trace.fields"}),
    "native": LEAVES,
    "loader": LEAVES,
    "disassembly": LEAVES | {"loader"},
    "memory": LEAVES | {"native"},
    "threads": frozenset({"errors", "native"}),
    "owner": LEAVES | {"native", "threads"},
    "trace.gates": LEAVES,
    "trace": LEAVES,  # and so it works where there is no C core
    "trace.perfetto": LEAVES | {"trace", "recording"},  # draws what the fold says
    "trace.feed": LEAVES | {"native"},
    "trace.tally": LEAVES | {"native", "trace.feed"},
    "holds": LEAVES | {"native", "owner", "threads", "trace.gates"},
    "runstate": LEAVES | {"trace.feed"},
    "rules": LEAVES | {"virtio"},  # the tables, for people
    "cpu": LEAVES | {"memory", "native"},
    "dirty": LEAVES | {"memory", "native", "cpu"},
    "pc": LEAVES | {"native"},
    "pc.firmware": LEAVES | {"memory", "cpu", "pc"},  # leaves memory and the first vCPU as a PC's firmware would
    "virtio": LEAVES | {"memory", "native", "pc", "trace.feed", "trace.gates", "virtio.looks"},
    "virtio.looks": LEAVES,
    "recording": LEAVES | {"trace", "virtio.looks"},  # none of the rooms that need the C core
    "recorder": LEAVES | {"owner", "runstate", "trace.feed", "virtio"},
    "board": PARTS | {"recorder"},
    "answers": LEAVES,
    "guest": LEAVES | {"answers", "holds", "native", "board"},
    "terminal": LEAVES | {"native", "board", "virtio"},
    "machine": PARTS | {"board", "disassembly", "guest", "terminal", "snapshot", "migration"},
    "receiving": WHOLE | {"migration"},
    "saving": PARTS | {"board", "snapshot", "dirty"},
    "snapshot": LEAVES,  # a value: the machine fills it and takes it up again
    "migration": PARTS | {"board", "snapshot", "saving"},
    "races": WHOLE | {"snapshot", "saving", "migration"},
    "museum": WHOLE | {"snapshot", "migration", "races"},
    "widgets": LEAVES | {"answers", "threads", "trace.gates", "trace.tally", "rules", "", "races"},  # vm: an argument
    "": WHOLE | {"receiving", "rules", "recording", "snapshot", "migration", "races", "museum"},
    "course": WHOLE | {"", "rules", "recording", "snapshot", "migration", "races", "museum"},
    "doctor": PARTS,
    "bench": WHOLE | {"", "races", "museum"},
    "ipython": WHOLE | {"", "rules", "races", "museum", "toolchain"},
    "cli": WHOLE | {"", "rules", "recording", "snapshot", "migration", "races", "museum", "course", "doctor", "bench"},
}
# room → what it may import besides, but only inside a function: when it is asked for, not when labkit is imported.
MAY_IMPORT_LAZILY: dict[str, frozenset[str]] = {
    "trace": frozenset({"trace.perfetto", "widgets"}),
    "machine": frozenset({"saving", "museum", "widgets"}),
    **dict.fromkeys(("holds", "virtio"), frozenset({"widgets"})),  # view()
    "races": frozenset({"museum", "widgets"}),  # a specimen's scenario by its name; a stepper's view
    "": frozenset({"widgets", "course", "ipython"}),
}


def room_of(module: str) -> str:
    """Return the room of a module, e.g. "labkit.trace.feed" → "trace"; the module's own name if no room is known."""
    name = module.removeprefix("labkit").removeprefix(".")
    parts = name.split(".") if name else []
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in MAY_IMPORT:
            return ".".join(parts[:length])
    return name


def modules_of_labkit() -> dict[str, Path]:
    """Return module name → file, for every Python module of the package."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imports_of(module: str, is_package: bool, tree: ast.AST, known: set[str]) -> Iterator[tuple[str, int, bool]]:
    """Yield (module of labkit, line, inside a function) for each import in `tree`.

    `from labkit.x import y` counts as labkit.x.y where that is a module, else as labkit.x. Imports for type checkers
    count like any other: who names a type knows the room.
    """

    def visit(node: ast.AST, lazy: bool) -> Iterator[tuple[str, int, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    package = module.split(".") if is_package else module.split(".")[:-1]
                    package = package[: len(package) - child.level + 1]
                    base = ".".join([*package, base] if base else package)
                for alias in child.names:
                    submodule = f"{base}.{alias.name}"
                    yield (submodule if submodule in known else base), child.lineno, lazy
            else:
                is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(child, lazy or is_function)

    for name, line, lazy in visit(tree, False):
        if name == "labkit" or name.startswith("labkit."):
            yield name, line, lazy


def broken_import_rules(module: str, is_package: bool, source: str, known: set[str]) -> list[str]:
    """Return one line for each import in `source`, the text of `module`, that goes the wrong way."""
    room = room_of(module)
    if room not in MAY_IMPORT:
        return [f"{module}: a new room; say in MAY_IMPORT what it may import"]
    broken = []
    for name, line, lazy in imports_of(module, is_package, ast.parse(source), known):
        target = room_of(name)
        allowed = MAY_IMPORT[room] | (MAY_IMPORT_LAZILY.get(room, frozenset()) if lazy else frozenset())
        if target != room and target not in allowed:
            broken.append(f"{module}:{line}: {room or 'the front door'} may not import {name}")
    return broken


def test_imports_go_one_way() -> None:
    """Every module imports only the rooms that the table above allows it."""
    modules = modules_of_labkit()
    broken = [
        line
        for module, path in modules.items()
        for line in broken_import_rules(module, path.name == "__init__.py", path.read_text(), set(modules))
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("module", "source", "is_broken"),
    [
        ("labkit.memory", "from labkit import errors", False),
        ("labkit.memory", "from labkit import machine", True),
        ("labkit.memory", "from . import cpu", True),
        ("labkit.memory", "import labkit", True),
        ("labkit.cpu.kvm", "from ..memory import GuestMemory", False),
        ("labkit.cpu.kvm", "from ..virtio.proxy import Proxy", True),
        ("labkit.trace.events", "from labkit.trace.feed import Feed", True),
        ("labkit.trace.feed", "from labkit.trace.events import Event", False),
        ("labkit.widgets.lanes", "from labkit.machine import Machine", True),
        ("labkit.machine", "from labkit.widgets import dashboard", True),
        ("labkit.machine", "def f():\n    from labkit.widgets import dashboard", False),
        ("labkit.cellar", "import os", True),
    ],
)
def test_the_import_rule_sees_a_wrong_import(module: str, source: str, is_broken: bool) -> None:
    """The check above finds absolute, relative and lazy imports, and asks for a rule where a room has none."""
    known = {"labkit", "labkit.errors", "labkit.machine", "labkit.memory", "labkit.cpu", "labkit.widgets"}
    assert bool(broken_import_rules(module, False, source, known)) is is_broken


def test_the_import_table_has_no_cycle() -> None:
    """The table itself goes one way: no room may import, even through others, a room that may import it."""

    def reachable(room: str) -> set[str]:
        seen: set[str] = set()
        pending = list(MAY_IMPORT[room])
        while pending:
            other = pending.pop()
            if other not in seen:
                seen.add(other)
                pending.extend(MAY_IMPORT[other])
        return seen

    assert [room for room in MAY_IMPORT if room in reachable(room)] == []


def test_importing_labkit_is_light() -> None:
    """`import labkit` brings in no plotting, no tables, no widgets and no command line."""
    heavy = (
        "pandas",
        "numpy",
        "matplotlib",
        "ipywidgets",
        "IPython",
        "click",
        "rich",
        "perfetto",
        "capstone",
        "google",
        "labkit.widgets",
        "labkit.cli",
    )
    code = f"import sys, labkit; print(*[name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


# -- what is committed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "docs"])
def test_a_newcomer_finds(name: str) -> None:
    """The pages that a newcomer looks for are there."""
    assert (ROOT / name).exists()


def test_no_large_file_is_committed() -> None:
    """No committed file is larger than 1 MiB: disk images and recordings are made, not stored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git work tree")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    large = [path.name for path in paths if path.is_file() and path.stat().st_size > COMMITTED_FILE_MAX_BYTES]
    assert large == []
