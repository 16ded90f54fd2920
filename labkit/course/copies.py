"""How does a student get the course, and a newer one, without losing work? Copies that remember what was copied.

A file that is as it was written may be written anew. Any other is somebody's work and stays; a newer version is put
beside it, as NAME.new.ipynb.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from labkit.course.student import notebooks
from labkit.errors import UsageError
from labkit.files import write_whole

MANIFEST = ".labkit-course.json"
LEADS_OUT = re.compile(r"\[([^\]\n]+)\]\(\.\./([^)\s]+)\)")  # a link to what is above the notebooks
WRITTEN, RENEWED, SAME, YOURS, BESIDE = "written", "renewed", "same", "yours", "beside"
SAYS = {
    WRITTEN: "{name}",
    RENEWED: "{name}: a newer version",
    SAME: "{name}: was there",
    YOURS: "{name}: was there and is yours, so it stays",
    BESIDE: "{name}: was there and is yours, so it stays; the newer version is {beside}",
}


class Copy(NamedTuple):
    """What became of one notebook: `state` is a key of SAYS."""

    name: str
    state: str
    beside: str = ""

    def __str__(self) -> str:
        return SAYS[self.state].format(name=self.name, beside=self.beside)


def copy_course(folder: str | os.PathLike[str]) -> list[Copy]:
    """Put the student's notebooks into `folder`, which is made if need be. No work of a user's is overwritten.

    UsageError: it cannot be a folder, or be written to; there are no notebooks. HostError: the disk is full.
    """
    course, place = notebooks(), Path(folder)
    if not course:
        raise UsageError("this labkit was installed without its notebooks: install it from its whole source tree")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"folder {place}: {error.strerror}") from error
    written = _read_manifest(place / MANIFEST)
    copies = [_copy(place, name, alone(content), written) for name, content in course.items()]
    text = json.dumps(written, indent=1, sort_keys=True) + "\n"
    write_whole(place / MANIFEST, "the list of what was copied", text.encode())
    return copies


def alone(content: bytes) -> bytes:
    """A notebook for a folder that has no labkit above it: what leads there is named, and not linked."""

    def named(link: re.Match[str]) -> str:
        text, target = link[1], link[2]
        return f"`{target}`" if text.strip("`") == target else f"{text} (`{target}`)"

    return LEADS_OUT.sub(named, content.decode()).encode()


def _copy(place: Path, name: str, content: bytes, written: dict[str, str]) -> Copy:
    """One notebook; `written` learns what is there now because it was written."""
    there = _hash_of(place / name)
    if there is None:
        return Copy(name, _write(place, name, content, written, WRITTEN))
    if there == _hash(content):
        written[name] = there
        return Copy(name, SAME)
    if there == written.get(name):
        return Copy(name, _write(place, name, content, written, RENEWED))
    if written.get(name) == _hash(content):
        return Copy(name, YOURS)  # and of the newest version
    return _put_beside(place, name, content, written)


def _put_beside(place: Path, name: str, content: bytes, written: dict[str, str]) -> Copy:
    """A newer version of what is somebody's; one that lies there and was changed is his too."""
    beside = name.removesuffix(".ipynb") + ".new.ipynb"
    there = _hash_of(place / beside)
    if there is not None and there not in (_hash(content), written.get(beside)):
        return Copy(name, YOURS)
    _write(place, beside, content, written, WRITTEN)
    return Copy(name, BESIDE, beside)


def _write(place: Path, name: str, content: bytes, written: dict[str, str], state: str) -> str:
    write_whole(place / name, "notebook", content)
    written[name] = _hash(content)
    return state


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _hash_of(path: Path) -> str | None:
    """None: there is nothing. What is there and cannot be read has a hash like no file's: it is somebody's."""
    if not os.path.lexists(path):
        return None
    try:
        return "" if path.is_symlink() else _hash(path.read_bytes())
    except OSError:
        return ""


def _read_manifest(path: Path) -> dict[str, str]:
    """Name → hash of what was written there. One that is none says nothing: then all that is there is somebody's."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: hash for name, hash in found.items() if isinstance(hash, str) and len(hash) == len(_hash(b""))}
