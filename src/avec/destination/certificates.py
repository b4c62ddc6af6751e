"""Makes the certificate that a destination proves itself with; hosts know it by its fingerprint.

It is signed by itself: nobody has to vouch for what a person has pasted. It does not run out before the machine does.
"""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from avec.communication.tls import fingerprint_of
from avec.errors import ConfigurationError

LIFETIME = datetime.timedelta(days=20 * 365)
CLOCK_SLACK = datetime.timedelta(days=1)  # a machine at the edge may begin with a clock that is behind


def make_certificate(name: str) -> bytes:
    """Make a new P-256 key and a certificate for it, in PEM; the key first.

    Raises:
        ConfigurationError: the library that makes them is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as exc:
        raise ConfigurationError(
            "making a certificate needs the package `cryptography`: pip install 'avec[destination]'; or name one of "
            "your own with --certificate"
        ) from exc
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint_in(path: Path) -> str:
    """The fingerprint of the first certificate in a PEM file.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        text = path.read_text("ascii")
        begin, end = text.index(ssl.PEM_HEADER), text.index(ssl.PEM_FOOTER)
        return fingerprint_of(ssl.PEM_cert_to_DER_cert(text[begin : end + len(ssl.PEM_FOOTER)] + "\n"))
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"cannot read a certificate from {path}: {exc}") from exc
