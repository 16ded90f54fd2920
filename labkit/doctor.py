"""What does this machine lack to run the lab, and how is it mended? It only looks: nothing is raised or changed."""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import os
import shutil
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labkit import abi, native
from labkit.cpu import CHOSEN_BY
from labkit.errors import HostError, LabkitError
from labkit.installation import BUILD_AGAIN, left_out, mend

GUESTS = ("agent", "storm", "spin", "ping", "journal")  # the first is needed, the others have their uses
OPTIONAL = {
    "pandas": "vm.trace.frame()",
    "matplotlib": "figures",
    "anywidget": "live views",
    "jupyterlab": "the lab",
    "perfetto": "vm.trace.perfetto()",
}
PROBE_LOOPS = 20_000
PROBE_INSTRUCTIONS = 2 * PROBE_LOOPS
EMULATED_NS = 50.0  # an instruction on hardware takes about 0.3 ns, an emulated one some hundreds
# mov ecx, PROBE_LOOPS; again: dec ecx; jnz again; out PORT_EXIT, al
PROBE_CODE = b"\xb9" + PROBE_LOOPS.to_bytes(4, "little") + b"\xff\xc9\x75\xfc\xe6" + bytes([abi.PORT_EXIT])


@dataclass(frozen=True)
class Check:
    """One line of the doctor. `mend` says what to do if it is missing; without `needed` the lab runs all the same."""

    name: str
    ok: bool
    detail: str
    mend: str = ""
    needed: bool = False


@dataclass(frozen=True)
class Report:
    """Everything looked at, and the back end that `cpu="auto"` would take; None if none can run."""

    checks: tuple[Check, ...]
    back_end: str | None

    @property
    def usable(self) -> bool:
        """Can a guest be booted here?"""
        return self.back_end is not None


def examine() -> Report:
    """Look at everything. Takes some milliseconds: a guest of four instructions is run."""
    built = tuple(_built())
    kvm, emulated = (tuple(_kvm()), tuple(_emulated())) if native.BUILT else ((), ())
    back_end = None
    if _all_needed(built):
        wanted = os.environ.get(CHOSEN_BY, "auto")
        runs = {"kvm": _all_needed(kvm), "emulated": _all_needed(emulated)}
        back_end = next((name for name, can in runs.items() if can and wanted in ("auto", name)), None)
    if back_end is not None:  # the other one is no lack
        kvm, emulated = (tuple(replace(check, needed=False) for check in checks) for checks in (kvm, emulated))
    return Report((*built, *kvm, *emulated, *_build_tools(), *_packages(), _qemu()), back_end)


def _all_needed(checks: tuple[Check, ...]) -> bool:
    return all(check.ok for check in checks if check.needed)


# -- KVM: the device, what it can do, and whether it does it ----------------------------------------------------------


def _kvm() -> Iterator[Check]:
    from labkit.cpu.kvm import DEVICE, open_device

    try:
        device = open_device()
    except HostError as error:
        said, _, hint = str(error).partition("; ")
        yield Check(DEVICE, False, said, hint, needed=True)
        return
    try:
        yield Check(DEVICE, True, "opened for reading and writing", needed=True)
        yield from _capabilities(device)
    except HostError as error:
        yield Check("KVM API", False, str(error), f"{DEVICE} is not KVM's device", needed=True)
        return
    finally:
        os.close(device)
    yield from _guest_runs()


def _capabilities(device: int) -> Iterator[Check]:
    from labkit.cpu.ioctl import ioctl
    from labkit.cpu.kvm import REQUIRED
    from labkit.native import lib

    newer = "a newer Linux kernel, or another host: this KVM cannot do it"
    version = ioctl(device, "KVM_GET_API_VERSION")
    yield Check("KVM API", version == lib.KVM_API_VERSION, f"version {version}", newer, needed=True)
    for name, purpose in REQUIRED.items():
        there = ioctl(device, "KVM_CHECK_EXTENSION", getattr(lib, name)) > 0
        yield Check(name, there, purpose, newer, needed=True)


def _guest_runs() -> Iterator[Check]:
    try:
        cost_ns = probe_instruction_ns()
    except LabkitError as error:
        mend = "another host, or a user who may create VMs on this one"
        yield Check("a guest runs", False, str(error), mend, needed=True)
        return
    emulated = cost_ns > EMULATED_NS
    how = "this KVM emulates guest code" if emulated else "this KVM runs guest code on the CPU"
    yield Check("a guest runs", True, f"{cost_ns:.1f} ns an instruction: {how}", needed=True)


def probe_instruction_ns() -> float:
    """What a guest instruction costs here, by running a countdown. HostError if KVM does not run it."""
    from labkit.cpu.entry import lab_entry
    from labkit.cpu.kvm import Kvm
    from labkit.memory import GuestMemory
    from labkit.pc.firmware import write_page_tables

    memory = GuestMemory(abi.MEMORY_MIN_MIB)
    try:
        write_page_tables(memory)
        memory.write(abi.GPA_IMAGE, PROBE_CODE)
        cpu = Kvm(memory, 1)
        try:
            vcpu = cpu.vcpus[0]
            vcpu.enter(lab_entry(abi.GPA_IMAGE, 0, 1, 0))
            return _run_ns(vcpu.native) / PROBE_INSTRUCTIONS
        finally:
            cpu.close()
    finally:
        memory.close()


def _run_ns(vcpu: Any) -> int:
    """Until its first exit, in this thread, which is an actor of no machine afterwards as before."""
    from labkit.native import lib

    actor = lib.lk_actor()
    lib.lk_vcpu_ask(vcpu, lib.ASK_RUN)
    start_ns = time.perf_counter_ns()
    left = lib.lk_kvm_run(vcpu)
    spent_ns = time.perf_counter_ns() - start_ns
    lib.lk_set_actor(actor)
    if left != lib.LEFT_IO:
        raise HostError("KVM_RUN", errno.EIO, f"the probe ended with exit reason {vcpu.exit.reason}")
    return spent_ns


# -- the emulated CPU -------------------------------------------------------------------------------------------------


def _emulated() -> Iterator[Check]:
    from labkit.cpu.emulated import load_library

    try:
        yield Check("emulated CPU", True, f"Unicorn {load_library()}", needed=True)
    except HostError as error:
        yield Check("emulated CPU", False, f"{error.call}: {error.name}", error.hint, needed=True)


# -- what was built, what builds it, and what is merely nice to have --------------------------------------------------


def _built() -> Iterator[Check]:
    why = left_out()
    core = native.WHERE if native.BUILT else why.get("core", native.WHERE)
    yield Check("C core", native.BUILT, core, "" if native.BUILT else mend("core"), needed=True)
    for name in GUESTS:
        there = (abi.GUEST_IMAGES / f"{name}.bin").is_file()
        detail = f"{name}.bin" if there else why.get("guests", f"{name}.bin is not built")
        again = mend("guests") if "guests" in why else BUILD_AGAIN
        yield Check(f"guest {name}", there, detail, again, needed=name == GUESTS[0])


def _build_tools() -> Iterator[Check]:
    command = os.environ.get("CC", "gcc").split()[0]
    yield _program(command, "C compiler", "gcc", "libc6-dev")
    yield _program("objdump", "binutils", "binutils")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    yield Check("Python headers", header.is_file(), str(header), _install("python3-dev"))


def _packages() -> Iterator[Check]:
    for name, purpose in OPTIONAL.items():
        there = importlib.util.find_spec(name) is not None
        detail = f"{_version(name)}, for {purpose}" if there else f"for {purpose}"
        yield Check(name, there, detail, f"pip install {name}")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "version unknown"


def _qemu() -> Check:
    return _program("qemu-system-x86_64", "QEMU, for labkit bench --peer qemu and make fidelity", "qemu-system-x86")


def _program(command: str, name: str, *packages: str) -> Check:
    path = shutil.which(command)
    return Check(name, path is not None, path or f"no {command} on the path", _install(*packages))


def _install(*packages: str) -> str:
    return f"on Debian or Ubuntu: {'' if os.getuid() == 0 else 'sudo '}apt-get install {' '.join(packages)}"
