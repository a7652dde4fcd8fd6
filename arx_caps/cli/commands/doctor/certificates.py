# SPDX-License-Identifier: Apache-2.0
"""The checks of certificates: those of issuer, store, ledger and database that end soon.

Whether they are trusted is found by the checks that connect; here only their last day is read.
"""

import datetime as dt
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from cryptography import x509

from arx_caps.cli.access.place import store_url
from arx_caps.cli.commands.doctor.check import Check
from arx_caps.settings.realm import Realm
from arx_verifier.errors import ArxError
from arx_verifier.revocation.store_url import without_login

NAME: Final = "certificates"
SOON: Final = dt.timedelta(days=14)
TIMEOUT_S: Final = 3.0
POSTGRES_TLS: Final = struct.pack("!ii", 8, 80877103)  # its SSLRequest, which it answers with S before TLS begins


class CertifiedPlace(NamedTuple):
    """A server with TLS.

    Attributes:
        what: What it is to the realm.
        host: Its host.
        port: Its port.
        first: What is sent before TLS begins.
    """

    what: str
    host: str
    port: int
    first: bytes = b""

    @property
    def named(self) -> str:
        """What it is, and where."""
        return f"{self.what} at {self.host}:{self.port}"


def check_certificates(issuer: str, store: str | None, realm: Realm) -> Iterator[Check]:
    """Check when the certificates of a realm's servers end; yield nothing where none has TLS.

    Args:
        issuer: The address at which callers reach the mints.
        store: The store's URL; None for that of the realm's folder.
        realm: The realm.
    """
    ends, now = {}, dt.datetime.now(dt.UTC)
    for endpoint in dict.fromkeys(_endpoints(issuer, store, realm)):
        try:
            end = _end_of(endpoint)
        except (OSError, ValueError):
            continue  # another check reports a server that does not answer
        if end is not None:
            ends[endpoint] = end
    for endpoint, end in ends.items():
        if end < now + SOON:
            days = (end - now).days
            when = f"ends in {days} days" if end > now else "has expired"
            mend = "renew it, and have that server load the new one: with an expired one no caller connects"
            yield Check(NAME, False, f"the certificate of the {endpoint.named} {when} ({end:%Y-%m-%d})", mend)
    if ends and min(ends.values()) >= now + SOON:
        first = min(ends, key=lambda endpoint: ends[endpoint])
        yield Check(NAME, True, f"{len(ends)}; the first to end is that of the {first.named}: {ends[first]:%Y-%m-%d}")


def _endpoints(issuer: str, store: str | None, realm: Realm) -> Iterator[CertifiedPlace]:
    if issuer.startswith("https:"):
        parts = urlsplit(issuer)
        yield CertifiedPlace("issuer", parts.hostname or "", parts.port or 443)
    try:
        named = {"store": store or store_url(realm), "ledger": realm.ledger or ""}
    except ArxError:
        named = {}
    for what, url in named.items():
        if url.startswith("rediss"):
            default = 26379 if "+sentinel:" in url else 6379
            place = without_login(url).partition("://")[2].partition("/")[0].partition("?")[0]
            yield from (CertifiedPlace(what, *_split(text, default)) for text in place.split(","))
    if realm.database is not None and realm.database.startswith("postgresql"):
        for host, port in database_hosts(realm.database):
            if not host.startswith("/"):
                yield CertifiedPlace("database", host, port, POSTGRES_TLS)


def database_hosts(url: str) -> list[tuple[str, int]]:
    """Return hosts and ports of a PostgreSQL URL, which may name several; a host with a slash is a local socket.

    Args:
        url: The URL, in SQLAlchemy's form.
    """
    place, _, query = url.partition("://")[2].partition("?")
    netloc = place.rpartition("@")[2].partition("/")[0]
    texts = [netloc] if netloc else []
    texts += [text for name, value in parse_qsl(query) if name == "host" for text in value.split(",")]
    return [(text, 5432) if text.startswith("/") else _split(text, 5432) for text in texts]


def _split(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or default


def _end_of(endpoint: CertifiedPlace) -> dt.datetime | None:
    """Return when the certificate of a server ends; None if the server has no TLS."""
    # Not verified, so that the day of any certificate can be read; nothing is sent over this connection.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((endpoint.host, endpoint.port), TIMEOUT_S) as plain:
        if endpoint.first:
            plain.sendall(endpoint.first)
            if plain.recv(1) != b"S":
                return None
        with context.wrap_socket(plain, server_hostname=endpoint.host) as secure:
            der = secure.getpeercert(binary_form=True)
    return None if der is None else x509.load_der_x509_certificate(der).not_valid_after_utc
