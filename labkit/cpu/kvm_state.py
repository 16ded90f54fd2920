"""What does KVM tell of a vCPU, and take back? Its structs as bytes; the kernel looks at every one that it is given.

What this host's KVM does not tell is left out, with its reason; loading leaves that as it is.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import cache
from struct import Struct
from typing import Any

from labkit.cpu.ioctl import ioctl
from labkit.cpu.state import Parts, check_parts
from labkit.errors import HostError, UsageError
from labkit.native import ffi, lib

# In the order of loading: control registers before what depends on the mode, the local APIC before its timer's MSR and
# before MP_STATE, and pending events last, since loading most others forgets some.
STRUCTS = {
    "SREGS": "struct kvm_sregs",
    "XCRS": "struct kvm_xcrs",
    "XSAVE": "struct kvm_xsave",
    "FPU": "struct kvm_fpu",
    "REGS": "struct kvm_regs",
    "DEBUGREGS": "struct kvm_debugregs",
    "LAPIC": "struct kvm_lapic_state",
    "MSRS": "",
    "MP_STATE": "struct kvm_mp_state",
    "VCPU_EVENTS": "struct kvm_vcpu_events",
}
MAY_LACK = frozenset({"XCRS", "XSAVE", "FPU", "DEBUGREGS", "MSRS"})
INSTEAD = {"FPU": "XSAVE"}  # not asked for where the other one is there, which holds it too
MSRS = {
    "TSC": 0x10,
    "SYSENTER_CS": 0x174,
    "SYSENTER_ESP": 0x175,
    "SYSENTER_EIP": 0x176,
    "PAT": 0x277,
    "STAR": 0xC0000081,
    "LSTAR": 0xC0000082,
    "CSTAR": 0xC0000083,
    "SYSCALL_MASK": 0xC0000084,
    "KERNEL_GS_BASE": 0xC0000102,
    "TSC_DEADLINE": 0x6E0,  # after TSC, by which it counts
}
MSR = Struct("<IQ")  # index and value in a part
MSR_LIST_MAX = 4096
DEVICE = "/dev/kvm"
CHIPS = ("PIC_MASTER", "PIC_SLAVE", "IOAPIC")


def save_vcpu(fd: int, index: int, left_out: list[str]) -> dict[str, bytes]:
    """Every part of a vCPU; what this KVM does not tell goes to `left_out`."""
    parts: dict[str, bytes] = {}
    for name, struct in STRUCTS.items():
        if INSTEAD.get(name) in parts:
            continue
        try:
            parts[name] = _get(fd, name, struct) if struct else _get_msrs(fd, index, left_out)
        except HostError as error:
            if name not in MAY_LACK:
                raise
            left_out.append(f"vCPU {index}: {name} ({error.call}: {error.name})")
    return parts


def check_vcpu(parts: Parts, index: int) -> None:
    """UsageError unless they are the parts of a vCPU. What is in them the kernel looks at."""
    whose = f"vCPU {index}"
    sizes = {name: ffi.sizeof(struct) for name, struct in STRUCTS.items() if struct}
    data = parts.get("MSRS", b"")
    check_parts(parts, {**sizes, "MSRS": len(data)}, whose, MAY_LACK)
    numbers = [number for number, _ in _msrs(data)] if len(data) % MSR.size == 0 else [-1]
    if len(numbers) > len(set(numbers) & set(MSRS.values())):  # each at most once: the kernel takes no long lists
        raise UsageError(f"MSRS of {whose} in the CPU state are not those that belong to one")


class Prepared:
    """Parts of one vCPU as structs, ready for the kernel: a state that is loaded often is taken apart once."""

    def __init__(self, parts: Parts, index: int) -> None:
        self.parts, self._index = parts, index
        structs = {name: ffi.from_buffer(parts[name]) for name in STRUCTS if name in parts}
        if "MSRS" in parts:
            structs["MSRS"] = _msr_struct(parts["MSRS"])
        self._structs = structs  # a load only points there
        loads = [(getattr(lib, f"KVM_SET_{name}"), struct) for name, struct in structs.items()]
        self.loads = ffi.new("lk_load[]", loads)

    def load(self, fd: int) -> None:
        """As `load_vcpu`, in one call; one by one if the kernel refuses any, to tell which."""
        if lib.lk_kvm_load(fd, self.loads, len(self.loads)) < len(self.loads):
            load_vcpu(fd, self.parts, self._index)


def load_vcpu(fd: int, parts: Parts, index: int) -> None:
    """Checked parts into a vCPU that is out of the guest, nothing half done. UsageError: the kernel refused one."""
    for name, struct in STRUCTS.items():
        if name not in parts:
            continue
        if struct:
            _set(fd, f"KVM_SET_{name}", ffi.from_buffer(parts[name]), f"{name} of vCPU {index}")
        else:
            _set_msrs(fd, parts[name], index)


def save_chips(fd: int) -> dict[str, bytes]:
    """State of the full irqchip of a VM: both PICs and the I/O APIC."""
    parts = {}
    for name in CHIPS:
        chip = ffi.new("struct kvm_irqchip *", {"chip_id": getattr(lib, f"KVM_IRQCHIP_{name}")})
        ioctl(fd, "KVM_GET_IRQCHIP", chip)
        parts[name] = bytes(ffi.buffer(chip))
    return parts


def check_chips(parts: Parts, *, full: bool) -> None:
    """UsageError unless they are those of a machine with a full irqchip, or of one without."""
    size = ffi.sizeof("struct kvm_irqchip")
    check_parts(parts, dict.fromkeys(CHIPS, size) if full else {}, "the interrupt controllers")


def load_chips(fd: int, parts: Parts) -> None:
    """Checked parts into the VM; which chip a part is of, its name says."""
    for name in parts:
        chip = _struct("struct kvm_irqchip", parts[name])
        chip.chip_id = getattr(lib, f"KVM_IRQCHIP_{name}")
        _set(fd, "KVM_SET_IRQCHIP", chip, name)


def _get(fd: int, name: str, struct: str) -> bytes:
    found = ffi.new(f"{struct} *")
    ioctl(fd, f"KVM_GET_{name}", found)
    return bytes(ffi.buffer(found))


def _struct(struct: str, data: bytes) -> Any:
    made = ffi.new(f"{struct} *")
    ffi.memmove(made, data, ffi.sizeof(struct))
    return made


def _set(fd: int, call: str, struct: Any, what: str) -> None:
    try:
        ioctl(fd, call, struct)
    except HostError as error:
        if error.errno != errno.EINVAL:
            raise
        raise UsageError(f"{what} in the CPU state: the kernel refuses it ({call}: {error.name})") from error


@cache
def _listed() -> frozenset[int]:
    """The MSRs that this host's KVM says are a vCPU's state."""
    found = ffi.new("struct kvm_msr_list *", {"nmsrs": MSR_LIST_MAX, "indices": MSR_LIST_MAX})
    with open(DEVICE, "rb", buffering=0) as kvm:
        ioctl(kvm.fileno(), "KVM_GET_MSR_INDEX_LIST", found)
    return frozenset(found.indices[i] for i in range(found.nmsrs))


def _get_msrs(fd: int, index: int, left_out: list[str]) -> bytes:
    """As many at once as KVM tells: it stops at the first that it does not."""
    wanted, found = [name for name in MSRS if MSRS[name] in _listed()], b""
    left_out += [f"vCPU {index}: MSR {name} (not listed)" for name in MSRS if name not in wanted]
    while wanted:
        entries, done = [{"index": MSRS[name]} for name in wanted], 0
        msrs = ffi.new("struct kvm_msrs *", {"nmsrs": len(wanted), "entries": entries})
        with suppress(HostError):
            done = ioctl(fd, "KVM_GET_MSRS", msrs)
        found += b"".join(MSR.pack(msrs.entries[i].index, msrs.entries[i].data) for i in range(done))
        left_out += [f"vCPU {index}: MSR {name} (refused)" for name in wanted[done : done + 1]]
        wanted = wanted[done + 1 :]
    return found


def _msrs(data: bytes) -> list[tuple[int, int]]:
    return list(MSR.iter_unpack(data))


def _msr_struct(data: bytes) -> Any:
    entries = [{"index": number, "data": value} for number, value in _msrs(data)]
    return ffi.new("struct kvm_msrs *", {"nmsrs": len(entries), "entries": entries})


def _set_msrs(fd: int, data: bytes, index: int) -> None:
    done = ioctl(fd, "KVM_SET_MSRS", _msr_struct(data))
    if done < len(_msrs(data)):
        number, value = _msrs(data)[done]
        raise UsageError(f"MSR {number:#x} of vCPU {index} in the CPU state: the kernel refuses {value:#x}")
