"""Certificates for tests, made once for the run."""

from __future__ import annotations

import atexit
import functools
import shutil
import ssl
import tempfile
from pathlib import Path

from avec.communication.tls import fingerprint_of
from avec.destination.certificates import make_certificate


@functools.cache
def certificate(name: str = "destination") -> Path:
    """A certificate with its key that signed itself."""
    folder = Path(tempfile.mkdtemp(prefix="avec-certificates-"))
    atexit.register(shutil.rmtree, folder)
    path = folder / f"{name}.pem"
    path.write_bytes(make_certificate(name))
    return path


def fingerprint(path: Path) -> str:
    """The fingerprint of the first certificate in a PEM file."""
    text = path.read_text()
    start = text.index("-----BEGIN CERTIFICATE-----")
    end = text.index("-----END CERTIFICATE-----") + len("-----END CERTIFICATE-----\n")
    return fingerprint_of(ssl.PEM_cert_to_DER_cert(text[start:end]))
