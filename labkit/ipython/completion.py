"""Which words does a Tab offer? In a string of a call of labkit those that its parameter takes; and those of magics."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from errno import errorcode
from types import ModuleType
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from labkit import museum, rules
from labkit.abi import VCPUS_MAX
from labkit.cpu import BACK_ENDS
from labkit.ipython import guest, race
from labkit.ipython.call import Argument, argument
from labkit.machine import Machine
from labkit.museum import steps
from labkit.museum.cards import Cards
from labkit.native import BUILT, ffi
from labkit.races import SCHEDULERS, Scenario, Stepper
from labkit.trace import gates
from labkit.virtio.catalogue import MAKERS

OURS = IDENTIFIER = "labkit"
IRQS = ("msix", "intx", "poll")

Words = Iterable[str]


def _mutations(_: object) -> Words:
    return [*museum.names(), *steps.by_name()]


def _actors(of: object) -> Words:
    """Those of the very machine or schedule."""
    if isinstance(of, Stepper):
        return [one.name for one in of.actors]
    vcpus = of._board.plan.vcpus if isinstance(of, Machine) else VCPUS_MAX
    return [*gates.THREADS, *(f"vcpu{index}" for index in range(vcpus))]


# A parameter of a public function or method -> its words, told the object that the method belongs to.
PARAMETERS: dict[str, Callable[[object], Words]] = {
    "actor": _actors,
    "at": lambda _: gates.NAMES,
    "cpu": lambda _: BACK_ENDS,
    "device": lambda _: MAKERS,
    "error": lambda _: sorted(errorcode.values()),
    "irq": lambda _: IRQS,
    "mutations": _mutations,
    "revision": lambda _: rules.names(),
    "rule": lambda _: rules.prose(),
    "scenario": lambda _: museum.names(),
    "scheduler": lambda _: SCHEDULERS,
}
NAMES = {"labkit.museum"}  # modules whose functions take a specimen by `name`


def registers() -> list[str]:
    """The keys of vm.registers()."""
    return [name for name, _ in ffi.typeof("lk_registers").fields] if BUILT else []


class Completion:
    """A matcher for IPython, of the variables of one shell."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables = variables

        @context_matcher(identifier=IDENTIFIER)  # type: ignore[untyped-decorator]
        def matcher(context: CompletionContext) -> SimpleMatcherResult:
            return self._result(context)

        self.matcher = matcher

    def _result(self, context: CompletionContext) -> SimpleMatcherResult:
        lines = context.full_text.split("\n")
        line = lines[context.cursor_line][: context.cursor_position]
        before = "\n".join([*lines[: context.cursor_line], line])
        words, written = self.words(before)
        fitting = [SimpleCompletion(text=word, type="labkit") for word in words if word.startswith(written)]
        return {"completions": fitting, "matched_fragment": written, "suppress": bool(fitting), "ordered": True}

    def words(self, before: str) -> tuple[list[str], str]:
        """What could stand at the end of this text, and what of it is there."""
        if before.lstrip().startswith("%"):
            return self._of_magic(before.lstrip())
        where = argument(before)
        if where is None:
            return [], ""
        return list(self._of_argument(where)), where.written

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _of_argument(self, where: Argument) -> Words:
        if where.subscript:
            return self._keys(where.of)
        function = self._find(where.of)
        if not callable(function) or not _is_ours(function):
            return ()
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            return ()
        name = where.keyword or _by_position(parameters, where.position)
        if name == "name" and function.__module__ in NAMES:
            return museum.names()
        words = PARAMETERS.get(name)
        return words(getattr(function, "__self__", None)) if words else ()

    def _keys(self, of: str) -> Words:
        """Of `vm.museum[` and `vm.registers()[`: neither is called for a Tab."""
        method = self._find(of.removesuffix("()"))
        if of.endswith(".registers()"):
            return registers() if isinstance(getattr(method, "__self__", None), Machine) else ()
        return museum.names() if isinstance(method, Cards) else ()

    def _find(self, chain: str) -> Any:
        """What `labkit.museum.run` or `vm.hold` is; None: nothing of labkit. Only labkit's own attributes are read."""
        first, *more = chain.split(".")
        found = self._variables.get(first)
        for name in more:
            if not _is_ours(found):
                return None
            try:
                found = getattr(found, name)
            except Exception:  # noqa: BLE001 - a closed machine has no more of it
                return None
        return found

    # -- magics --------------------------------------------------------------------------------------------------------

    def _of_magic(self, before: str) -> tuple[list[str], str]:
        head, newline, body = before.partition("\n")
        magic, *said = head.split(" ")
        if newline:
            return (self._of_schedule(said), body.split("\n")[-1].split(" ")[-1]) if magic == "%%race" else ([], "")
        if not said:
            return [], ""
        return self._of_line(magic, said), said[-1]

    def _of_line(self, magic: str, said: list[str]) -> list[str]:
        """`said`: the words after the magic's name; the last is being written."""
        if magic == "%rule":
            return list(rules.prose())
        options = {"%%guest": guest.OPTIONS, "%%race": race.OPTIONS}.get(magic, {})
        if said[-1].startswith("-"):
            return [option for option in options if option.startswith("--")]
        option = said[-2].lstrip("-").replace("-", "_") if len(said) > 1 and said[-2].startswith("--") else ""
        if option == "mutation":
            return list(_mutations(None))
        if option in PARAMETERS:
            return list(PARAMETERS[option](None))
        return museum.names() if magic in ("%race", "%%race") and not option and len(said) == 1 else []

    def _of_schedule(self, said: list[str]) -> list[str]:
        """Who may stand in a line of `%%race SCENARIO`."""
        known = race.scenarios() | {name: museum.find(name).scenario for name in museum.names()}
        known |= {name: one for name, one in self._variables.items() if isinstance(one, Scenario)}
        return list(race.programs(known[said[0]])) if said and said[0] in known else []


def _is_ours(found: object) -> bool:
    """A module, a function or an object of labkit."""
    if isinstance(found, ModuleType):
        return found.__name__.partition(".")[0] == OURS
    where = getattr(found, "__module__", None) if callable(found) else type(found).__module__
    return isinstance(where, str) and where.partition(".")[0] == OURS


def _by_position(parameters: list[inspect.Parameter], position: int) -> str:
    by_position = [one.name for one in parameters if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    return by_position[position] if position < len(by_position) else ""
