# SPDX-License-Identifier: Apache-2.0
"""Fetch a small document of a public host that a stranger names, without reaching the own network.  CONTROL 5.13.

``arx_caps.mint.documents`` decides which hosts, and keeps what was fetched.
"""

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from arx_verifier.errors import RequestError

MAX_BYTES: Final = 5 * 1024
TOTAL_S: Final = 2.0  # for address, connection and answer together
MAX_URL_CHARS: Final = 512
_URL: Final = re.compile(r"https://[a-z0-9.-]+(:[1-9][0-9]{0,4})?/([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-F]{2})+")
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age=\"?([0-9]{1,9})")
# Of all IPv6, the part from which addresses are assigned to hosts: neither mapped IPv4 nor NAT64 nor private networks.
_ASSIGNED: Final = ipaddress.IPv6Network("2000::/3")
_OTHERS: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # a cloud's own services, at an address that is public by its form
            "192.0.0.0/24",  # protocols; versions of Python differ on it
            "192.88.99.0/24",  # 6to4 relays
            "2001::/23",  # Teredo and other protocols
            "2001:db8::/32",
            "2002::/16",  # 6to4: it has an IPv4 address inside
            "3fff::/20",
        ),
    )
)
# A resolver that does not answer holds a thread for longer than a fetch may take.
_LOOKUPS: Final = ThreadPoolExecutor(4, "arx-lookup")

Lookup = Callable[[str, int], Sequence[Any]]


class FetchError(RequestError):
    """A document cannot be had; ``may_retry`` says whether a later attempt may succeed."""

    def __init__(self, text: str, *, may_retry: bool = False) -> None:
        super().__init__(text)
        self.may_retry = may_retry


class FetchedDocument(NamedTuple):
    """A document.

    Attributes:
        body: Its bytes.
        max_age_s: How long its server lets it be kept, s; None if the server does not say.
    """

    body: bytes
    max_age_s: int | None


def is_document_url(url: str) -> bool:
    """Return whether a URL can be fetched: https, a path, and no query, fragment, user or dot segment."""
    if len(url) > MAX_URL_CHARS or _URL.fullmatch(url) is None:
        return False
    return not any(unquote(segment) in (".", "..") for segment in urlsplit(url).path.split("/"))


def is_public(address: str) -> bool:
    """Return whether an address is one of the public internet."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if not ip.is_global or ip.is_multicast or ip.is_reserved:
        return False
    # A mapped or translated address would reach an IPv4 address that this function has not seen.
    return (ip.version == 4 or ip in _ASSIGNED) and not any(ip in network for network in _OTHERS)


def find_addresses(host: str, port: int) -> Sequence[Any]:
    """Return the addresses of a host, as ``socket.getaddrinfo`` does."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def fetch_public(
    url: str,
    context: ssl.SSLContext,
    *,
    lookup: Lookup = find_addresses,
    may_connect: Callable[[str], bool] = is_public,
) -> FetchedDocument:
    """Return a JSON document of a public host.

    Args:
        url: Its URL, for which ``is_document_url`` is true.
        context: Which authorities are trusted for TLS.
        lookup: How to find addresses; for tests.
        may_connect: Whether an address may be reached; for tests.

    Raises:
        FetchError: It cannot be had: an address is not public, or the answer is late, too large or of another kind.
    """
    until = time.monotonic() + TOTAL_S
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    try:
        found = _LOOKUPS.submit(lookup, host, port).result(TOTAL_S)
        # All of them: a name with a public and a private address would be tried until the private one answers.
        if not found or not all(may_connect(str(address[4][0])) for address in found):
            raise FetchError(f"{host} has an address that is not public")
        with _connect(found, host, context, until) as sock:
            return _ask(http.client.HTTPSConnection(host, port, context=context), sock, parts.path, until)
    except (OSError, TimeoutError, http.client.HTTPException, UnicodeError, ValueError) as error:
        raise FetchError(f"{host} did not answer: {type(error).__name__}", may_retry=True) from None


def _connect(found: Sequence[Any], host: str, context: ssl.SSLContext, until: float) -> ssl.SSLSocket:
    """Return a connection to a checked address, without another lookup; its TLS handshake is still to come."""
    why: OSError = TimeoutError()
    for family, kind, protocol, _, place in found:
        raw = socket.socket(family, kind, protocol)
        try:
            raw.settimeout(_left(until))
            raw.connect(place)
            return context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)
        except OSError as error:
            raw.close()
            why = error
    raise why


def _ask(connection: http.client.HTTPSConnection, sock: ssl.SSLSocket, path: str, until: float) -> FetchedDocument:
    # The timeout of a socket is for each read, so that a slow server could go on for hours, one byte at a time.
    watch = threading.Timer(_left(until), socket.socket.shutdown, (sock, socket.SHUT_RDWR))
    watch.start()
    try:
        sock.do_handshake()
        connection.sock = sock
        # Uncompressed: a few bytes could expand to gigabytes.
        connection.request("GET", path, headers={"Accept": "application/json", "Accept-Encoding": "identity"})
        return _read(connection.getresponse(), until)
    finally:
        watch.cancel()


def _read(answer: http.client.HTTPResponse, until: float) -> FetchedDocument:
    # No redirect is followed: its address was not checked.
    if answer.status != http.client.OK:
        raise FetchError(f"expected status 200, got {answer.status}", may_retry=answer.status >= 500)
    if answer.getheader("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise FetchError("expected Content-Type application/json")
    if answer.getheader("Content-Encoding", "identity").strip().lower() != "identity":
        raise FetchError("expected no Content-Encoding")
    body = answer.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise FetchError(f"expected at most {MAX_BYTES} bytes")
    _left(until)  # what the watch has cut off could look whole
    policy = answer.getheader("Cache-Control", "").lower()
    age = _MAX_AGE.search(policy)
    if "no-store" in policy or "no-cache" in policy:
        return FetchedDocument(body, 0)
    return FetchedDocument(body, None if age is None else int(age[1]))


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
