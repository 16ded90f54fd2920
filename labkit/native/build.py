"""How is the C core compiled? One cffi module in API mode from decl/*.h (what Python sees) and the .c files beside."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ABI = ROOT / "guests" / "include" / "abi.h"

# Leaves first: each may use the types of those before it. The core's own code sees all of them through core.h.
DECLARATIONS = (
    *("events", "feed", "machine", "dirty", "device", "terminal", "pydevice"),
    *("host", "loop", "worker", "net", "vcpu", "gates", "irqchip", "emulated", "bench", "litmus"),
)
CALLED_BACK = """
extern "Python+C" int lk_python_handle(void *python, unsigned queue);
extern "Python+C" void lk_python_exit(void *python, lk_vcpu *vcpu);
extern "Python" void lk_python_look(void *python);
"""  # what C calls of Python
SOURCES = (
    *("feed", "machine", "dirty", "queue", "device", "blk", "net", "terminal", "pydevice"),
    *("kick", "host", "loop", "worker", "vcpu", "gates", "schedule", "bench", "bare", "litmus"),
)
EMULATED_SOURCES = (  # the emulated CPU; its library is looked for when it is used
    *("unicorn", "emulated", "emulated_turn", "emulated_io", "emulated_cpu", "emulated_frame"),
    *("emulated_state", "emulated_bare"),
    *("irqchip", "apic", "apic_timer", "ioapic", "pic"),
)
# The KVM back end is part of the core where the compiler takes KVM_PROBE, see `refused`.
KVM_DECLARATIONS = ("kvm", "kvm_api")  # the second, the kernel's own structs, is for cffi: C has <linux/kvm.h>
KVM_SOURCES = ("kvm", "kvm_irq", "kvm_bare")
KVM_PREAMBLE = """#include <linux/kvm.h>
#ifndef KVM_GET_STATS_FD /* headers older than Linux 5.14 */
#define KVM_GET_STATS_FD _IO(KVMIO, 0xce)
#endif
"""

# What a compiler must take for the core to be built, and for the KVM back end to be in it.
CORE_PROBE = "#include <Python.h>\n#include <sys/eventfd.h>\n"
KVM_PROBE = """#ifndef __x86_64__
#error KVM is used on x86-64 only
#endif
#include <linux/kvm.h>
int newest[] = {KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_IMMEDIATE_EXIT};
"""


def refused(program: str) -> str | None:
    """Why the compiler makes no extension module of a C program, in its own words; None if it does."""
    cc = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "gcc")
    flags = shlex.split(f"{os.environ.get('CPPFLAGS', '')} {os.environ.get('CFLAGS', '')}")
    headers = [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]
    with tempfile.TemporaryDirectory() as scratch:
        made = ["-shared", "-fPIC", "-o", f"{scratch}/probe.so", "-x", "c", "-"]
        try:
            done = subprocess.run(
                [*cc, *flags, *headers, *made], input=program, capture_output=True, text=True, check=False
            )
        except OSError as error:
            return f"no C compiler ({cc[0]}: {error.strerror})"
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    return f"{cc[0]}: {errors[0]}" if errors else f"no C compiler ({cc[0]} ends with {done.returncode})"


def declaration(path: Path) -> str:
    """Text of a header as cffi's parser takes it: no include guards."""
    return re.sub(r"^#(ifndef|endif|define LABKIT_ABI_H).*$", "", path.read_text(), flags=re.MULTILINE)


def builder() -> FFI:
    """The module: what Python sees of it, its sources and its flags."""
    has_kvm = refused(KVM_PROBE) is None
    ffi = FFI()
    for path in (ABI, *(HERE / "decl" / f"{name}.h" for name in DECLARATIONS + KVM_DECLARATIONS * has_kvm)):
        ffi.cdef(declaration(path))
    ffi.cdef(CALLED_BACK)
    extra = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g", "-O1"] if sanitized() else ["-O2"]
    ffi.set_source(
        "labkit.native._core",
        '#include "core.h"\n' + KVM_PREAMBLE * has_kvm,
        sources=[
            os.path.relpath(HERE / f"{name}.c", ROOT) for name in SOURCES + EMULATED_SOURCES + KVM_SOURCES * has_kvm
        ],
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
