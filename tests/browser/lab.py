"""A JupyterLab for tests: what is in it, how does a browser reach it, and who ends all that it started?"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

HOST = "127.0.0.1"
START_S, END_S, LOOK_S = 90, 20, 0.05
NOT_PASSED_ON = ("JUPYTER", "IPYTHON", "PYTHON")  # what the caller's environment says to either

APPUTILS, NOTEBOOK = "@jupyterlab/apputils-extension", "@jupyterlab/notebook-extension"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
SETTINGS = {
    f"{APPUTILS}/notification": {"fetchNews": "false", "checkForUpdates": False},
    f"{NOTEBOOK}/tracker": {"windowingMode": "none"},  # every cell is in the page, also far below what is seen
}


class JupyterLab:
    """A server on a free port of this machine, with a token and with all its folders below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notebooks = self._folder("notebooks")
        self.log = folder / "server.log"
        self.token = secrets.token_urlsafe()
        for name, content in SETTINGS.items():
            self._set(name, content)
        self.theme("light")
        with self.log.open("wb") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *self._options()],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is pytest's: who ends the server is `close`
            )
        self.pid = self._server.pid
        try:
            self.url = self._wait_for_url()
        except BaseException:
            self.close()
            raise

    def address(self, name: str) -> str:
        """Where a browser finds the notebook `name`, alone on the page."""
        return f"{self.url}doc/tree/{name}?token={self.token}"

    def theme(self, name: str) -> None:
        """Every page that is opened from now on is "light" or "dark"."""
        self._set(f"{APPUTILS}/themes", {"theme": THEMES[name]})

    def kernel(self, name: str, **environment: str) -> None:
        """A kernel of this Python, with more in its environment."""
        spec = {
            "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": name,
            "language": "python",
            "env": environment,
        }
        (self._folder("data", "kernels", name) / "kernel.json").write_text(json.dumps(spec))

    def copy(self, notebook: Path) -> str:
        """A copy of `notebook` that shows nothing yet; returns its name."""
        node = nbformat.read(notebook, as_version=4)
        for cell in node.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        return self._store(notebook.name, node)

    def write(self, name: str, *cells: str, kernel: str = "python3") -> str:
        """A notebook of code cells, for that kernel; returns its name."""
        node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
        node.metadata.kernelspec = {"name": kernel, "display_name": kernel, "language": "python"}
        return self._store(name, node)

    def end_kernels(self) -> None:
        """End every kernel, and wait for its end."""
        for session in json.loads(self.ask("GET", "sessions")):
            self.ask("DELETE", f"sessions/{session['id']}")

    def ask(self, method: str, what: str) -> bytes:
        """One request to the server's REST interface, and its answer."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.url}api/{what}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=END_S) as answer:
            return bytes(answer.read())

    def cells_of_code(self, name: str) -> list[str]:
        """Their ids, in the order in which they stand in the notebook `name`."""
        cells = nbformat.read(self.notebooks / name, as_version=4).cells
        return [cell.id for cell in cells if cell.cell_type == "code"]

    def close(self) -> None:
        """End the server, its kernels and what they started, as asked and then for sure.

        A kernel has a process group of its own, so they are known by the folder that all have in their environment.
        """
        self._server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._server.wait(END_S)
        while left := list(self.processes()):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._server.wait()

    def processes(self) -> Iterator[int]:
        """Ids of all that runs for this server, itself too."""
        mark = f"JUPYTER_RUNTIME_DIR={self.folder}/runtime".encode()
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                if mark in environment.read_bytes().split(b"\0"):
                    yield int(environment.parent.name)

    def _folder(self, *names: str) -> Path:
        path = self.folder.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _set(self, name: str, content: dict[str, Any]) -> None:
        plugin, schema = name.rsplit("/", 1)
        (self._folder("settings", plugin) / f"{schema}.jupyterlab-settings").write_text(json.dumps(content))

    def _store(self, name: str, node: nbformat.NotebookNode) -> str:
        nbformat.write(node, self.notebooks / name)
        return name

    def _options(self) -> list[str]:
        """The first port is a guess; if somebody was quicker, the server takes another and says so in `runtime`."""
        with socket.create_server((HOST, 0)) as probe:
            port = probe.getsockname()[1]
        return [
            "--no-browser",
            f"--ServerApp.ip={HOST}",
            f"--ServerApp.port={port}",
            f"--ServerApp.root_dir={self.notebooks}",
            f"--IdentityProvider.token={self.token}",
            "--LabApp.extension_manager=readonly",  # it asks no registry
            *(["--allow-root"] if os.getuid() == 0 else []),
        ]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}
        return kept | {
            "HOME": str(self._folder("home")),
            "IPYTHONDIR": str(self._folder("ipython")),
            "JUPYTER_CONFIG_DIR": str(self._folder("config")),
            "JUPYTER_DATA_DIR": str(self._folder("data")),
            "JUPYTER_RUNTIME_DIR": str(self._folder("runtime")),
            "JUPYTERLAB_SETTINGS_DIR": str(self._folder("settings")),
            "JUPYTERLAB_WORKSPACES_DIR": str(self._folder("workspaces")),
            "JUPYTER_PREFER_ENV_PATH": "1",
            "PYTHONNOUSERSITE": "1",
        }

    def _wait_for_url(self) -> str:
        """What the server writes down once it listens."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for path in self._folder("runtime").glob("jpserver-*.json"):
                with contextlib.suppress(ValueError):  # half written
                    return str(json.loads(path.read_text())["url"])
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(LOOK_S)
                break
        raise AssertionError(f"JupyterLab did not start:\n{self.log.read_text()}")
