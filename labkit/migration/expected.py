"""Is it the machine that was expected? What this side was told of it, by `boot`'s names, held against what comes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from labkit.abi import Irq
from labkit.errors import UsageError
from labkit.loader import Image, load_kernel
from labkit.migration.hello import Hello, digest

LAB = "the lab's own guest"
SAID: dict[str, Callable[[Hello], Any]] = {
    "device": lambda hello: hello.texts["device"],
    "revision": lambda hello: hello.texts["revision"],
    "vcpus": lambda hello: hello.numbers["vcpus"],
    "memory_mib": lambda hello: hello.numbers["memory_mib"],
    "irq": lambda hello: Irq(hello.numbers["irq"]).name.lower(),
    "ioeventfd": lambda hello: bool(hello.numbers["ioeventfd"]),
    "writable": lambda hello: bool(hello.numbers["writable"]),
}
NAMES = (*SAID, "kernel", "cmdline")


class Expected:
    """What a machine has to be. UsageError: a name that `boot` does not know, or that cannot be expected; no kernel."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        if unknown := sorted(said.keys() - set(NAMES)):
            raise UsageError(f"expect={unknown[0]!r}: what can be expected is {', '.join(NAMES)}")
        self._said = dict(said)
        path = self._said.get("kernel")
        self._digest = digest(load_kernel(Path(path))) if path is not None else ""

    def check(self, hello: Hello, image: Image) -> None:
        """UsageError: it is another; says each thing that differs."""
        odd = [*self._differences(hello), *self._other_guest(hello, image)]
        if odd:
            raise UsageError(f"it is not the machine that was expected: {'; '.join(odd)}")

    def _differences(self, hello: Hello) -> list[str]:
        pairs = [(name, self._said[name], said(hello)) for name, said in SAID.items() if name in self._said]
        return [f"{name}={wanted!r}, it has {name}={found!r}" for name, wanted, found in pairs if wanted != found]

    def _other_guest(self, hello: Hello, image: Image) -> list[str]:
        odd = []
        kernel, command_line = self._said.get("kernel"), self._said.get("cmdline")
        if kernel is not None and digest(image) != self._digest:
            runs = LAB if image.lab else f"another build of {image.name}, or another kernel"
            odd.append(f"kernel={os.fspath(kernel)!r}, it runs {runs}")
        if command_line is not None and not hello.texts["command_line"].endswith(f"{image.name} {command_line}"):
            odd.append(f"cmdline={command_line!r}, it has {hello.texts['command_line']!r}")
        return odd
