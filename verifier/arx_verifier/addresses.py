# SPDX-License-Identifier: Apache-2.0
"""IP addresses, networks and URLs, read and written alike on each supported version of Python.  SPEC 6.1, 7.3.

The text of ``ipaddress`` and the parts of ``urllib.parse.urlsplit`` depend on the version: no decision compares them.
"""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from urllib.parse import SplitResult

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_ZEROS: Final = re.compile(r"(?<![0-9a-f])0(?::0)+(?![0-9a-f])")
_STRIPPED: Final = re.compile(r"\A |[\x00-\x1f\x7f]")  # what urlsplit drops, or keeps, without an error
_PORT: Final = re.compile(r"[0-9]{1,5}")
_LOOPBACK: Final = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
# Python 3.11.7 takes ``[::1]x`` for the host ``::1``, later versions refuse it; all differ in ``[v1.x]``.
_BRACKETED: Final = re.compile(r"\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~%-]+)?\](?::.*)?")


def read_address(text: str) -> Address | None:
    """Parse an IP address, and unwrap IPv4 inside IPv6.

    Args:
        text: Such as ``192.0.2.7``, ``2001:db8::1``, ``::ffff:192.0.2.7`` or ``fe80::1%eth0``.

    Returns:
        The address, or None.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address if isinstance(address, IPv4Address) else address.ipv4_mapped or address


def read_port(text: str) -> int | None:
    """Parse a TCP port in ASCII digits: an integer of 0 to 65535, or None.

    Args:
        text: Such as ``8700``.
    """
    # `int` reads other digits too, and raises for `²`, which `isdigit` takes for one, and for 4301 digits.
    return int(text) if _PORT.fullmatch(text) and int(text) <= 65535 else None


def write_address(address: Address) -> str:
    """Return the canonical text of an address: RFC 5952 4, and its zone if it has one.

    The last 32 bits of IPv6 are never written as IPv4 (RFC 5952 5).

    Args:
        address: The address.
    """
    packed = address.packed
    if isinstance(address, IPv4Address):
        return ".".join(map(str, packed))
    text = ":".join(f"{packed[at] << 8 | packed[at + 1]:x}" for at in range(0, 16, 2))
    longest = max(_ZEROS.finditer(text), key=lambda run: len(run[0]), default=None)  # the first of the longest
    if longest is not None:
        text = f"{text[: longest.start()].removesuffix(':')}::{text[longest.end() :].removeprefix(':')}"
    return text if address.scope_id is None else f"{text}%{address.scope_id}"


def read_network(text: str) -> Network:
    """Parse a network in canonical form: the text of ``write_address``, a slash and the length of the prefix.

    Args:
        text: Such as ``10.0.0.0/8`` or ``2001:db8::/32``.

    Raises:
        ValueError: It has another form or bits beyond its prefix, or is a network of IPv4 inside IPv6, which has no
            address: such an address is unwrapped.
    """
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(f"expected a network without host bits, such as 10.0.0.0/8, got {text!r:.60}") from None
    address = network.network_address
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        raise ValueError(f"expected an IPv4 network as such and not inside IPv6, got {text!r:.60}")
    # A mask, a zone, no prefix, other digits: another reader may read them as another network.
    if f"{write_address(address)}/{network.prefixlen}" != text or "%" in text:
        raise ValueError(f"expected a network in canonical form, such as 10.0.0.0/8 or 2001:db8::/32, got {text!r:.60}")
    return network


def is_loopback(host: str) -> bool:
    """Return whether a host is reachable from this machine alone: an address as such, or ``localhost``.

    Args:
        host: An address without brackets, or a name.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return any(address in network for network in _LOOPBACK)


def split_url(url: str) -> "SplitResult | None":
    """Return the parts of a URL; None if it is broken, or if versions of Python split it in different ways.

    Args:
        url: The URL.
    """
    from urllib.parse import urlsplit  # a decision splits no URL, and starts without this

    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for a port that is no number or beyond 65535
    except ValueError:
        return None
    host = parts.netloc.rpartition("@")[2]
    if ("[" in parts.netloc or "]" in parts.netloc) and _BRACKETED.fullmatch(host) is None:
        return None
    return parts if _STRIPPED.search(url) is None else None
