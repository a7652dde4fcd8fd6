# SPDX-License-Identifier: Apache-2.0
"""When the certificates of TLS servers end, which is all that is read of them here.

Whether they are trusted is found where a connection is used.
"""

import contextlib
import datetime as dt
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

from cryptography import x509

from arx_verifier.metrics.export import Samples
from arx_verifier.revocation.store_url import without_login

TIMEOUT_S: Final = 3.0
EVERY_S: Final = 600.0  # between two looks at a server
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

    @classmethod
    def of_url(cls, what: str, url: str | None) -> Iterator[Self]:
        """Yield the servers of a URL that asks for TLS, several for PostgreSQL and Redis.

        Args:
            what: What they are to the realm.
            url: A URL, or None.
        """
        scheme = (url or "").partition(":")[0]
        if url is None or not scheme:
            return
        if scheme == "https":
            parts = urlsplit(url)
            yield cls(what, parts.hostname or "", parts.port or 443)
        elif scheme.startswith("rediss"):
            default = 26379 if "+sentinel:" in url else 6379
            place = without_login(url).partition("://")[2].partition("/")[0].partition("?")[0]
            yield from (cls(what, *_split(text, default)) for text in place.split(","))
        elif scheme.startswith("postgresql"):
            for host, port in database_hosts(url):
                if not host.startswith("/"):
                    yield cls(what, host, port, POSTGRES_TLS)

    def read_end(self) -> dt.datetime | None:
        """Return when the server's certificate ends; None if the server has no TLS.

        Raises:
            OSError: It does not answer.
            ValueError: Its certificate cannot be read.
        """
        # Not verified, so that the day of any certificate can be read; nothing is sent over this connection.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection((self.host, self.port), TIMEOUT_S) as plain:
            if self.first:
                plain.sendall(self.first)
                if plain.recv(1) != b"S":
                    return None
            with context.wrap_socket(plain, server_hostname=self.host) as secure:
                der = secure.getpeercert(binary_form=True)
        return None if der is None else x509.load_der_x509_certificate(der).not_valid_after_utc


class CertificateWatch:
    """The ends of some servers' certificates, for a process that exports them.

    Args:
        places: The servers.
    """

    def __init__(self, places: Iterable[CertifiedPlace]) -> None:
        self._places = tuple(dict.fromkeys(places))
        self._ends: dict[str, float] = {}
        self._due = 0.0
        self._looking = threading.Lock()

    def samples(self) -> Samples:
        """Yield the certificates that were read so far, and begin another look if one is due."""
        # Elsewhere: a server that does not answer must not hold up the metrics, which are needed most then.
        if self._places and time.monotonic() >= self._due and self._looking.acquire(blocking=False):
            self._due = time.monotonic() + EVERY_S
            threading.Thread(target=self._look, name="arx-certificates", daemon=True).start()
        now = time.time()
        for named, end in sorted(self._ends.copy().items()):
            yield "arx_certificate_expires_seconds", end - now, named

    def _look(self) -> None:
        try:
            for place in self._places:
                # One that does not answer keeps the end that was read before; other metrics report the outage.
                with contextlib.suppress(OSError, ValueError):
                    end = place.read_end()
                    if end is not None:
                        self._ends[place.named] = end.timestamp()
        finally:
            self._looking.release()


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
