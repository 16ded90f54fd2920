"""Is a guest's code shown where it is, with the names of its ELF, on both CPUs and whatever the file is?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from kernels import assemble
from rulebook import Boot

import labkit
from labkit import disassembly
from labkit.abi import GUEST_IMAGES
from labkit.loader import Image, lab_guest

SPINS = """
guest_main:
    movl $5, %eax
    call twice
    jmp waits
twice:
    addl %eax, %eax
    ret
waits:
    pause
    jmp waits
"""
DIVIDES = """
guest_main:
    xorl %ecx, %ecx
    jmp halve
halve:
    movl $8, %eax
    xorl %edx, %edx
    divl %ecx
    ret
"""
MEMORY = 16 << 20


def test_a_function_is_shown_by_name(boot: Boot, tmp_path: Path) -> None:
    """Instructions from its first on, each with its place; a jump names where it goes."""
    vm = boot(kernel=assemble(tmp_path, SPINS))
    shown = vm.disassemble("guest_main", count=3)
    assert [(one.place, one.text.split()) for one in shown] == [
        ("guest_main", ["mov", "eax,", "5"]),
        ("guest_main+0x5", ["call", "twice"]),
        ("guest_main+0xa", ["jmp", "waits"]),
    ]
    assert shown.function == "guest_main"
    assert shown.rip is None
    assert "=>" not in repr(shown)
    assert vm.disassemble(shown[1].address, 1)[0] == shown[1]
    assert b"".join(one.code for one in shown) == vm.memory.read(shown[0].address, sum(len(i.code) for i in shown))


def test_where_a_vcpu_is(boot: Boot, tmp_path: Path) -> None:
    """Without an address it is where the vCPU is: marked, and the code of its function in front of it."""
    vm = boot(kernel=assemble(tmp_path, SPINS))
    while (here := vm.disassemble()).function != "waits":
        pass
    assert here.rip in [one.address for one in here]
    assert repr(here).count("=> ") == 1
    assert "=&gt;" in here._repr_html_()
    assert "pause" in repr(here)


def test_a_crash_is_shown_where_it_was(boot: Boot, tmp_path: Path) -> None:
    """Of a guest that divides by 0: the instruction that could not be done, after those that led to it."""
    vm = boot(kernel=assemble(tmp_path, DIVIDES))
    with pytest.raises(labkit.GuestError, match="triple fault"):
        vm.wait(10)
    here = vm.disassemble()
    assert here.function == "halve"
    assert [one.text.split()[0] for one in here][:3] == ["mov", "xor", "div"]
    assert isinstance(vm.crash, labkit.GuestCrash)
    assert here[2].address == here.rip == vm.crash.rip


def test_the_labs_own_guest_has_names(boot: Boot) -> None:
    """Its ELF was built beside it."""
    vm = boot()
    assert vm.disassemble().function == "guest_main"
    assert vm.disassemble("finish", 2)[1].text.split() == ["out", "0xf4,", "eax"]


def test_names_are_those_of_the_source() -> None:
    """What gcc adds for a copy that it made is left out; a label of an assembler's stays."""
    assert disassembly._as_written("wait.constprop.0") == "wait"
    assert disassembly._as_written(".L3") == ".L3"
    assert "guest_main" in disassembly.names_of(lab_guest("agent")).addresses


@pytest.mark.parametrize("file", [b"", b"\x7fELF", b"\0" * 100, (GUEST_IMAGES / "agent.elf").read_bytes()[:5000]])
def test_a_file_without_names_is_shown_without(file: bytes) -> None:
    """Empty, torn, no ELF at all: code is shown by its address."""
    names = disassembly.names_of(Image("mine.elf", (), 0, lab=False, file=file))
    shown = disassembly.at(lambda _, size: b"\x90" * size, names, 0x1000, 2, 64)
    assert [one.place for one in shown] == ["0x1000", "0x1001"]
    assert shown.function == ""


def test_data_in_between_shows_nothing_wrong() -> None:
    """If the code before rip does not lead to it, the listing begins at rip."""
    names = disassembly.Names([(0x1000, "odd")])
    memory = {0x1000: b"\xe8\x00", 0x1002: b"\x90\xc3"}  # a call that would reach into what follows

    def read(gpa: int, size: int) -> bytes:
        whole = b"".join(memory.values()).ljust(4096, b"\x90")
        return whole[gpa - 0x1000 :][:size]

    shown = disassembly.around(read, names, 0x1002, 2, 64)
    assert [(one.address, one.text.split()[0]) for one in shown] == [(0x1002, "nop"), (0x1003, "ret")]
    assert shown.rip == 0x1002


def test_the_end_of_memory_is_the_end(boot: Boot) -> None:
    """Close to it there are fewer instructions, beyond it none: then the error says where memory ends."""
    vm = boot()
    vm.memory.write(MEMORY - 32, b"\x90" * 32)
    assert 0 < len(vm.disassemble(MEMORY - 20, count=8)) <= 8
    with pytest.raises(labkit.UsageError, match="outside its 16 MiB"):
        vm.disassemble(MEMORY)


def test_code_of_other_widths(boot: Boot) -> None:
    """The same bytes, as a guest that never left protected mode has them."""
    vm = boot()
    vm.memory.write(0x300000, b"\x40\x90")
    assert vm.disassemble(0x300000, 1, bits=32)[0].text.split() == ["inc", "eax"]
    assert vm.disassemble(0x300000, 1)[0].text.split()[-1] == "nop"


@pytest.mark.parametrize(
    ("at", "options", "said"),
    [
        ("nobody", {}, "function 'nobody'"),
        (None, {"vcpu": 1}, "vCPU 1"),
        (None, {"bits": 8}, "bits=8"),
        (0x100000, {"count": 0}, "count=0"),
        (-1, {}, "outside"),
    ],
)
def test_what_cannot_be_shown_is_refused(boot: Boot, at: int | str | None, options: dict[str, int], said: str) -> None:
    """No such function, vCPU, width, number or place."""
    vm = boot()
    with pytest.raises(labkit.UsageError, match=said):
        vm.disassemble(at, **options)


def test_a_closed_machine_shows_nothing(boot: Boot) -> None:
    """Its memory is gone."""
    vm = boot()
    vm.close()
    for at in (None, 0x100000):
        with pytest.raises(labkit.UsageError, match="closed"):
            vm.disassemble(at)


def test_without_capstone_it_says_what_to_install(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    vm = boot()
    monkeypatch.setitem(sys.modules, "capstone", None)
    with pytest.raises(labkit.UsageError, match=r"pip install 'labkit\[debug\]'"):
        vm.disassemble()
