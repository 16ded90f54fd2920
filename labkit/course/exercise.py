"""What is an exercise? A name, a question, and a judge that looks at an answer and the evidence beside it."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import NamedTuple

from labkit.course.verdict import Verdict, not_yet, shown

ERROR_AT_MOST = 200  # characters of what an error says


class Exercise(NamedTuple):
    """`name`: the notebook's two digits and a word, as "05.who-drains". `judge`: answer and evidence to verdict.

    A judge finds the truth in the evidence where it can (a machine, its trace, events), so no solution stands in it.
    """

    name: str
    asks: str
    judge: Callable[..., Verdict]

    @property
    def takes(self) -> str:
        """How it is checked, as a line of code."""
        names = [f"{one.name}=" if one.kind is Parameter.KEYWORD_ONLY else one.name for one in self._parameters()]
        return f'course.check("{self.name}", {", ".join(names)})'

    def _parameters(self) -> list[Parameter]:
        return list(signature(self.judge).parameters.values())

    def verdict(self, *answer: object, **evidence: object) -> Verdict:
        """What the judge says; of arguments it does not take, or that raise while it looks at them, that they do."""
        try:
            signature(self.judge).bind(*answer, **evidence)
        except TypeError as error:
            return not_yet(f"these are not the arguments: {error}", f"write {self.takes}")
        try:
            return self.judge(*answer, **evidence)
        except NotImplementedError:  # as students' cells begin
            return not_yet("nothing stands there yet", self.asks)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a student's own code runs in it
            said = shown_error(error)
            return not_yet(f"looking at your answer raised {said}", f"what is each of {self.takes}? {self.asks}")

    def __repr__(self) -> str:
        return f"{self.name}: {self.asks}"


def shown_error(error: BaseException) -> str:
    """Type and text of an error, shortened; an error of a student's own may have any `__str__`."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - as above
        text = shown(error)
    return text[:ERROR_AT_MOST]
