# SPDX-License-Identifier: Apache-2.0
"""The address at which a mint itself can be asked, past any proxy."""

import ipaddress
import socket

from arx_verifier.revocation import without_login

_ANY_PORT = 9  # nothing is sent: a UDP socket only finds the route


def own_address(host: str, port: int, store_url: str) -> str:
    """Return the URL at which the mint listens, with a host that other machines of the realm can use.

    Args:
        host: The address that it listens at; of any form.
        port: The port.
        store_url: The revocation store's URL: the mint names itself by the address that it reaches this store from.
    """
    with_brackets = _bracketed(host if not _is_any(host) else _towards(store_url))
    return f"http://{with_brackets}:{port}"


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _towards(store_url: str) -> str:
    """Return this machine's address on the way to the store; loopback if the store is on this machine."""
    scheme, _, rest = without_login(store_url).partition("://")
    place = rest.partition("/")[0].partition("?")[0].partition(",")[0]
    host = place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]
    if scheme == "unix" or not host:
        return "127.0.0.1"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as route:
            route.connect(address)
            return str(route.getsockname()[0])
    except OSError:
        return socket.gethostname()
