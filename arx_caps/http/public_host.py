# SPDX-License-Identifier: Apache-2.0
"""Connect to a host that another party names, without reaching the own network, for a bounded time.

``arx_caps.http.public_fetch`` and the mint's notifications decide what is asked, and of which hosts.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from arx_verifier.errors import RequestError

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

Lookup = Callable[[str, int], Sequence[Any]]


class NotPublicError(RequestError):
    """A host has an address that is not one of the public internet."""


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


class HostRules(NamedTuple):
    """How a host is reached.

    Attributes:
        context: Which authorities are trusted for TLS; None for plain HTTP.
        lookups: The threads of lookups, because a resolver may take longer than the call; None for the caller's own.
        lookup: How to find addresses.
        may_connect: Whether an address may be reached.
    """

    context: ssl.SSLContext | None
    lookups: ThreadPoolExecutor | None = None
    lookup: Lookup = find_addresses
    may_connect: Callable[[str], bool] = is_public


@contextlib.contextmanager
def connect_public(host: str, port: int, until: float, rules: HostRules) -> Iterator[http.client.HTTPConnection]:
    """Yield a connection to a host, which is closed at ``until`` at the latest.

    Args:
        host: The host.
        port: Its port.
        until: When the call must be over, s of the monotonic clock.
        rules: How it is reached.

    Raises:
        NotPublicError: An address is not public.
        OSError, TimeoutError, UnicodeError: The host did not answer.
    """
    if rules.lookups is None:
        found = rules.lookup(host, port)
    else:
        found = rules.lookups.submit(rules.lookup, host, port).result(time_left(until))
    # All of them: a name with a public and a private address would be tried until the private one answers.
    if not found or not all(rules.may_connect(str(address[4][0])) for address in found):
        raise NotPublicError(f"{host} has an address that is not public")
    with _connect(found, until) as raw:
        # The timeout of a socket is for each read, so that a slow server could go on for hours, one byte at a time.
        watch = threading.Timer(time_left(until), _end, (raw,))
        watch.start()
        try:
            if rules.context is None:
                connection = http.client.HTTPConnection(host, port)
                connection.sock = raw
                yield connection
                return
            with rules.context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False) as sock:
                watch.cancel()  # the wrapped socket has taken over the file
                watch = threading.Timer(time_left(until), _end, (sock,))
                watch.start()
                sock.do_handshake()
                connection = http.client.HTTPSConnection(host, port, context=rules.context)
                connection.sock = sock
                yield connection
        finally:
            watch.cancel()


def time_left(until: float) -> float:
    """Return the seconds until a time of the monotonic clock.

    Raises:
        TimeoutError: It is past.
    """
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _connect(found: Sequence[Any], until: float) -> socket.socket:
    """Return a connection to a checked address, without another lookup."""
    why: OSError = TimeoutError()
    for family, kind, protocol, _, place in found:
        raw = socket.socket(family, kind, protocol)
        try:
            raw.settimeout(time_left(until))
            raw.connect(place)
            return raw
        except OSError as error:
            raw.close()
            why = error
    raise why


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was closed in this moment
        sock.shutdown(socket.SHUT_RDWR)
