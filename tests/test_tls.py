"""Who is let in by TLS, who is not, and does each side learn why?"""

from __future__ import annotations

import datetime
import errno
import os
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
from certificates import folder

from labkit.errors import HostError, LabkitError, UsageError
from labkit.migration import tls
from labkit.migration.address import Address, parse
from labkit.migration.channel import Listener, connect

pytestmark = pytest.mark.usefixtures("leaves_nothing")

LONG_S = 120.0
LONG_AGO = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
A_YEAR = datetime.timedelta(days=365)
EMPTY_PEM = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
OURS = "our cert.pem"  # in the error of the side whose certificate is at fault


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Signs what both sides trust."""
    return trustme.CA()


@pytest.fixture
def safe(tmp_path: Path, authority: trustme.CA) -> Path:
    """Certificates for loopback that both sides take."""
    return folder(tmp_path / "safe", authority, authority)


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    """Threads for what waits for the test."""
    with ThreadPoolExecutor() as pool:
        yield pool


def own_address() -> str:
    """An IPv4 address of this machine beyond loopback, which nothing is sent to find."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as question:
        try:
            question.connect(("192.0.2.1", 9))
        except OSError as error:
            pytest.skip(f"this machine has no address beyond loopback: {error.strerror}")
        own = str(question.getsockname()[0])
    if Address("tcp", host=own).is_loopback:
        pytest.skip("this machine has no address beyond loopback")
    return own


def meet(
    address: Address, server: ssl.SSLContext, client: ssl.SSLContext, beside: ThreadPoolExecutor
) -> tuple[LabkitError | None, LabkitError | None]:
    """What the server and the client say of each other; None: they talked."""
    with Listener(address, tls=server) as listener:
        coming = beside.submit(connect, listener.address, tls=client, timeout_s=LONG_S)
        try:
            with listener.accept(LONG_S) as accepted, coming.result() as connected:
                connected.send(b"there")
                accepted.send(accepted.receive(5)[::-1])
                assert connected.receive(5) == b"ereht"
        except LabkitError as error:
            refused = coming.exception()
            assert refused is None or isinstance(refused, LabkitError)
            if refused is None:
                coming.result().close()
            return None if error is refused else error, refused
    return None, None


def is_protocol_error(error: LabkitError | None, words: str) -> bool:
    """Is it the other side's fault, in these words?"""
    assert isinstance(error, HostError), error
    return error.errno == errno.EPROTO and words in str(error)


# -- those who are let in ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_good_certificates_are_taken(safe: Path, beside: ThreadPoolExecutor, host: str) -> None:
    """By IPv4, IPv6 and name, and what is sent arrives."""
    address = parse(f"tcp:{host}:0")
    assert meet(address, tls.context(safe, True), tls.context(safe, False), beside) == (None, None)


def test_tls_goes_beyond_this_machine(tmp_path: Path, authority: trustme.CA, beside: ThreadPoolExecutor) -> None:
    """By an address of this machine that others can reach."""
    own = own_address()
    path = folder(tmp_path / "own", authority, authority, own)
    address = Address("tcp", host=own)
    assert meet(address, tls.context(path, True), tls.context(path, False), beside) == (None, None)


def test_listening_everywhere_needs_tls_and_takes_it(
    tmp_path: Path, authority: trustme.CA, beside: ThreadPoolExecutor
) -> None:
    """0.0.0.0 with TLS is reached by an address that stands in the certificate."""
    own = own_address()
    path = folder(tmp_path / "own", authority, authority, own)
    with Listener(parse("tcp:0.0.0.0:0"), tls=tls.context(path, True)) as listener:
        where = Address("tcp", host=own, port=listener.address.port)
        coming = beside.submit(connect, where, tls=tls.context(path, False), timeout_s=LONG_S)
        with listener.accept(LONG_S) as accepted, coming.result() as connected:
            accepted.send(b"x")
            assert connected.receive(1) == b"x"


def test_both_sides_speak_tls_1_3(safe: Path) -> None:
    """Nothing older is offered, both must have a certificate, and the client checks the name."""
    server, client = tls.context(safe, True), tls.context(safe, False)
    for context in (server, client):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
    assert client.check_hostname


# -- those who are not: (server's certificate, client's) ---------------------------------------------------------------


def test_a_client_of_another_authority_is_refused(
    tmp_path: Path, safe: Path, authority: trustme.CA, beside: ThreadPoolExecutor
) -> None:
    """Both learn it: the client too, though TLS 1.3 lets it end its handshake first."""
    other = folder(tmp_path / "other", trustme.CA(), authority)
    server, client = meet(parse("tcp:0"), tls.context(safe, True), tls.context(other, False), beside)
    assert is_protocol_error(server, "the other side's certificate is refused")
    assert isinstance(client, UsageError)
    assert OURS in str(client)


def test_a_server_of_another_authority_is_refused(
    tmp_path: Path, safe: Path, authority: trustme.CA, beside: ThreadPoolExecutor
) -> None:
    """The client says that it does not believe it, and the server that its certificate is refused."""
    other = folder(tmp_path / "other", trustme.CA(), authority)
    server, client = meet(parse("tcp:0"), tls.context(other, True), tls.context(safe, False), beside)
    assert is_protocol_error(client, "the other side's certificate is refused")
    assert isinstance(server, UsageError)
    assert f"{OURS}: unknown ca" in str(server)


def test_a_client_without_a_certificate_is_refused(safe: Path, beside: ThreadPoolExecutor) -> None:
    """It learns what it lacks."""
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(safe / "ca.pem")
    server, client = meet(parse("tcp:0"), tls.context(safe, True), bare, beside)
    assert is_protocol_error(server, "has no certificate")
    assert isinstance(client, UsageError)
    assert f"{OURS}: certificate required" in str(client)


def test_a_client_whose_certificate_expired_is_refused(
    tmp_path: Path, safe: Path, authority: trustme.CA, beside: ThreadPoolExecutor
) -> None:
    """And is told so."""
    old = folder(tmp_path / "old", authority, authority, not_before=LONG_AGO, not_after=LONG_AGO + A_YEAR)
    server, client = meet(parse("tcp:0"), tls.context(safe, True), tls.context(old, False), beside)
    assert is_protocol_error(server, "expired")
    assert isinstance(client, UsageError)
    assert f"{OURS}: certificate expired" in str(client)


def test_a_server_whose_certificate_expired_is_refused(
    tmp_path: Path, safe: Path, authority: trustme.CA, beside: ThreadPoolExecutor
) -> None:
    """The other way round."""
    old = folder(tmp_path / "old", authority, authority, not_before=LONG_AGO, not_after=LONG_AGO + A_YEAR)
    server, client = meet(parse("tcp:0"), tls.context(old, True), tls.context(safe, False), beside)
    assert is_protocol_error(client, "expired")
    assert isinstance(server, UsageError)
    assert f"{OURS}: certificate expired" in str(server)


@pytest.mark.parametrize(("host", "words"), [("127.0.0.1", "IP address mismatch"), ("localhost", "Hostname mismatch")])
def test_a_server_of_another_name_is_refused(
    tmp_path: Path, safe: Path, authority: trustme.CA, beside: ThreadPoolExecutor, host: str, words: str
) -> None:
    """A good certificate, but for another machine than the address names."""
    other = folder(tmp_path / "other", authority, authority, "lab.example.org", "192.0.2.1")
    server, client = meet(parse(f"tcp:{host}:0"), tls.context(other, True), tls.context(safe, False), beside)
    assert is_protocol_error(client, words)
    assert isinstance(server, UsageError)
    assert OURS in str(server)


def test_an_older_tls_is_refused(safe: Path, beside: ThreadPoolExecutor) -> None:
    """A client that knows TLS 1.2 and no more."""
    old = tls.context(safe, False)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    server, client = meet(parse("tcp:0"), tls.context(safe, True), old, beside)
    assert is_protocol_error(server, "unsupported protocol")
    assert is_protocol_error(client, "protocol version")


def test_who_speaks_no_tls_is_refused_and_the_next_is_welcome(safe: Path, beside: ThreadPoolExecutor) -> None:
    """Noise, a plain channel that closes at once: errors of their accepts, and the listener goes on."""
    with Listener(parse("tcp:0"), tls=tls.context(safe, True)) as listener:
        for said in (b"GET / HTTP/1.0\r\n\r\n", bytes(64), b""):
            with connect(listener.address, timeout_s=LONG_S) as plain:
                plain.send(said)
                if not said:
                    plain.close()
                with pytest.raises(HostError) as refused:
                    listener.accept(LONG_S)
                assert refused.value.errno == (errno.EPROTO if said else errno.ECONNRESET)
        coming = beside.submit(connect, listener.address, tls=tls.context(safe, False), timeout_s=LONG_S)
        with listener.accept(LONG_S), coming.result():
            pass


@pytest.mark.parametrize("answer", [b"SSH-2.0-nobody\r\n", b""])
def test_a_server_that_speaks_no_tls_is_an_error(safe: Path, beside: ThreadPoolExecutor, answer: bytes) -> None:
    """A plain listener answers something else, or closes."""
    with Listener(parse("tcp:0")) as listener:
        coming = beside.submit(connect, listener.address, tls=tls.context(safe, False), timeout_s=LONG_S)
        with listener.accept(LONG_S) as plain:
            plain.receive(5)
            plain.send(answer)
        refused = coming.exception()
        assert isinstance(refused, HostError)
        assert refused.errno in ((errno.EPROTO, errno.ECONNRESET) if answer else (errno.ECONNRESET,))


def test_a_unix_socket_needs_no_tls(safe: Path) -> None:
    """It is refused, for there is no name to check there."""
    with pytest.raises(UsageError, match="TLS is for tcp"):
        Listener(parse("unix:x"), tls=tls.context(safe, True))


# -- the folder --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
def test_a_file_that_is_missing_is_named(safe: Path, name: str) -> None:
    """With the three that there should be."""
    (safe / name).unlink()
    with pytest.raises(UsageError, match=rf"{name}: No such file.*ca\.pem, cert\.pem and key\.pem"):
        tls.context(safe, True)


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
@pytest.mark.parametrize(
    "content", [b"", b"no PEM at all", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_that_is_no_such_thing_is_named(safe: Path, name: str, content: bytes) -> None:
    """Empty, no PEM, or PEM of nothing."""
    (safe / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{name}: no (certificate|private key) in PEM"):
        tls.context(safe, True)


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
def test_a_folder_is_no_file(safe: Path, name: str) -> None:
    """The system's words are enough."""
    (safe / name).unlink()
    (safe / name).mkdir()
    with pytest.raises(UsageError, match=f"{name}: Is a directory"):
        tls.context(safe, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(safe: Path) -> None:
    """The system's words are enough."""
    (safe / "cert.pem").chmod(0)
    with pytest.raises(UsageError, match=r"cert\.pem: Permission denied"):
        tls.context(safe, True)


def test_the_key_of_another_certificate_is_told(tmp_path: Path, safe: Path, authority: trustme.CA) -> None:
    """Both are good, and do not fit."""
    other = folder(tmp_path / "other", authority, authority)
    (safe / "key.pem").write_bytes((other / "key.pem").read_bytes())
    with pytest.raises(UsageError, match=r"key\.pem: not the key of .*cert\.pem"):
        tls.context(safe, False)


def test_a_key_of_another_kind_is_told(tmp_path: Path, safe: Path, authority: trustme.CA) -> None:
    """An RSA key for an elliptic certificate."""
    other = folder(tmp_path / "other", authority, authority, key_type=trustme.KeyType.RSA)
    (safe / "key.pem").write_bytes((other / "key.pem").read_bytes())
    with pytest.raises(UsageError, match=r"key\.pem: not the key of .*cert\.pem"):
        tls.context(safe, False)


def test_a_key_with_a_password_is_refused(safe: Path) -> None:
    """Nobody is asked for one."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((safe / "key.pem").read_bytes(), None)
    (safe / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(UsageError, match=r"key\.pem: it needs a password"):
        tls.context(safe, True)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_may_use_is_refused(safe: Path, mode: int) -> None:
    """With the command that mends it."""
    (safe / "key.pem").chmod(mode)
    with pytest.raises(UsageError, match=r"key\.pem: others may use it.*chmod 600"):
        tls.context(safe, True)
