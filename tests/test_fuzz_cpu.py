"""Can a guest take the process with it? Random bytes as code on the emulated CPU, on two vCPUs and in both modes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import much, report

PROGRAMS = much(150, 10_000)
SEEDS = (1, 2)

# Instructions that change what the CPU is, beside any others: prefixes, far jumps, segments, control registers, ports.
LIKELY = b"\x0f\x48\x66\xcd\xe7\xef\xf3\x8e\xc7\x89\x8b\xff\x41\xea\xcf\xf4\xfb\x22\x01"

HOST = """
import os, random, sys
import labkit
from labkit.loader import Image, Segment

seed, programs, likely = int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3])
chance, ends = random.Random(seed), {}
vm = labkit.boot("blk", cpu="emulated", vcpus=2, irq="intx")
board, agent, gpa = vm._board, vm._board.plan.image, 0x100000


def load(image):
    board.plan = board.plan._replace(image=image)
    board.__dict__.pop("_entries", None)
    board.owner.call(board.reset)


def any_code():
    return bytes(chance.choice(likely) if chance.random() < 0.3 else chance.randrange(256) for _ in range(4096))


for program in range(programs):
    load(Image("any", (Segment(gpa, any_code(), 4096),), gpa + 32, chance.random() < 0.5))
    for _ in range(100):  # some thousand instructions; one that halts for ever is left alone
        if vm.state != "running":
            break
        os.sched_yield()
    ends[vm.state] = ends.get(vm.state, 0) + 1
    if program % 50 == 49:
        load(agent)
        assert vm.guest.read(0).startswith(b"labkit")
vm.close()
print(sorted(ends.items()))
"""


@pytest.mark.emulated
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_any_bytes_leave_the_process_and_the_machine_usable(tmp_path: Path, seed: int) -> None:
    """Each program ends in a crash that is told, or goes on until it is stopped; a reset brings the agent back."""
    script = tmp_path / "host.py"
    script.write_text(HOST)
    command = [sys.executable, str(script), str(seed), str(PROGRAMS), LIKELY.hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "crashed" in done.stdout
    report(f"cpu seed {seed}: {PROGRAMS} programs, {done.stdout.strip()}")
