"""How does a file come to be whole? Written beside its place, then moved there: all of it, or nothing."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from labkit.errors import HostError, UsageError

HOST_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def write_whole(path: str | os.PathLike[str], what: str, content: bytes) -> None:
    """`what` names it in errors. UsageError: it cannot be there. HostError: the disk is full or fails."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with open(beside, "xb") as file:
            file.write(content)
        os.replace(beside, path)
    except OSError as error:
        if error.errno in HOST_FAILED:
            raise HostError("write", error.errno, f"{what} {path} was not written") from error
        raise UsageError(f"{what} {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):  # gone, or its name was too long to be there
            beside.unlink()
