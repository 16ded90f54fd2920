"""What can be done from the screen? A table: each action is the Python that a button shows and that is carried out."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import labkit
from labkit.answers import Negotiated
from labkit.errors import UsageError
from labkit.trace.gates import NAMES as GATES
from labkit.widgets.scene import actors

Values = dict[str, int | str]
Tell = Callable[[str], None]

STORM_PIECE = 1000  # requests: between two pieces it is told how far it is, and it can be stopped
REQUESTS_MOST, TIMES_MOST = 1_000_000, 10_000
CALLS = ("assign", "eventfd", "deassign")
ERRORS = ("ENOSPC", "EEXIST", "EMFILE", "ENOMEM", "ENOENT", "EINVAL")
RESULT_MOST = 200  # characters of what a call gave

RUNS, HERE = ("running",), ("running", "paused")
ALL = ("running", "paused", "crashed", "exited", "migrated", "closed", "listening")


class Case(NamedTuple):
    """What an action works with: the machine, what was filled in, whom to tell, and whether somebody says stop."""

    vm: Any
    values: Values
    tell: Tell
    stopped: Callable[[], bool]
    arrives: Callable[[Any], None]  # a machine has come from this one


class Action(NamedTuple):
    """One button. `turn`: "guest" and "host" come one after the other, "threads" at once."""

    id: str
    group: str
    label: str
    code: str
    fields: tuple[str, ...]
    help: str
    when: tuple[str, ...]
    turn: str = "host"
    do: Callable[[Case], object] | None = None  # None: what `code` says

    def told(self) -> dict[str, Any]:
        """What the page needs of it."""
        shown = ("id", "group", "label", "code", "fields", "help", "when")
        return {name: getattr(self, name) for name in shown} | {"fields": list(self.fields), "when": list(self.when)}

    def said(self, values: Values) -> str:
        """The Python, with what was filled in."""
        return self.code.format(**values)

    def carry_out(self, case: Case) -> object:
        """Do it. Raises what the call raises."""
        if self.do is not None:
            return self.do(case)
        return run(self.said(case.values), {"vm": case.vm, "labkit": labkit})


def run(code: str, names: dict[str, Any]) -> object:
    """Carry out a line of Python from the table below, and give what its last expression gives."""
    *before, last = ast.parse(code).body
    assert isinstance(last, ast.Expr), code
    exec(compile(ast.Module(before, []), "<screen>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<screen>", "eval"), names)


def _storm(case: Case) -> object:
    """In pieces. What was done is told, however it ends."""
    wanted, done = int(case.values["requests"]), 0
    while done < wanted and not case.stopped():
        piece = case.vm.guest.storm(min(STORM_PIECE, wanted - done))
        done += piece.requests
        case.tell(f"{done} of {wanted} requests, {piece.requests_per_s:,.0f} requests/s")
        if not piece.requests:
            break
    return f"{done} of {wanted} requests" + (", stopped" if done < wanted else "")


def _migrate(case: Case) -> object:
    """To a listener in this process; what arrives is shown beside."""
    import tempfile

    folder = tempfile.TemporaryDirectory(prefix="labkit-")
    with folder as path, labkit.listen(f"unix:{path}/vm.sock") as arrival:
        migration = case.vm.migrate(arrival.address, wait=False)
        while not migration.wait(timeout_s=0.05):
            case.tell(str(migration.progress or "connecting"))
            if case.stopped():
                migration.cancel()
        case.arrives(arrival.machine(timeout_s=10.0))
    return f"moved, {migration.downtime_s * 1000:.2f} ms down"


def _fault(case: Case) -> object:
    """Nothing is to be seen of it yet."""
    call, queue, error = (case.values[name] for name in ("call", "queue", "error"))
    getattr(case.vm.fault, f"fail_{call}")(queue=queue, error=error)
    return f"the next {call} of queue {queue} will fail: {error}"


_PLUG = "vm.unplug(); vm.plug(ioeventfd={0}); vm.guest.negotiate(driver_ok=True)"
_PLUG_HELP = "The property belongs to the device as it was made (R1): it is pulled out, and one {0} it is put in."

TABLE = (
    Action(
        "kick", "guest", "Kick", "vm.guest.kick(queue={queue})", ("queue",),
        "The guest writes the queue's index to QUEUE_NOTIFY.", RUNS, "guest",
    ),
    Action(
        "kicks", "guest", "Kick × n", "vm.guest.kick(queue={queue}, times={times})", ("queue", "times"),
        "The same, n times in a row.", RUNS, "guest",
    ),
    Action(
        "read", "guest", "Read sector", "vm.guest.read({sector})", ("sector",),
        "The guest reads a sector: ring, kick, interrupt.", RUNS, "guest",
    ),
    Action(
        "storm", "guest", "Storm", "vm.guest.storm({requests})", ("requests",),
        f"Reads, 8 in flight; in pieces of {STORM_PIECE}, between which it can be stopped.", RUNS, "guest", _storm,
    ),
    Action(
        "bring_up", "guest", "Bring up", "vm.guest.negotiate(driver_ok=True)", (),
        "The driver finds the device and sets it up, to DRIVER_OK (R2).", RUNS, "guest",
    ),
    Action(
        "stop", "guest", "Stop", "screen.stop()", (),
        "End what is under way as soon as it can be, and forget what waits.", ALL, "stop",
    ),
    Action("pause", "machine", "Pause", "vm.pause()", (), "The vCPUs stop, then the notifiers (R10).", RUNS),
    Action(
        "resume", "machine", "Resume", "vm.resume()", (),
        "The notifiers start if DRIVER_OK is set (R10).", ("paused",),
    ),
    Action(
        "reset", "machine", "Reset", "vm.reset()", (),
        "The reset button (R7): the guest starts again, its driver not yet.", (*HERE, "crashed", "exited"),
    ),
    Action(
        "migrate", "machine", "Migrate", 'vm.migrate(labkit.listen("unix:" + path).address)', (),
        "To another machine in this process, shown beside this one.", RUNS, do=_migrate,
    ),
    Action(
        "ioeventfd_on", "notifiers", "ioeventfd on", _PLUG.format(True), (),
        _PLUG_HELP.format("with"), RUNS, "guest",
    ),
    Action(
        "ioeventfd_off", "notifiers", "ioeventfd off", _PLUG.format(False), (),
        _PLUG_HELP.format("without"), RUNS, "guest",
    ),
    Action(
        "hand_over", "notifiers", "Hand over", "vm.hand_over()", (),
        "A backend, a thread with indices of its own, takes the queues (R9).", HERE,
    ),
    Action("take_back", "notifiers", "Take back", "vm.take_back()", (), "The backend gives them back (R9).", HERE),
    Action(
        "fault", "notifiers", "Fault", 'vm.fault.fail_{call}(queue={queue}, error="{error}")',
        ("call", "queue", "error"), "The next such call of the host for this queue fails (R4, R15).", HERE, do=_fault,
    ),
    Action(
        "hold", "threads", "Hold", 'vm.hold("{actor}")', ("actor",),
        "Behind its next event, whatever that is.", HERE, "threads",
    ),
    Action(
        "hold_at", "threads", "Hold at", 'vm.hold("{actor}", at="{gate}")', ("actor", "gate"),
        "Behind its next event of that name.", HERE, "threads",
    ),
    Action(
        "step", "threads", "Step", 'vm.step("{actor}")', ("actor",),
        "Let who is held go to its next event.", HERE, "threads",
    ),
    Action(
        "release", "threads", "Release", 'vm.release("{actor}")', ("actor",),
        "Let it go, and hold it no more.", HERE, "threads",
    ),
)  # fmt: skip
ON_A_DISK = ("read", "storm")
BY_A_DRIVER = ("bring_up", "kick", "kicks", "read", "storm", "ioeventfd_on", "ioeventfd_off")
LENDS = ("blk", "null")


def possible(board: Any) -> list[Action]:
    """Those that make sense for a machine: a kernel of the user's own does no steps, and not every device is a disk."""
    plan = board.plan
    left_out = {*(() if plan.image.lab else BY_A_DRIVER), *(() if plan.model.name == "blk" else ON_A_DISK)}
    left_out |= set(() if plan.model.name in LENDS else ("hand_over", "take_back"))
    return [action for action in TABLE if action.id not in left_out]


def fields(board: Any) -> dict[str, dict[str, Any]]:
    """What can be filled in, with its bounds."""
    queues = len(board.proxy.queues)
    image = getattr(board.plan.model, "image", None)
    return {
        "queue": _number("queue", 0, max(0, queues - 1), 0),
        "times": _number("times", 1, TIMES_MOST, 100),
        "sector": _number("sector", 0, max(0, image.sectors - 1) if image else 0, 0),
        "requests": _number("requests", 1, REQUESTS_MOST, 10_000),
        "actor": _choice("thread", actors(board.plan.vcpus), "iothread"),
        "gate": _choice("event", tuple(GATES), "before-handler"),
        "call": _choice("call", CALLS, CALLS[0]),
        "error": _choice("error", ERRORS, ERRORS[0]),
    }


def _number(label: str, least: int, most: int, value: int) -> dict[str, Any]:
    return {"label": label, "kind": "int", "least": least, "most": most, "value": value}


def _choice(label: str, choices: Sequence[str], value: str) -> dict[str, Any]:
    return {"label": label, "kind": "choice", "choices": list(choices), "value": value}


def checked(action: Action, given: object, known: Mapping[str, Mapping[str, Any]]) -> Values:
    """What was filled in, as the action needs it. UsageError: something is missing or out of its bounds."""
    if not isinstance(given, dict):
        raise UsageError("what was filled in is not a table of names and values")
    return {name: _checked(name, given.get(name), known[name]) for name in action.fields}


def _checked(name: str, value: object, field: Mapping[str, Any]) -> int | str:
    if field["kind"] == "choice":
        if not isinstance(value, str) or value not in field["choices"]:
            raise UsageError(f"{name}={_short(value)}: one of {', '.join(field['choices'])}")
        return value
    if field["kind"] == "text":
        if not isinstance(value, str) or len(value) > field["most"]:
            raise UsageError(f"{name}={_short(value)}: a text of {field['most']} characters at most")
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not field["least"] <= value <= field["most"]:
        raise UsageError(f"{name}={_short(value)}: a whole number from {field['least']} to {field['most']}")
    return value


def _short(value: object) -> str:
    return repr(value)[:RESULT_MOST]


def result(value: object) -> str:
    """What a call gave, short enough for a line; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, Negotiated):
        return f"features {value.accepted:#x} of {value.offered:#x}, {value.queues} queue(s)"
    if isinstance(value, bytes):
        return f"{len(value)} bytes: {value[:40]!r}" + (" …" if len(value) > 40 else "")
    if isinstance(value, str):
        return value[:RESULT_MOST]
    text = " ".join(repr(value).split())
    return text if len(text) <= RESULT_MOST else text[: RESULT_MOST - 1] + "…"
