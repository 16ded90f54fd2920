"""Who is the other side, and who else listens? TLS with certificates both ways, from one folder."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from labkit.errors import HostError, LabkitError, UsageError

if TYPE_CHECKING:
    import ssl  # takes longer to import than most of labkit, so it is imported where it is used

CA, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"
FITS_NOT = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")  # the last: a key of another kind
OTHERS = 0o077  # the mode bits that let anybody but the owner at a file


def context(folder: str | os.PathLike[str], server: bool) -> ssl.SSLContext:
    """TLS 1.3 with the folder's certificates. Both sides show theirs; a client also checks the server's name or IP.

    `ca.pem` signs the other side's certificate, `cert.pem` and `key.pem` (mode 0600) are our own.
    UsageError: one of them is missing, unreadable or no such thing; the key is another's, or others may read it.
    """
    import ssl

    ca, certificate, key = (_readable(Path(folder) / name) for name in (CA, CERTIFICATE, KEY))
    if mode := key.stat().st_mode & OTHERS:
        raise UsageError(f"{key}: others may use it (mode bits {mode:03o}): chmod 600 {key}")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    _load_authority(made, ca)
    _load_authority(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate)  # is it a certificate at all?
    try:
        made.load_cert_chain(certificate, key, password=lambda: _no_password(key))
    except ssl.SSLError as error:
        why = f"not the key of {certificate}" if error.reason in FITS_NOT else "no private key in PEM"
        raise UsageError(f"{key}: {why}") from error
    return made


def wants(error: OSError) -> int:
    """Which way a TLS socket waits when it raised `error`: POLLIN, POLLOUT, or 0 for a true error."""
    import ssl

    if isinstance(error, ssl.SSLWantReadError):
        return select.POLLIN
    return select.POLLOUT if isinstance(error, ssl.SSLWantWriteError) else 0


def is_end(error: OSError) -> bool:
    """Did the connection below TLS end, rather than TLS fail?"""
    import ssl

    return isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)


def fault(call: str, error: OSError, where: object) -> LabkitError | None:
    """Whose fault is it that TLS failed? None: it is no error of TLS."""
    import ssl

    if not isinstance(error, ssl.SSLError):
        return None
    reason = error.reason or "TLS failed"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return UsageError(f"{where}: the other side refuses our {CERTIFICATE}: {_words(reason)}")
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = f"the other side's certificate is refused: {error.verify_message}"
    elif reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        hint = "the other side has no certificate"
    else:
        hint = f"{_words(reason)}; is the other side a labkit with TLS?"
    return HostError(call, errno.EPROTO, f"{where}: {hint}")


def _words(reason: str) -> str:
    return reason.rpartition("ALERT_")[2].replace("_", " ").lower()


def _readable(path: Path) -> Path:
    try:
        path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; TLS needs {CA}, {CERTIFICATE} and {KEY} in one folder") from error
    return path


def _load_authority(made: ssl.SSLContext, path: Path) -> None:
    import ssl

    try:
        made.load_verify_locations(path)
    except ssl.SSLError as error:
        raise UsageError(f"{path}: no certificate in PEM") from error


def _no_password(key: Path) -> NoReturn:
    raise UsageError(f"{key}: it needs a password; labkit asks for none")
