"""Are the container file, the dev containers and Binder's files true to the tree? No engine is needed to see that."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from labkit import cli

ROOT = Path(__file__).resolve().parent.parent
CONTAINERFILE = ROOT / "Containerfile"
DEV_CONTAINERS = ("devcontainer.json", "kvm/devcontainer.json")
HOOK = ROOT / "tools" / "container" / "before-notebook.d" / "20-kvm"
POST_BUILD = ROOT / "postBuild"


def instructions() -> list[list[str]]:
    """Return the words of each instruction, its continued lines joined, comments left out."""
    lines = [line for line in CONTAINERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [line.split() for line in joined.splitlines() if line.strip()]


def preflight() -> ModuleType:
    """Return tools/preflight.py, which knows the packages that a build needs."""
    spec = importlib.util.spec_from_file_location("preflight", ROOT / "tools" / "preflight.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_the_container_file_copies_is_there() -> None:
    """Each COPY names files that .dockerignore lets through, and together they are what a wheel is made of."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = set()
    for word, *words in instructions():
        if word == "COPY":
            *sources, _ = [argument for argument in words if not argument.startswith("--")]
            copied.update(sources)
    for name in copied:
        assert (ROOT / name).exists(), name
        assert not any(fnmatch.fnmatch(name, pattern.removeprefix("**/")) for pattern in ignored), name
    project = {"pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "guests", "labkit", "notebooks"}
    assert copied == project | {"pytest_labkit.py", str(HOOK.relative_to(ROOT))}


def test_the_container_has_what_a_build_needs() -> None:
    """Its apt packages cover those that the preflight asks for, but for Python's own: the image brings a Python."""
    (apt,) = [words for words in instructions() if "apt-get" in words]
    asked = {*preflight().COMPILER_PACKAGES, *preflight().BINUTILS_PACKAGES, "make"}
    assert asked <= set(apt)
    assert any(preflight().CROSS_PACKAGE in word for word in apt)


def test_the_base_image_is_pinned_and_left_as_its_user() -> None:
    """One docker-stacks image with a dated tag; the last USER is the notebook's, not root."""
    ((_, image),) = [words for words in instructions() if words[0] == "FROM"]
    assert re.fullmatch(r"quay\.io/jupyter/[a-z-]+:\d{4}-\d\d-\d\d", image)
    *_, (_, user) = [words for words in instructions() if words[0] == "USER"]
    assert user == "${NB_UID}"


def test_binder_takes_environment_yml() -> None:
    """Nothing at the root stands before it: no Dockerfile, and no folder that would hide the files beside it."""
    for name in ("Dockerfile", "binder", ".binder"):
        assert not (ROOT / name).exists(), name
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (by_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert any(line.startswith("-e .") for line in by_pip), "Binder copies the tree first only for a local requirement"


@pytest.mark.parametrize("script", [HOOK, POST_BUILD], ids=["hook", "postBuild"])
def test_scripts_are_executable_and_are_bash(script: Path) -> None:
    """Each can be executed as it is, and bash can read it."""
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/bin/bash\n")
    subprocess.run(["bash", "-n", script], check=True)


def test_post_build_uses_verbs_that_there_are() -> None:
    """Every `labkit VERB` of postBuild, the container file and the dev containers is one."""
    texts = [POST_BUILD, CONTAINERFILE, *(ROOT / ".devcontainer" / name for name in DEV_CONTAINERS)]
    verbs = {
        verb for path in texts for verb in re.findall(r"(?:^|RUN |\")labkit ([a-z]+)", path.read_text(), re.MULTILINE)
    }
    assert verbs == {"doctor", "boot"} <= set(cli.main.commands)


@pytest.mark.parametrize("name", DEV_CONTAINERS)
def test_dev_containers_build_the_container_file(name: str) -> None:
    """Both point at the container file and the tree, and install the extras that pyproject.toml has."""
    path = ROOT / ".devcontainer" / name
    settings = json.loads(path.read_text())
    assert (path.parent / settings["build"]["dockerfile"]).resolve() == CONTAINERFILE
    assert (path.parent / settings["build"]["context"]).resolve() == ROOT
    assert shlex.split(settings["postCreateCommand"])[-1] == ".[dev,emulated]"


def test_only_one_dev_container_asks_for_kvm() -> None:
    """A device cannot be optional there, so there are two; the one with it starts as root, for the hook's sake."""
    plain, kvm = (json.loads((ROOT / ".devcontainer" / name).read_text()) for name in DEV_CONTAINERS)
    only_kvm = {"runArgs": ["--device=/dev/kvm"], "containerUser": "root", "overrideCommand": False}
    assert {key: kvm[key] for key in kvm.keys() - plain.keys()} == only_kvm
    assert {key for key in plain if plain[key] != kvm[key]} == {"name", "build"}
