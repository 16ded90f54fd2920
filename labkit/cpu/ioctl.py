"""How is the kernel asked? An ioctl by its name, and its error with that name."""

from __future__ import annotations

from typing import Any

from labkit.errors import HostError
from labkit.native import lib


def ioctl(fd: int, name: str, argument: Any = None) -> int:
    """An ioctl by its name, with a struct or a number. HostError names it."""
    if isinstance(argument, int) or argument is None:
        result = lib.lk_ioctl_value(fd, getattr(lib, name), argument or 0)
    else:
        result = lib.lk_ioctl(fd, getattr(lib, name), argument)
    if result < 0:
        raise HostError(name, -result)
    return int(result)
