"""Steps told in words: the same on both machines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labkit.abi import NUMBERS, AgentStatus, BlkType, Command, Irq
from oracle import steps

SCRIPT = Path(__file__).parent.parent.parent / "guests" / "lib" / "script.c"
KNOWN_STEP = re.compile(r'\{"(\w+)", (CMD_\w+), "([\w ]*)"\}')
WORD = re.compile(r'\{"(\w+)", (\w+)\}')


def test_the_words_are_those_of_the_guest() -> None:
    """Names of steps, the order of their answers and the words for numbers: as guests/lib/script.c reads them."""
    text = SCRIPT.read_text()
    known = {name: (NUMBERS[command], tuple(answers.split())) for name, command, answers in KNOWN_STEP.findall(text)}
    assert known == {command.name.lower(): (command, answers) for command, answers in steps.ANSWERS.items()}
    words = {word: int(value) if value.isdigit() else NUMBERS[value] for word, value in WORD.findall(text)}
    assert words == steps.WORDS


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("negotiate:poll", steps.Step(Command.NEGOTIATE, (Irq.POLL,))),
        ("request:0:write:0x10:512", steps.Step(Command.REQUEST, (0, BlkType.OUT, 16, 512))),
        ("port_out:bar0+16:2:1", steps.Step(Command.PORT_OUT, (0xC010, 2, 1))),
        ("reset", steps.Step(Command.RESET, ())),
    ],
)
def test_a_step_is_read(text: str, step: steps.Step) -> None:
    """Names, words, decimal and hex numbers, and ports of the device."""
    assert steps.parse(text, bar0=0xC000) == step


@pytest.mark.parametrize("text", ["dance", "driver_ok:maybe", "port_in:bar0+:1", ""])
def test_what_is_no_step_is_refused(text: str) -> None:
    """A slip in a scenario is an error, and not another step."""
    with pytest.raises((KeyError, ValueError)):
        steps.parse(text, bar0=0xC000)


def test_an_answer_reads_the_same_from_both() -> None:
    """What a guest printed and what a mailbox holds give one line, without times and addresses."""
    printed = "step wait answer=0 reaped=0x1 head=0x3 used_len=0x201 status=0x0 interrupts=0x0 slot=0x1"
    held = steps.answer(Command.WAIT, AgentStatus.OK, (1, 3, 513, 0, 0, 1, 0, 0))
    assert steps.answer_line(printed) == held == "answer=0 status=0x0 used_len=0x201 reaped=0x1"


def test_a_step_that_failed_says_only_that() -> None:
    """A step that fails may have written no answer, and what stands there is not compared."""
    printed = "step request answer=5 status=0x0 used_len=0x0 ticks=0x0 interrupts=0x0"
    assert steps.answer_line(printed) == steps.answer(Command.REQUEST, AgentStatus.TIMEOUT, ()) == "answer=5"
