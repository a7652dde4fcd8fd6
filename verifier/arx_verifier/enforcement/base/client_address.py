# SPDX-License-Identifier: Apache-2.0
"""The address of a caller behind trusted proxies, for the caveat ``net``.  SPEC 6.1."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_network
from typing import Any, Final

from arx_verifier.addresses import Address, Network, read_address, write_address
from arx_verifier.errors import SettingsError

_MAX_CHARS: Final = 64  # the longest address, in brackets and with a port, has 53; bounds the entries of the caches


class Peers:
    """The rule that finds the caller's address.

    Args:
        trusted_proxies: Networks of the proxies whose ``X-Forwarded-For`` is trusted; none by default.

    Raises:
        SettingsError: Not a network.
    """

    def __init__(self, trusted_proxies: Iterable[str] = ()) -> None:
        self._trusted: list[Network] = []
        for text in trusted_proxies:
            try:
                self._trusted.append(ip_network(text))
            except ValueError as error:
                raise SettingsError(f"{text!r:.60} is not a network like 10.0.0.0/8") from error

    def of(self, client: str | None, forwarded: Iterable[str] = ()) -> str | None:
        """Return the caller's address.

        Args:
            client: The other end of the socket, or None for a socket without an address.
            forwarded: The values of all ``X-Forwarded-For`` headers, in order.

        Returns:
            The address in its usual form, a mapped IPv4 address as IPv4; None if it is unknown.  A ``net`` caveat
            refuses None.
        """
        if not client:
            return None
        if not self._trusted:
            return _spelled(client) if len(client) <= _MAX_CHARS else None
        address = _read(client)
        if address is None or not self._trusts(address):
            return write_address(address) if address is not None else None
        # From the right: each trusted proxy appended the address that it saw.  The first address of another machine is
        # the caller; what is left of it, the caller wrote itself.
        for text in reversed([part for value in forwarded for part in value.split(",")]):
            address = _read(text.strip())
            if address is None or not self._trusts(address):
                break
        return write_address(address) if address is not None else None

    def of_scope(self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> str | None:
        """Return the address of the caller of an ASGI request; see ``of``.

        Args:
            scope: The scope.
            headers: ``collect_headers`` of it.
        """
        client, forwarded = scope.get("client"), headers.get(b"x-forwarded-for")
        return self.of(client[0] if client else None, (forwarded.decode("latin-1"),) if forwarded else ())

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _read(text: str) -> Address | None:
    """Parse an address as proxies write it: bare, or with a port; IPv6 with a port is in brackets."""
    return _read_short(text) if len(text) <= _MAX_CHARS else None


@lru_cache(maxsize=4096)  # the same clients call again, and parsing an address takes half as long as a decision
def _read_short(text: str) -> Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return read_address(text)


@lru_cache(maxsize=4096)
def _spelled(text: str) -> str | None:
    address = _read_short(text)
    return write_address(address) if address is not None else None
