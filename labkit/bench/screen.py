"""What does a live view cost the guest it shows? A storm in a real kernel, with a screen and without, in turns."""

from __future__ import annotations

import errno
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from labkit.bench.row import FULL, Effort, Samples, interleaved
from labkit.errors import HostError

STORM_S = 0.7  # long enough for some frames; less if little effort is to be made
LEAST_S = 0.4
TIMEOUT_S = 60.0
IDLE_S = 2.0

PREPARE = """
import json, threading, time, labkit
from labkit.widgets.publisher import PERIOD_S, PUBLISHER

vm = labkit.boot(cpu={cpu!r})
rate = vm.guest.storm(500).requests_per_s

def storm(shown):
    screen = vm.dashboard() if shown else None
    time.sleep({settles})
    used, start = PUBLISHER.cpu_s, time.monotonic()
    done = vm.guest.storm(max(100, int(rate * {seconds})))
    percent = 100 * (PUBLISHER.cpu_s - used) / (time.monotonic() - start)
    if screen is not None:
        screen.close()
        PUBLISHER.wait_for_end(5)
    return done.requests_per_s if done.errors == 0 else 0, percent

def wakes():
    used = []
    def run():
        until = time.monotonic() + {seconds}
        while time.monotonic() < until:
            time.sleep(PERIOD_S)
        used.append(time.thread_time())
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return 100 * used[0] / {seconds}
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
        return interleaved(
            lambda: run.value("storm(True)[0]"), lambda: run.value("storm(False)[0]"), effort.repetitions
        )


def of_a_core(effort: Effort) -> Samples:
    """CPU of the thread that looks while the guest storms, and of one that only wakes as often: percent of a core."""
    with kernel(effort) as run:
        return interleaved(lambda: run.value("storm(True)[1]"), lambda: run.value("wakes()"), effort.repetitions)


def messages_when_idle(effort: Effort) -> int:
    """How many messages a page gets in two seconds from a machine that does nothing."""
    with kernel(effort) as run:
        run(IDLE.format(settles=LEAST_S))
        run.messages = 0
        run(f"time.sleep({IDLE_S})")
        return run.messages


class Kernel:
    """A kernel, and a page's end of it: everything it says is read."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.messages = 0  # of widgets

    def value(self, code: str) -> float:
        """What an expression gives."""
        return float(self(f"print({code})"))

    def __call__(self, code: str) -> str:
        """Run a cell, and give what it printed. HostError: it failed."""
        said: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            self.messages += message["msg_type"].startswith("comm")
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                said.append(message["content"]["text"])

        reply = self._client.execute_interactive(code, timeout=TIMEOUT_S, output_hook=hear)["content"]
        if reply["status"] != "ok":
            raise HostError("ipykernel", errno.EIO, f"{reply.get('ename')}: {reply.get('evalue')}")
        return "".join(said)


@contextmanager
def kernel(effort: Effort) -> Iterator[Kernel]:
    """A fresh one, with a machine in it."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        run = Kernel(client)
        seconds = max(LEAST_S, STORM_S * min(1.0, effort.requests / FULL.requests))
        run(PREPARE.format(cpu=effort.cpu, seconds=seconds, settles=LEAST_S))
        yield run
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
