# SPDX-License-Identifier: Apache-2.0
"""Where an audience lives: scheme, host and port, and nothing less.  RFC 6454 4.

The mint's policy says which origins an audience has.
"""

import re
from typing import Final, NamedTuple

from arx_verifier.errors import MalformedTokenError, shorten

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAX_ORIGIN_CHARS: Final = 300  # a host name has at most 253 characters

# Lower-case ASCII alone, without user, path or query: what two URL parsers read differently could send a token to
# another host (`https://orders.example@attacker.example`).
_ORIGIN: Final = re.compile(r"(https?)://(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::([1-9][0-9]{0,4}))?")


class Origin(NamedTuple):
    """An origin, its default port written out.

    Attributes:
        scheme: ``http`` or ``https``.
        host: Lower case, punycode, an IPv6 address without brackets.
        port: 1 to 65535.
    """

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == DEFAULT_PORTS.get(self.scheme) else f":{self.port}")


def read_origin(text: str) -> Origin:
    """Read an origin such as ``https://orders.example`` or ``http://127.0.0.1:8701``.

    Args:
        text: Scheme, host and perhaps a port; no user, path, query or fragment.

    Returns:
        The origin.

    Raises:
        MalformedTokenError: The text is something else.
    """
    found = _ORIGIN.fullmatch(text) if len(text) <= MAX_ORIGIN_CHARS else None
    if found is None:
        raise MalformedTokenError(f"{shorten(text)} is not an origin such as https://orders.example:8443")
    scheme, address, name, digits = found.groups()
    port = int(digits) if digits else DEFAULT_PORTS[scheme]
    # The pattern lets 65536 to 99999 pass, which no socket can have.
    if port > 65535:
        raise MalformedTokenError(f"{shorten(text)} has a port above 65535")
    return Origin(scheme, address or name, port)


def origin_of(scheme: str, host: str, port: int | None) -> Origin:
    """Return the origin of a URL that an HTTP client has taken apart; an unknown scheme has port 0 by default."""
    # All three parts count: another port of a host may be another owner's service.
    return Origin(scheme, host.lower(), port if port is not None else DEFAULT_PORTS.get(scheme, 0))
