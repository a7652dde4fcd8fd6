# SPDX-License-Identifier: Apache-2.0
"""From which address a request came, when proxies stand in between.  SPEC 6.1.

Only what a trusted proxy added is believed: the forwarded addresses are read from the right, up to the first that no
trusted proxy has.  An address that cannot be told is none, and a ``net`` caveat refuses none.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, TypeAlias

from arx_verifier.errors import SettingsError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_CHARS: Final = 64  # the longest address, in brackets and with a port, has 53: what is kept below stays small


class Peers:
    """Finds the peer of a request.

    Args:
        trusted_proxies: Networks of the proxies whose ``X-Forwarded-For`` is believed; none by default.

    Raises:
        SettingsError: Not a network.
    """

    def __init__(self, trusted_proxies: Iterable[str] = ()) -> None:
        self._trusted: list[Network] = []
        for text in trusted_proxies:
            try:
                self._trusted.append(ipaddress.ip_network(text))
            except ValueError as error:
                raise SettingsError(f"{text!r:.60} is not a network like 10.0.0.0/8") from error

    def of(self, client: str | None, forwarded: Iterable[str] = ()) -> str | None:
        """Return the address a request came from.

        Args:
            client: The other end of the socket, or None where there is none.
            forwarded: The values of all ``X-Forwarded-For`` headers, in order.

        Returns:
            The address in its usual form, an IPv4 one out of its IPv6 mapping; or None.
        """
        if not client:
            return None
        if not self._trusted:
            return _spelled(client) if len(client) <= _MAX_CHARS else None
        address = _read(client)
        if address is None or not self._trusts(address):
            return str(address) if address is not None else None
        for text in reversed([part for value in forwarded for part in value.split(",")]):
            address = _read(text.strip())
            if address is None or not self._trusts(address):
                break
        return str(address) if address is not None else None

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _read(text: str) -> Address | None:
    """Read an address as proxies write it: bare, or with a port, an IPv6 one then in brackets."""
    return _read_short(text) if len(text) <= _MAX_CHARS else None


@lru_cache(maxsize=4096)  # the same clients call again, and reading an address takes half as long as a decision
def _read_short(text: str) -> Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped if mapped is not None else address


@lru_cache(maxsize=4096)
def _spelled(text: str) -> str | None:
    address = _read_short(text)
    return str(address) if address is not None else None
