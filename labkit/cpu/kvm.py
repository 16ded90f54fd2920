"""How is a guest run by the Linux kernel? The KVM ioctls, each error with its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from labkit.abi import NUMBERS
from labkit.cpu import Message, Serve, kvm_state
from labkit.cpu.entry import CODE_SELECTOR, DATA_SELECTOR, Entry
from labkit.cpu.ioctl import ioctl
from labkit.cpu.state import CpuState, Parts
from labkit.cpu.statistics import read_statistics
from labkit.errors import HostError, UsageError
from labkit.installation import missing
from labkit.memory import GuestMemory
from labkit.native import HAS_KVM, ffi, lib

DEVICE = kvm_state.DEVICE
TSS_GPA = 0xFFFBD000  # three pages Intel hosts need; in the hole below 4 GiB
PIC_ALL_MASKED = 0xFF
BYTES_OF_A_WORD = 64 * NUMBERS["PAGE_BYTES"]  # of the dirty log: what a word of it tells of
CPUID_ENTRIES = 256
CODE_TYPE, DATA_TYPE, TSS_TYPE = 11, 3, 11  # execute/read/accessed, read/write/accessed, busy TSS
LEAF_FEATURES, LEAF_TOPOLOGY = 1, 0xB

REQUIRED = {
    "KVM_CAP_USER_MEMORY": "guest memory",
    "KVM_CAP_SPLIT_IRQCHIP": "a local APIC in the kernel, without the slow full irqchip",
    "KVM_CAP_IOEVENTFD": "kicks by eventfd",
    "KVM_CAP_IRQFD": "interrupts by eventfd",
    "KVM_CAP_IRQ_ROUTING": "MSI routes",
    "KVM_CAP_IMMEDIATE_EXIT": "getting a vCPU out without losing a signal",
}


class NoKvm(HostError):
    """KVM cannot be used here at all: another back end may do."""


def open_device() -> int:
    """Open /dev/kvm. NoKvm says what is missing: this back end, the device or the permission."""
    if not HAS_KVM:
        raise missing("kvm", kind=NoKvm)
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as error:
        hint = "ask for access: sudo usermod -aG kvm $USER, then log in again"
        raise NoKvm(f"open({DEVICE})", error.errno or 0, hint) from error
    except OSError as error:
        hint = "no KVM here: load kvm_intel or kvm_amd, or pass --device /dev/kvm to the container"
        raise NoKvm(f"open({DEVICE})", error.errno or 0, hint) from error


_FRESH: dict[int, dict[str, Any]] = {}  # index of a vCPU -> its state at power-on; never written to


@cache
def _cpuid(index: int) -> Any:
    """What this host's KVM supports, with the APIC id of vCPU `index` in it; the slowest ioctl of a boot."""
    device = open_device()
    try:
        cpuid = ffi.new("struct kvm_cpuid2 *", {"nent": CPUID_ENTRIES, "entries": CPUID_ENTRIES})
        ioctl(device, "KVM_GET_SUPPORTED_CPUID", cpuid)
    finally:
        os.close(device)
    for i in range(cpuid.nent):
        entry = cpuid.entries[i]
        if entry.function == LEAF_FEATURES:
            entry.ebx = entry.ebx & 0x00FFFFFF | index << 24
        elif entry.function == LEAF_TOPOLOGY:
            entry.edx = index
    return cpuid


@cache
def _run_page_bytes() -> int:
    device = open_device()
    try:
        return ioctl(device, "KVM_GET_VCPU_MMAP_SIZE")
    finally:
        os.close(device)


def _create_vm(device: int) -> int:
    try:
        return ioctl(device, "KVM_CREATE_VM")
    except HostError as error:
        raise NoKvm(error.call, error.errno, f"{DEVICE} is there and makes no virtual machine") from error


class Kvm:
    """A virtual machine of KVM with a split irqchip: local APICs in the kernel, MSI only.

    With `intx` a full irqchip: an I/O APIC and two PICs beside the local APICs, which costs 5 to 11 ms more.
    """

    name = "kvm"

    def __init__(self, memory: GuestMemory, vcpus: int, *, intx: bool = False) -> None:
        self.vcpus: list[KvmVcpu] = []
        self._fd = -1
        self._pins = NUMBERS["IOAPIC_PINS"] if intx else 0  # lines of the full irqchip; messages are routed after them
        self._controllers: list[Any] = []  # their state at power-on
        device = open_device()
        try:
            if (failed := lib.lk_kvm_install_signal()) < 0:
                raise HostError("sigaction", -failed, "the signal labkit uses is taken")
            self._fd = _create_vm(device)
            self._set_up(memory)
            for index in range(vcpus):
                self.vcpus.append(KvmVcpu(self._fd, memory, index))
        except BaseException:
            self.close()
            raise
        finally:
            os.close(device)
        self.tsc_khz = ioctl(self.vcpus[0].fd, "KVM_GET_TSC_KHZ")

    def _set_up(self, memory: GuestMemory) -> None:
        ioctl(self._fd, "KVM_SET_TSS_ADDR", TSS_GPA)
        if self._pins:
            self._create_controllers()
            lib.lk_kvm_wire_lines(memory.native)
        else:
            pins = [NUMBERS["IOAPIC_PINS"]]
            split = ffi.new("struct kvm_enable_cap *", {"cap": lib.KVM_CAP_SPLIT_IRQCHIP, "args": pins})
            ioctl(self._fd, "KVM_ENABLE_CAP", split)
        region = {
            "memory_size": memory.size_bytes,
            "userspace_addr": int(ffi.cast("uintptr_t", memory.native.memory.host)),
        }
        self._region = ffi.new("struct kvm_userspace_memory_region *", region)
        ioctl(self._fd, "KVM_SET_USER_MEMORY_REGION", self._region)

    def log_writes(self, on: bool) -> None:
        """KVM_MEM_LOG_DIRTY_PAGES of the one memory slot."""
        self._region.flags = lib.KVM_MEM_LOG_DIRTY_PAGES if on else 0
        ioctl(self._fd, "KVM_SET_USER_MEMORY_REGION", self._region)
        if on:
            self._bitmap = ffi.new("uint64_t[]", -(-self._region.memory_size // BYTES_OF_A_WORD))
            self._log = ffi.new("struct kvm_dirty_log *", {"dirty_bitmap": self._bitmap})

    def written(self) -> Any:
        """KVM_GET_DIRTY_LOG, which clears what it tells."""
        ioctl(self._fd, "KVM_GET_DIRTY_LOG", self._log)
        return self._bitmap

    def _create_controllers(self) -> None:
        try:
            ioctl(self._fd, "KVM_CREATE_IRQCHIP")
        except HostError as error:
            hint = 'this kernel has no I/O APIC to offer: irq="msix" and irq="poll" do without'
            raise HostError(error.call, error.errno, hint) from error
        self._controllers = [self._fresh_controller(getattr(lib, f"KVM_IRQCHIP_{chip}")) for chip in kvm_state.CHIPS]

    def _fresh_controller(self, chip: int) -> Any:
        """State of an interrupt controller nobody has touched; a PIC with all lines masked, as firmware leaves it."""
        state = ffi.new("struct kvm_irqchip *", {"chip_id": chip})
        ioctl(self._fd, "KVM_GET_IRQCHIP", state)
        if chip != lib.KVM_IRQCHIP_IOAPIC:
            state.chip.pic.imr = PIC_ALL_MASKED
        return state

    @property
    def threads(self) -> list[str]:
        """One for each vCPU."""
        return [f"vcpu{vcpu.index}" for vcpu in self.vcpus]

    def run(self, thread: int, serve: Serve) -> None:
        """The life of a vCPU's thread: in the guest, but for the exits that are served in Python."""
        vcpu = self.vcpus[thread].native
        while lib.lk_kvm_run(vcpu) != lib.LEFT_QUIT:
            serve(vcpu)

    def held(self) -> AbstractContextManager[None]:
        """Nothing: vCPUs run when the kernel lets them."""
        return nullcontext()

    def power_on(self) -> None:
        """Interrupt controllers as at power-on: no pin of the I/O APIC leads anywhere, nothing is in service."""
        for state in self._controllers:
            ioctl(self._fd, "KVM_SET_IRQCHIP", state)

    def save(self) -> CpuState:
        """What every vCPU is, and the full irqchip. The vCPUs are settled."""
        left_out: list[str] = []
        vcpus = tuple(kvm_state.save_vcpu(vcpu.fd, vcpu.index, left_out) for vcpu in self.vcpus)
        shared = kvm_state.save_chips(self._fd) if self._pins else {}
        return CpuState(self.name, vcpus, shared, tuple(left_out))

    def check(self, state: CpuState) -> None:
        """UsageError: it is no state of such a machine, as far as can be told without the kernel."""
        state.check(self.name, len(self.vcpus))
        for index, parts in enumerate(state.vcpus):
            kvm_state.check_vcpu(parts, index)
        kvm_state.check_chips(state.shared, full=self._pins > 0)

    def load(self, state: CpuState, *, known: bool = False) -> None:
        """Become what was saved. UsageError, and nothing is changed, if it was not a state of such a machine."""
        if known:
            kvm_state.load_chips(self._fd, state.shared)
            for vcpu, parts in zip(self.vcpus, state.vcpus, strict=True):
                vcpu.load(parts)
        else:
            self._try(state)
        for vcpu in self.vcpus:
            lib.lk_vcpu_load(vcpu.native, ffi.NULL, 0)

    def _try(self, state: CpuState) -> None:
        """Whether the kernel takes it, only the kernel knows: so it is told what was there again, if not."""
        self.check(state)
        before = self.save()
        try:
            self._load(state)
        except (UsageError, HostError):
            self._load(before)
            raise

    def _load(self, state: CpuState) -> None:
        """The controllers first: with them local APICs may still get what they then lose to their own state."""
        kvm_state.load_chips(self._fd, state.shared)
        for vcpu, parts in zip(self.vcpus, state.vcpus, strict=True):
            kvm_state.load_vcpu(vcpu.fd, parts, vcpu.index)

    @property
    def line_fd(self) -> int:
        """The VM, whose KVM_IRQ_LINE the C core calls; -1 with the split irqchip, which has no lines."""
        return self._fd if self._pins else -1

    def assign(self, port: int, length: int, value: int, fd: int) -> None:
        """KVM_IOEVENTFD: this exact write signals `fd` and the vCPU goes on."""
        self._ioeventfd(port, length, value, fd, 0)

    def deassign(self, port: int, length: int, value: int, fd: int) -> None:
        """The same tuple with DEASSIGN; the kernel waits until no vCPU can still signal."""
        self._ioeventfd(port, length, value, fd, lib.KVM_IOEVENTFD_FLAG_DEASSIGN)

    def _ioeventfd(self, port: int, length: int, value: int, fd: int, more: int) -> None:
        flags = lib.KVM_IOEVENTFD_FLAG_DATAMATCH | lib.KVM_IOEVENTFD_FLAG_PIO | more
        kick = {"addr": port, "len": length, "datamatch": value, "fd": fd, "flags": flags}
        ioctl(self._fd, "KVM_IOEVENTFD", ffi.new("struct kvm_ioeventfd *", kick))

    def bind_vector(self, vector: int, fd: int) -> None:
        """KVM_IRQFD: the GSIs of the routing table stand for the vectors, behind the lines if there are any.

        Closing the eventfd undoes it.
        """
        ioctl(self._fd, "KVM_IRQFD", ffi.new("struct kvm_irqfd *", {"fd": fd, "gsi": self._pins + vector}))

    def route(self, messages: Sequence[Message]) -> None:
        """KVM_SET_GSI_ROUTING: the whole table at once; costs the kernel a grace period."""
        addresses = [address for address, _ in messages]
        data = [data for _, data in messages]
        result = lib.lk_kvm_set_routes(self._fd, self._pins, len(messages), addresses, data)
        if result < 0:
            raise HostError("KVM_SET_GSI_ROUTING", -result)

    def statistics(self) -> dict[str, int]:
        """Counters of KVM_GET_STATS_FD, summed over the vCPUs: exits, io_exits, halt_exits, irq_injections ..."""
        total: dict[str, int] = {}
        for vcpu in self.vcpus:
            fd = ioctl(vcpu.fd, "KVM_GET_STATS_FD")
            try:
                for name, value in read_statistics(fd).items():
                    total[name] = total.get(name, 0) + value
            finally:
                os.close(fd)
        return total

    def close(self) -> None:
        """Close vCPUs and VM; the kernel drops every registration with the VM."""
        while self.vcpus:
            self.vcpus.pop().close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class KvmVcpu:
    """One vCPU: its file, its run page, and its lk_vcpu in the C core."""

    def __init__(self, vm_fd: int, memory: GuestMemory, index: int) -> None:
        self.index = index
        self._page: Any = ffi.NULL
        self.native: Any = ffi.NULL
        self.fd = ioctl(vm_fd, "KVM_CREATE_VCPU", index)
        try:
            self._page = lib.lk_map_shared(self.fd, _run_page_bytes())
            if self._page == ffi.NULL:
                raise HostError("mmap(vcpu)", ffi.errno)
            self.native = lib.lk_kvm_vcpu_new(memory.native, index, self.fd, self._page)
            ioctl(self.fd, "KVM_SET_CPUID2", _cpuid(index))
            self._fresh = self._fresh_state()
            self._entry: Entry | None = None
            self._structs: dict[str, Any] = {}
            self._loads: Any = ffi.NULL
            self._prepared: kvm_state.Prepared | None = None  # the known state that was loaded last
        except BaseException:
            self.close()
            raise

    def _fresh_state(self) -> dict[str, Any]:
        """State of a vCPU nobody has run yet, what a reset goes back to. Of all with one index the same: asked once."""
        if self.index not in _FRESH:
            state = {
                "KVM_{}_SREGS": ffi.new("struct kvm_sregs *"),
                "KVM_{}_LAPIC": ffi.new("struct kvm_lapic_state *"),
                "KVM_{}_VCPU_EVENTS": ffi.new("struct kvm_vcpu_events *"),
            }
            for name, struct in state.items():
                ioctl(self.fd, name.format("GET"), struct)
            _FRESH[self.index] = state
        return _FRESH[self.index]

    def enter(self, entry: Entry) -> None:
        """Registers, local APIC, pending events and halt state as at power-on, then the entry's own."""
        if self._entry is not entry:
            self._prepare(entry)
        lib.lk_vcpu_load(self.native, self._loads, len(self._loads))

    def _prepare(self, entry: Entry) -> None:
        """The structs of an entry; made once, since a reset loads the same ones again."""
        runs = lib.KVM_MP_STATE_UNINITIALIZED if entry.waits_for_sipi else lib.KVM_MP_STATE_RUNNABLE
        self._structs = {
            **self._fresh,
            "KVM_{}_SREGS": self._entry_sregs(entry),
            "KVM_{}_REGS": ffi.new("struct kvm_regs *", {"rip": entry.rip, "rflags": 2, **entry.registers}),
            "KVM_{}_MP_STATE": ffi.new("struct kvm_mp_state *", {"mp_state": runs}),
        }
        self._loads = ffi.new(
            "lk_load[]", [(getattr(lib, name.format("SET")), struct) for name, struct in self._structs.items()]
        )
        self._entry = entry

    @property
    def entry_structs(self) -> tuple[Any, Any]:
        """kvm_regs and kvm_sregs of the last entry: all that the bench's bare reset loads."""
        return self._structs["KVM_{}_REGS"], self._structs["KVM_{}_SREGS"]

    def _entry_sregs(self, entry: Entry) -> Any:
        sregs = ffi.new("struct kvm_sregs *", self._fresh["KVM_{}_SREGS"][0])
        code = _segment(CODE_SELECTOR, CODE_TYPE, long_mode=entry.long_mode)
        data = _segment(DATA_SELECTOR, DATA_TYPE)
        sregs.cs = code[0]
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data[0]
        sregs.tr.type, sregs.tr.present = TSS_TYPE, 1
        for name, value in entry.control.items():
            setattr(sregs, name, value)
        return sregs

    def load(self, parts: Parts) -> None:
        """What is known to be good; taken apart once, for it may be loaded often."""
        if self._prepared is None or self._prepared.parts is not parts:
            self._prepared = kvm_state.Prepared(parts, self.index)
        self._prepared.load(self.fd)

    def registers(self) -> dict[str, int]:
        """General registers, RIP and RFLAGS."""
        regs = ffi.new("struct kvm_regs *")
        ioctl(self.fd, "KVM_GET_REGS", regs)
        return {name: int(getattr(regs, name)) for name, _ in ffi.typeof("struct kvm_regs").fields}

    def close(self) -> None:
        """Unmap and close; the vCPU thread is gone by then."""
        lib.lk_vcpu_free(self.native)
        self.native = ffi.NULL
        if self._page != ffi.NULL:
            lib.lk_unmap(self._page, _run_page_bytes())
            self._page = ffi.NULL
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _segment(selector: int, kind: int, *, long_mode: bool = False) -> Any:
    flat = {"limit": 0xFFFFFFFF, "selector": selector, "type": kind, "present": 1, "s": 1, "g": 1}
    return ffi.new("struct kvm_segment *", {**flat, "l": int(long_mode), "db": int(not long_mode)})
