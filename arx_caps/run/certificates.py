# SPDX-License-Identifier: Apache-2.0
"""The certificate authority of one run, whose key is in memory alone, and the certificates of hosts that it issues."""

import datetime as dt
import functools
import ipaddress
import secrets
import ssl
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE: Final = dt.timedelta(days=30)  # longer than a session; the key ends with this process
_SKEW: Final = dt.timedelta(hours=1)
_HOSTS: Final = 256  # whose certificates are kept


class RunCertificates:
    """Issues certificates for the hosts of one run.

    Args:
        folder: A folder that only this user can enter.

    Attributes:
        pem: The authority's certificate, PEM.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key, self._leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"arx run {secrets.token_hex(4)}")])
        usage = _usage(key_cert_sign=True, crl_sign=True)
        authority = self._begun(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), True
        )
        self.pem = _pem(authority.add_extension(usage, True).sign(self._key, hashes.SHA256()))
        self.context_of = functools.lru_cache(_HOSTS)(self._context_of)

    def _context_of(self, host: str) -> ssl.SSLContext:
        """Return the server's side of TLS for a host.

        Args:
            host: A name in lower case, or an IP address.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        password = secrets.token_bytes(32)
        kind = serialization.BestAvailableEncryption(password)
        key = self._leaf_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, kind)
        # The library loads a key from a file alone: there it is encrypted, and gone at once.
        path = self._folder / f"leaf-{secrets.token_hex(8)}.pem"
        try:
            path.touch(0o600, exist_ok=False)
            path.write_bytes(_pem(self._leaf(host)) + key)
            context.load_cert_chain(path, password=password)
        finally:
            path.unlink(missing_ok=True)
        return context

    def _leaf(self, host: str) -> x509.Certificate:
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        # A common name has at most 64 characters; clients read the alternative name.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
        leaf = self._begun(subject, self._leaf_key).add_extension(x509.SubjectAlternativeName([name]), False)
        leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        leaf = leaf.add_extension(_usage(digital_signature=True), True)
        leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        return leaf.sign(self._key, hashes.SHA256())

    def _begun(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder(issuer_name=self._name, subject_name=subject, public_key=key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + _LIFE)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(issuer, False)
        )


def _usage(**more: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
    )
    usage: Any = dict.fromkeys(f"{names} encipher_only decipher_only".split(), False)
    return x509.KeyUsage(**usage | more)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
