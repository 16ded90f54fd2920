"""Let QEMU play the scenarios of tests/oracle and write down what it did: the first part of `make fidelity`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from oracle import qemu, recording
from oracle.machines import fresh_qemu
from oracle.play import play_anew
from oracle.scenarios import SCENARIOS


def record() -> None:
    """The recording, made anew where there is the QEMU for it and KVM; elsewhere it stays."""
    problem = qemu.why_not() or ("" if qemu.accelerator() == "kvm" else "there is no KVM")
    if problem:
        print(f"the recording of QEMU stays as it is: {problem}")
        return
    recording.FILE.write_text(recording.to_text({scenario: play_anew(fresh_qemu, scenario) for scenario in SCENARIOS}))
    print(f"recorded {len(SCENARIOS)} scenarios")


if __name__ == "__main__":
    record()
