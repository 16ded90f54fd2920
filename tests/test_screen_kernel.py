"""Does a screen work in a real kernel: told from another thread, and answered while a cell runs?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

WAIT_S = 40.0
BOOT = "import labkit; vm = labkit.boot(cpu={0!r}); screen = vm.dashboard()"
Message = dict[str, Any]


class Front:
    """The page's end of a kernel."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.opened: dict[str, Message] = {}  # comms by what they are of
        self.told = 0  # messages of widgets

    def run(self, code: str) -> None:
        """A cell; waits for its end, and notes the comms it opens."""
        reply = self._client.execute_interactive(code, timeout=WAIT_S, output_hook=self._hear)
        assert reply["content"]["status"] == "ok", reply["content"]

    def _hear(self, message: Message) -> None:
        self.told += message["msg_type"] == "comm_msg"
        if message["msg_type"] == "comm_open":
            state = message["content"]["data"]["state"]
            self.opened[state.get("_anywidget_id", "")] = message["content"]

    def send(self, content: Message) -> None:
        """What a click sends."""
        comm = self.opened["labkit.widgets.screen.Screen"]["comm_id"]
        data = {"method": "custom", "content": content}
        session = self._client.session
        self._client.shell_channel.send(session.msg("comm_msg", {"comm_id": comm, "data": data}))

    def until(self, found: Callable[[Message], object]) -> Message:
        """Data of the next message of a widget for which that is true."""
        while True:
            message = self._client.get_iopub_msg(timeout=WAIT_S)
            if message["msg_type"] == "comm_msg" and found(message["content"]["data"]):
                return message["content"]["data"]


@pytest.fixture
def front(cpu: str) -> Iterator[Front]:
    """A kernel with a machine and its dashboard."""
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        page = Front(client)
        page.run(BOOT.format(cpu))
        yield page
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def asked(data: Message) -> Message:
    """How the requests stand, if a message tells of it."""
    return data.get("state", {}).get("scene", {}).get("asked", {})


@pytest.mark.slow
def test_a_click_is_taken_at_once_and_then_told(front: Front) -> None:
    """First that it was taken, then a scene from the screen's own thread with what came of it."""
    front.send({"ask": "kick", "seq": 5, "page": "a1", "machine": 0, "with": {"queue": 0}})
    taken = front.until(lambda data: data["method"] == "custom")
    assert taken["content"] == {"taken": 5, "page": "a1"}
    told = asked(front.until(lambda data: asked(data).get("outcome") == "done"))
    assert (told["seq"], told["page"], told["code"]) == (5, "a1", "vm.guest.kick(queue=0)")


@pytest.mark.slow
def test_what_a_cell_does_is_told_without_a_click(front: Front) -> None:
    """The cell is over, or still at it: the scene comes by itself."""
    front.run("vm.pause()")
    front.send({"ask": "resume", "seq": 1, "page": "a1"})
    front.until(lambda data: asked(data).get("code") == "vm.resume()" and asked(data)["outcome"] == "done")


@pytest.mark.slow
def test_a_machine_at_rest_is_not_told_of(front: Front) -> None:
    """Nothing happens for two seconds: the page gets no message at all."""
    front.run("vm.pause(); screen.frame()")
    front.told = 0
    front.run("import time; time.sleep(2)")
    assert front.told == 0
