"""What does a live view cost the guest it shows? A storm in a real kernel, with a screen and without, in turns."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from labkit.bench.row import Effort, Samples, interleaved
from labkit.errors import HostError

STORM_S = 0.7  # long enough for a dozen frames
TIMEOUT_S = 60.0
SETTLES_S, IDLE_S = 0.5, 2.0

PREPARE = """
import json, time, labkit
from labkit.widgets.publisher import PUBLISHER

vm = labkit.boot(cpu={cpu!r})
rate = vm.guest.storm(500).requests_per_s

def storm(shown):
    screen = vm.dashboard() if shown else None
    used, start = PUBLISHER.cpu_s, time.monotonic()
    done = vm.guest.storm(max(100, int(rate * {seconds})))
    share = (PUBLISHER.cpu_s - used) / (time.monotonic() - start)
    if screen is not None:
        screen.close()
        PUBLISHER.wait_for_end(5)
    print(json.dumps([done.requests_per_s, 100 * share]))
"""
IDLE = """
screen = vm.dashboard()
time.sleep({settles})
"""


def why_not() -> str:
    """What is missing for it here."""
    missing = [name for name in ("anywidget", "ipykernel", "jupyter_client") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def throughput(effort: Effort) -> Samples:
    """Requests a second, shown and not."""
    with kernel(effort) as run:
        return interleaved(lambda: _storm(run, True)[0], lambda: _storm(run, False)[0], effort.repetitions)


def of_a_core(effort: Effort) -> Samples:
    """CPU of the thread that looks, in percent of a core, while the guest storms; and with nothing to look at."""
    with kernel(effort) as run:
        return interleaved(lambda: _storm(run, True)[1], lambda: _storm(run, False)[1], effort.repetitions)


def messages_when_idle(cpu: str = "auto") -> int:
    """How many messages a page gets in two seconds from a machine that does nothing."""
    from labkit.bench.row import QUICK

    with kernel(QUICK, cpu) as run:
        run(IDLE.format(settles=SETTLES_S))
        run.messages = 0
        run(f"time.sleep({IDLE_S})")
        return run.messages


def _storm(run: Kernel, shown: bool) -> tuple[float, float]:
    rate, percent = json.loads(run(f"storm({shown})"))
    return rate, percent


class Kernel:
    """A kernel, and a page's end of it: everything it says is read."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.messages = 0  # of widgets

    def __call__(self, code: str) -> str:
        """Run a cell, and give what it printed. HostError: it failed."""
        said: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            self.messages += message["msg_type"].startswith("comm")
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                said.append(message["content"]["text"])

        reply = self._client.execute_interactive(code, timeout=TIMEOUT_S, output_hook=hear)["content"]
        if reply["status"] != "ok":
            raise HostError("ipykernel", 5, f"{reply.get('ename')}: {reply.get('evalue')}")
        return "".join(said)


@contextmanager
def kernel(effort: Effort, cpu: str = "") -> Iterator[Kernel]:
    """A fresh one, with a machine in it."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        run = Kernel(client)
        run(PREPARE.format(cpu=cpu or effort.cpu, seconds=STORM_S))
        yield run
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
