"""How is the recording made anew, and the table in the docs? `make fidelity`: QEMU plays every scenario once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))  # where `oracle` is found, as conftest.py does for the tests

from oracle import qemu, recording, report
from oracle.differences import DIFFERENCES
from oracle.machines import QemuMachine, play_anew
from oracle.scenarios import SCENARIOS

PAGE = Path(__file__).parent.parent.parent / "docs" / "fidelity.md"


@contextmanager
def fresh_qemu() -> Iterator[QemuMachine]:
    """A QEMU of one's own."""
    with qemu.Qemu() as process:
        yield QemuMachine(process)


def table() -> str:
    """The table of what is recorded and of the differences that are listed; the tests hold both machines to them."""
    recorded = recording.read()
    return report.scenario_table([report.Result(s, recorded[s.name], DIFFERENCES.get(s.name)) for s in SCENARIOS])


def main() -> None:
    """Record, and write the table."""
    problem = qemu.why_not() or ("" if qemu.accelerator() == "kvm" else "the recording needs KVM")
    if problem:
        sys.exit(problem)
    recording.FILE.write_text(recording.to_text({s: play_anew(fresh_qemu, s) for s in SCENARIOS}))
    report.write(PAGE, table())


if __name__ == "__main__":
    main()
