"""How is a step of the agent told in words, so that QEMU's guest and labkit's take the same one?

The words are those of guests/lib/script.c: `name:argument:argument`. QEMU's guest reads them itself; for labkit they
are read here.
"""

from __future__ import annotations

from typing import NamedTuple

from labkit.abi import BlkType, Command, Irq

# step -> its answers, in the order of the mailbox
ANSWERS: dict[Command, tuple[str, ...]] = {
    Command.NEGOTIATE: ("offered", "accepted", "queues", "bar0", "status"),
    Command.SET_STATUS: ("status",),
    Command.DRIVER_OK: ("status",),
    Command.RESET: ("status",),
    Command.BUS_MASTER: ("command",),
    Command.ADD: ("head", "slot", "buffer"),
    Command.ADD_BUFFERS: ("head", "slot", "buffer"),
    Command.PUBLISH: ("avail_idx", "published", "wanted"),
    Command.KICK: ("ticks",),
    Command.WAIT: ("reaped", "head", "used_len", "status", "interrupts", "slot"),
    Command.REQUEST: ("status", "used_len", "ticks", "interrupts"),
    Command.PORT_IN: ("value",),
    Command.PORT_OUT: (),
    Command.PCI_READ: ("value",),
    Command.PCI_WRITE: (),
    Command.LOAD: ("value",),
    Command.STORE: (),
    Command.STORM: ("ticks", "completed", "errors", "kicks", "interrupts"),
    Command.FAULT: ("value",),
}
WORDS: dict[str, int] = {
    "poll": Irq.POLL,
    "msix": Irq.MSIX,
    "intx": Irq.INTX,
    "read": BlkType.IN,
    "write": BlkType.OUT,
    "flush": BlkType.FLUSH,
    "get_id": BlkType.GET_ID,
    "on": 1,
    "off": 0,
}
BAR0 = "bar0+"
COMPARED = ("status", "used_len", "value", "command", "reaped", "wanted", "errors")


class Step(NamedTuple):
    """A step with its arguments as the agent takes them."""

    command: Command
    arguments: tuple[int, ...]


def parse(text: str, bar0: int) -> Step:
    """Read a step; `bar0` is the device's first port as the driver last saw it. KeyError, ValueError: it is none."""
    name, *arguments = text.split(":")
    return Step(Command[name.upper()], tuple(_argument(word, bar0) for word in arguments))


def _argument(word: str, bar0: int) -> int:
    if word.startswith(BAR0):
        return bar0 + int(word.removeprefix(BAR0), 0)
    return WORDS[word] if word in WORDS else int(word, 0)


def answer(command: Command, status: int, results: tuple[int, ...]) -> str:
    """What of the step's answer both machines must agree on: `answer=0 status=0x7`."""
    named = dict(zip(ANSWERS[command], results, strict=False))
    return _kept({"answer": str(status)} | {name: hex(value) for name, value in named.items()})


def answer_line(line: str) -> str:
    """The same of a line that a guest printed: `step driver_ok answer=0 status=0x7`."""
    return _kept(dict(word.split("=", 1) for word in line.split()[2:]))


def _kept(named: dict[str, str]) -> str:
    if named["answer"] != "0":
        return f"answer={named['answer']}"
    return " ".join(f"{name}={named[name]}" for name in ("answer", *COMPARED) if name in named)
