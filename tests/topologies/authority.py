# SPDX-License-Identifier: Apache-2.0
"""Certificates for servers that ask for TLS."""

import datetime as dt
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Ca(NamedTuple):
    """A certification authority of the test's own."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, folder: Path) -> "Ca":
        folder.mkdir(parents=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        certificate = _builder(name, name, key).add_extension(x509.BasicConstraints(True, 0), True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        ca = cls(folder, key, certificate.add_extension(usage, True).sign(key, hashes.SHA256()))
        (folder / "ca.pem").write_bytes(ca.certificate.public_bytes(serialization.Encoding.PEM))
        return ca

    def issue(self, host: str, *, days: int = 90) -> tuple[Path, Path]:
        """Write a certificate for a host and its key.

        Args:
            host: What it names.
            days: When it ends, from now on; below zero, it has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "store")])
        try:
            called: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            called = x509.DNSName(host)
        made = _builder(name, self.certificate.subject, key, days).add_extension(
            x509.SubjectAlternativeName([called]), False
        )
        own = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        signed = made.add_extension(own, False).sign(self.key, hashes.SHA256())
        paths = self.folder / f"{host}.pem", self.folder / f"{host}.key"
        paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        paths[1].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        return paths


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int = 90
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    begins, ends = now - dt.timedelta(days=9), now + dt.timedelta(days=days)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), begins, ends)
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
