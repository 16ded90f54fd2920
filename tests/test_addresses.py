"""Which texts are an address, what is said of the others, and which addresses stay on this machine?"""

from __future__ import annotations

import socket

import pytest

from labkit.errors import UsageError
from labkit.migration import address
from labkit.migration.address import Address, parse

TCP = [
    ("tcp:127.0.0.1:4444", "127.0.0.1", 4444),
    ("tcp:[::1]:4444", "::1", 4444),
    ("tcp:[fe80::1%lo]:1", "fe80::1%lo", 1),
    ("tcp:lab-2.example.org:65535", "lab-2.example.org", 65535),
    ("tcp:0.0.0.0:0", "0.0.0.0", 0),
]


@pytest.mark.parametrize("path", ["/run/x.sock", "x.sock", "../a:b", "ü", "/" + "x" * 106])
def test_a_unix_address_is_a_path(path: str) -> None:
    """Absolute or relative, up to 107 bytes, and its text is what was given."""
    found = parse(f"unix:{path}")
    assert found == Address("unix", path=path)
    assert str(found) == f"unix:{path}"
    assert found.is_loopback


@pytest.mark.parametrize(("text", "host", "port"), TCP)
def test_a_tcp_address_is_host_and_port(text: str, host: str, port: int) -> None:
    """A name, an IPv4 or, in brackets, an IPv6 address; its text is what was given."""
    found = parse(text)
    assert found == Address("tcp", host=host, port=port)
    assert str(found) == text


@pytest.mark.parametrize("text", ["tcp:4444", "tcp::4444"])
def test_a_port_alone_is_on_this_machine(text: str) -> None:
    """No host means loopback, and the text then says so."""
    assert str(parse(text)) == "tcp:127.0.0.1:4444"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "unix",
            "unix:",
            "unix:a\0b",
            "/run/x.sock",
            "udp:1",
            "UNIX:x",
            "tcp",
            "tcp:",
            "tcp:x",
            "tcp:h:",
            "tcp:::1:4",
        ),
        *("tcp:[::1]", "tcp:[::1]4", "tcp:[]:4", "tcp:[h]:4", "tcp:[127.0.0.1]:4", "tcp:a b:4", "tcp:-a:4", "tcp:ä:4"),
        *(
            "tcp:.:4",
            "tcp:.a:4",
            "tcp:a:-1",
            "tcp:a:+1",
            "tcp:a: 1",
            "tcp:a:1 ",
            "tcp:a:1\n",
            "tcp:a:65536",
            "tcp:a:000001",
        ),
        *(
            "tcp:::1:4",
            "tcp:a:000001",
            "tcp:a:٣",
            "tcp:a:1_0",
            "tcp:a/b:1",
            f"tcp:{'a' * 254}:1",
            f"unix:{'x' * 108}",
            f"unix:{'ü' * 54}",
        ),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """The error names what was given, and says which forms there are or which limit it is beyond."""
    with pytest.raises(UsageError, match=r"unix:PATH|at most|IPv6 address") as refused:
        parse(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("what", [None, 4444, b"unix:x", ["unix:x"]])
def test_an_address_is_text(what: object) -> None:
    """Another type is a UsageError too."""
    with pytest.raises(UsageError, match="unix:PATH"):
        parse(what)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "stays"),
    [
        *(
            ("127.0.0.1", True),
            ("127.255.0.9", True),
            ("[::1]", True),
            ("[::ffff:127.0.0.1]", True),
            ("localhost", True),
        ),
        *(("0.0.0.0", False), ("[::]", False), ("192.0.2.1", False), ("[2001:db8::1]", False), ("128.0.0.1", False)),
        *(("[::ffff:127.0.0.1]", True), ("[::ffff:192.0.2.1]", False)),
    ],
)
def test_loopback_is_told_from_the_rest(host: str, stays: bool) -> None:
    """127/8 and ::1 stay on this machine; 0.0.0.0 and :: do not, for they listen everywhere."""
    assert parse(f"tcp:{host}:1").is_loopback is stays


@pytest.mark.parametrize(
    ("answers", "stays"),
    [(["127.0.0.1", "::1"], True), (["127.0.0.1", "192.0.2.1"], False), (["::1", "2001:db8::1"], False)],
)
def test_a_name_stays_here_if_all_its_addresses_do(
    monkeypatch: pytest.MonkeyPatch, answers: list[str], stays: bool
) -> None:
    """One address beyond loopback is enough to need TLS."""

    def ask(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert host == "lab.example.org"
        kinds = [socket.AF_INET6 if ":" in literal else socket.AF_INET for literal in answers]
        return [(kind, None, None, "", (literal, port)) for kind, literal in zip(kinds, answers, strict=True)]

    monkeypatch.setattr(address.socket, "getaddrinfo", ask)
    assert parse("tcp:lab.example.org:1").is_loopback is stays


def test_a_name_that_nobody_knows_is_the_callers_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's words are in the error."""

    def ask(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(address.socket, "getaddrinfo", ask)
    with pytest.raises(UsageError, match=r"tcp:lab\.invalid:1: Name or service not known"):
        parse("tcp:lab.invalid:1").places()


def test_a_name_that_cannot_be_asked_for_is_refused() -> None:
    """A label of 64 letters is no name; the resolver is not even asked."""
    with pytest.raises(UsageError):
        parse(f"tcp:{'a' * 64}.example.org:1").places()
