"""How is a load disturbed? By pauses and resumes, again and again, while the guest is at it."""

from __future__ import annotations

import threading

from labkit import Machine, UsageError
from labkit.answers import Storm


def storm_while_paused(vm: Machine, requests: int, depth: int) -> Storm:
    """A storm, begun as soon as the machine is found running, that is paused and resumed until it is over."""
    over = threading.Event()

    def disturb() -> None:
        while not over.is_set():
            vm.pause()
            vm.resume()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        while True:
            try:
                return vm.guest.storm(requests, depth)
            except UsageError:  # found paused
                assert vm.state in ("paused", "running")
    finally:
        over.set()
        thread.join()
