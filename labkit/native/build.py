"""How is the C core compiled? One cffi module in API mode from decl/*.h (what Python sees) and the .c files beside."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ABI = ROOT / "guests" / "include" / "abi.h"

# Leaves first: each may use the types of those before it. The core's own code sees all of them through core.h.
DECLARATIONS = (
    *("events", "feed", "machine", "device", "terminal", "pydevice"),
    *("host", "loop", "worker", "net", "vcpu", "irqchip", "emulated", "bench", "kvm"),
)
CALLED_BACK = """
extern "Python+C" int lk_python_handle(void *python, unsigned queue);
extern "Python+C" void lk_python_exit(void *python, lk_vcpu *vcpu);
"""  # what C calls of Python
KERNEL = ("kvm_api",)  # the kernel's own structs: only cffi needs these declarations, C has <linux/kvm.h>
CORE = (  # everything but those who execute guest code
    *("feed", "machine", "queue", "device", "blk", "net", "terminal", "pydevice"),
    *("kick", "host", "loop", "worker", "vcpu", "bench"),
)
EMULATED = (
    *("unicorn", "emulated", "emulated_io", "emulated_cpu", "emulated_frame"),
    *("irqchip", "apic", "apic_timer", "ioapic", "pic"),
)
KVM = ("kvm", "kvm_irq", "kvm_bare")
SOURCES = (*CORE, *EMULATED, *KVM)


def declaration(path: Path) -> str:
    """Text of a header as cffi's parser takes it: no include guards."""
    return re.sub(r"^#(ifndef|endif|define LABKIT_ABI_H).*$", "", path.read_text(), flags=re.MULTILINE)


def builder() -> FFI:
    """The module: what Python sees of it, its sources and its flags."""
    ffi = FFI()
    for path in (ABI, *(HERE / "decl" / f"{name}.h" for name in (*DECLARATIONS, *KERNEL))):
        ffi.cdef(declaration(path))
    ffi.cdef(CALLED_BACK)
    extra = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g", "-O1"] if sanitized() else ["-O2"]
    ffi.set_source(
        "labkit.native._core",
        '#include "core.h"\n#include <linux/kvm.h>\n',
        sources=[os.path.relpath(HERE / f"{name}.c", ROOT) for name in SOURCES],
        include_dirs=[str(HERE), str(ABI.parent)],
        depends=[str(path) for path in (ABI, *HERE.glob("*.h"), *HERE.glob("decl/*.h"))],
        extra_compile_args=["-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden", *extra],
        extra_link_args=["-fsanitize=address,undefined"] if sanitized() else [],
        libraries=["pthread", "dl"],
    )
    return ffi


def sanitized() -> bool:
    """LABKIT_SANITIZE=1 builds the core with the address and undefined-behaviour sanitizers."""
    return os.environ.get("LABKIT_SANITIZE") == "1"


ffibuilder = builder()
