"""Folders of certificates, as labkit's TLS wants them: good ones, and each kind of bad one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trustme

HERE = ("127.0.0.1", "::1", "localhost")


def folder(path: Path, signed_by: trustme.CA, trusts: trustme.CA, *names: str, **options: Any) -> Path:
    """`path` with ca.pem, cert.pem and key.pem; `names` (loopback if none) stand in the certificate."""
    certificate = signed_by.issue_cert(*(names or HERE), **options)
    path.mkdir()
    trusts.cert_pem.write_to_path(str(path / "ca.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(path / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(path / "key.pem"))
    (path / "key.pem").chmod(0o600)
    return path
