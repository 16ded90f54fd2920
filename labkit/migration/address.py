"""Where is the other side? At a unix socket's path, or at a TCP port of this machine or another."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import stat
from typing import Any, NamedTuple

from labkit.errors import UsageError
from labkit.migration.bell import LOOK_UP_S
from labkit.threads import Thread

UNIX_PATH_MAX_BYTES = 107  # sun_path without its zero byte
PORT_MAX = 0xFFFF
LOOPBACK = "127.0.0.1"
FORMS = "unix:PATH, tcp:PORT (this machine), tcp:HOST:PORT or tcp:[IPv6]:PORT"

TCP = re.compile(r"(?:(?P<host>[^:\[\]]*|\[[^\[\]]+\]):)?(?P<port>[0-9]{1,5})", re.ASCII)
NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?", re.ASCII)

Place = tuple[int, tuple[Any, ...] | str]  # family, and what connect and bind take


class Address(NamedTuple):
    """One end's address. `kind` says which half counts: `path`, or `host` (an IPv6 one without brackets) and `port`."""

    kind: str
    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Does it stay on this machine? A name does if all its addresses do. UsageError: the name is not known."""
        return all_loopback(self.places())

    def places(self) -> list[Place]:
        """Where that is, in the order to try. UsageError: the name is not known. Ctrl-C ends the question."""
        if self.kind == "unix":
            return [(socket.AF_UNIX, self.path)]
        answer = _look_up(self.host, self.port)
        if isinstance(answer, OSError):
            raise UsageError(f"{self}: {answer.strerror}") from answer
        return answer


def parse(text: str) -> Address:
    """What `text` means. UsageError: none of the forms, a path too long, a port over 65535."""
    kind, colon, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
    if colon and kind == "unix":
        return Address("unix", path=_checked_path(rest, text))
    match = TCP.fullmatch(rest) if kind == "tcp" else None
    if match is None:
        raise UsageError(f"address {text!r}: it is {FORMS}")
    port = int(match["port"])
    if port > PORT_MAX:
        raise UsageError(f"address {text!r}: a port is at most {PORT_MAX}")
    return Address("tcp", host=_checked_host(match["host"] or LOOPBACK, text), port=port)


def all_loopback(places: list[Place]) -> bool:
    """Does each of them stay on this machine? A unix socket does."""
    return all(family == socket.AF_UNIX or _is_loopback(str(where[0])) for family, where in places)


def make_room(address: Address) -> None:
    """Remove what an ended listener left at the path. UsageError: a living one is there, or no socket.

    A datagram socket asks: the kernel refuses it in another way if anybody is there, who never hears of it.
    """
    if identity(address.path) == (0, 0):
        return
    if not stat.S_ISSOCK(os.lstat(address.path).st_mode):
        raise UsageError(f"{address}: a file is there, and it is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as question:
        number = question.connect_ex(address.path)
    if number != errno.ECONNREFUSED:
        why = "somebody listens there" if number in (0, errno.EPROTOTYPE) else os.strerror(number)
        raise UsageError(f"{address}: {why}")
    os.unlink(address.path)


def identity(path: str) -> tuple[int, int]:
    """Which file is there; zeros for none."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _is_loopback(literal: str) -> bool:
    number = ipaddress.ip_address(literal)
    mapped = number.ipv4_mapped if isinstance(number, ipaddress.IPv6Address) else None
    return (mapped or number).is_loopback


def _checked_path(path: str, text: str) -> str:
    if not path or "\0" in path:
        raise UsageError(f"address {text!r}: no path; it is {FORMS}")
    if (size := len(os.fsencode(path))) > UNIX_PATH_MAX_BYTES:
        raise UsageError(
            f"address {text!r}: a socket's path has at most {UNIX_PATH_MAX_BYTES} bytes, not {size}; take a shorter one"
        )
    return path


def _checked_host(host: str, text: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError as error:
            raise UsageError(f"address {text!r}: {host} is no IPv6 address") from error
    if NAME.fullmatch(host) is None:
        raise UsageError(f"address {text!r}: {host!r} is no name and no IPv4 address; it is {FORMS}")
    return host


def _look_up(host: str, port: int) -> list[Place] | OSError:
    """Ask in a thread: the library's own wait for a name server would keep Ctrl-C waiting."""
    try:
        ipaddress.ip_address(host)
        return _ask(host, port)
    except ValueError:
        answers: list[list[Place] | OSError] = []
        asking = Thread(lambda: answers.append(_ask(host, port)), "name")
        while not asking.join(LOOK_UP_S):
            pass
        return answers[0]


def _ask(host: str, port: int) -> list[Place] | OSError:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return error if isinstance(error, OSError) else OSError(0, "no such name")
    places: list[Place] = [
        (family, tuple(where)) for family, _, _, _, where in found if family in (socket.AF_INET, socket.AF_INET6)
    ]
    return places or OSError(0, "it has no IP address")
