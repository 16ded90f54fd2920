"""Can labkit be built here? Says exactly what to install where it cannot. Runs under any Python 3.7, before .venv."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig

OLDEST_PYTHON = (3, 11)
PROBE = "#include <Python.h>\n#include <linux/kvm.h>\n#include <sys/eventfd.h>\nint probe;\n"
MACHINES = ("x86_64", "aarch64")  # the second without KVM, and with a cross compiler for the guests
COMPILER_PACKAGES, BINUTILS_PACKAGES = ["gcc", "libc6-dev"], ["binutils"]
CROSS_COMPILER, CROSS_PACKAGE = "x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu"


def missing_parts():
    """Return (what is wrong, the Debian packages that mend it), two lists; both are empty if all is there."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return [f"labkit needs Linux on {' or '.join(MACHINES)}, this is {sys.platform} on {platform.machine()}"], []
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        found = f"{sys.executable} is {platform.python_version()}"
        return [f"Python {oldest} or newer is needed, {found}; name another: `make PYTHON=/path/to/python lab`"], []

    problems, packages = [], []
    stem = python_package()
    if not makes_environments():
        problems.append(f"{sys.executable} cannot make a virtual environment (no venv or ensurepip)")
        packages += [stem + "-venv"] if stem else []
    headers = os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
    if not headers:
        problems.append(f"{sys.executable} has no C header files (Python.h)")
        packages += [stem + "-dev"] if stem else []
    if problems and not stem:
        problems.append("that Python is not the system's: mend its installation, or `make PYTHON=/usr/bin/python3 lab`")

    compiler = os.environ.get("CC", "gcc").split()
    if not shutil.which(compiler[0]):
        problems.append(f"no C compiler ({compiler[0]})")
        packages += COMPILER_PACKAGES
    elif headers and not compiles(compiler):
        problems.append(f"{compiler[0]} finds no C library or no kernel headers (linux/kvm.h)")
        packages += ["libc6-dev"]
    if not shutil.which("objdump"):
        problems.append("no binutils (objdump)")
        packages += BINUTILS_PACKAGES
    if platform.machine() != "x86_64" and not shutil.which(CROSS_COMPILER):
        problems.append(f"no compiler for the guests, which are x86-64 ({CROSS_COMPILER})")
        packages += [CROSS_PACKAGE]
    return problems, packages


def python_package():
    """Return the stem of this Python's Debian packages ("python3", "python3.12"), or None if Debian did not make it."""
    interpreter = os.path.realpath(sys.executable)
    if interpreter == os.path.realpath("/usr/bin/python3"):
        return "python3"
    if os.path.dirname(interpreter) == "/usr/bin":
        return f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return None


def makes_environments():
    """Tell whether `python -m venv` will work: Debian keeps ensurepip, and the pip inside it, in packages apart."""
    try:
        import ensurepip
        import venv  # noqa: F401

        return bool(ensurepip.version())
    except Exception:  # noqa: BLE001 (whatever is wrong with it, it will not do)
        return False


def compiles(compiler):
    """Tell whether `compiler` (a command, in words) finds every header the C core includes."""
    command = [*compiler, "-fsyntax-only", "-I" + sysconfig.get_path("include"), "-x", "c", "-"]
    return subprocess.run(command, input=PROBE.encode(), capture_output=True, check=False).returncode == 0


def main():
    """Print what is missing and the one command that mends it; 1 if anything is. --packages: only the packages."""
    problems, packages = missing_parts()
    if sys.argv[1:] == ["--packages"]:
        print(" ".join(packages))
        return 0
    if not problems:
        return 0
    print("labkit cannot be built here yet:", file=sys.stderr)
    for problem in problems:
        print("  - " + problem, file=sys.stderr)
    if packages:
        sudo = "" if os.getuid() == 0 else "sudo "
        print("On Debian or Ubuntu this mends it:", file=sys.stderr)
        print(f"    {sudo}apt-get update && {sudo}apt-get install {' '.join(packages)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
