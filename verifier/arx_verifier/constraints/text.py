# SPDX-License-Identifier: Apache-2.0
"""Match an argument's text: glob, path, URL, network.  SPEC 7.3.

Matching is lexical: no file system, no name lookup, no decoding of escapes.
"""

import re
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any, Final, NamedTuple

import arx_verifier.addresses as addresses
from arx_verifier.addresses import Address
from arx_verifier.constraints.scalars import Test, is_text, same_text
from arx_verifier.errors import MalformedTokenError

# Holders write these operands and verifiers must run them, so nothing takes more than linear time, and nothing
# backtracks.  Text that two readers could understand differently matches nothing, not even under ``not``.

# A path can mean another one through control characters, a backslash, an empty segment, an escaped dot, slash,
# backslash, NUL or per cent sign (decoded twice somewhere), and segments of dots only, also before a path parameter
# (``..;``) or padded with spaces (which Windows drops).  Each is searched for separately, most by a plain search: a
# caller may send a million characters to thirty tests.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DOTS: Final = re.compile(r"/[. ]+(?:;[^/]*)?(?:/|\Z)")
_ESCAPES: Final = ("%2e", "%2f", "%25", "%5c", "%00")
_NOT_IN_URL: Final = ' "<>\\^`{|}'  # nor what is not printable ASCII
_ANY_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([1-9][0-9]{0,4}))?")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER_LIKE: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a last label that URL parsers take for an IPv4 address
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_MAX_URL_CHARS: Final = 8192  # RFC 9110 4.1 asks servers for 8 000 octets; a longer URL is not parsed
_MAX_HOST_CHARS: Final = 253  # RFC 1035 2.3.4
_MAX_ADDRESS_CHARS: Final = 45  # the longest way to write an IPv6 address


def glob(operand: Any) -> Test:
    """Return the test: the text matches a pattern; ``*`` is any run of characters without ``/``.

    Raises:
        MalformedTokenError: The pattern is not allowed by SPEC 7.3.
    """
    # Text with a control character or a line break is not tested, and so refused: a reader could take it to end there.
    if type(operand) is not str or operand == "" or not is_one_line(operand):
        raise MalformedTokenError("glob must be text without control characters and line breaks, and not empty")
    if "**" in operand:
        # Other globs let `**` cross slashes; a holder who expects that under ``not`` would refuse too little.
        raise MalformedTokenError("glob has no '**': use subpath for everything below a path")
    if "*" not in operand:
        return is_one_line, same_text(operand)
    if operand.count("*") == 1:
        return is_one_line, _one_star(*operand.split("*"))
    # ``*`` matches no slash, so value and pattern have the same slashes: compare segment by segment.
    matches = [_segment(part) for part in operand.split("/")]

    def holds(value: Any) -> bool:
        if type(value) is not str or value.count("/") != len(matches) - 1:
            return False
        return is_one_line(value) and all(match(part) for match, part in zip(matches, value.split("/"), strict=True))

    return is_one_line, holds


def subpath(operand: Any) -> Test:
    """Return the test: the text is this path or below it, and can mean no other path.

    Raises:
        MalformedTokenError: The operand is not a clean path, or ends with ``/``.
    """
    if type(operand) is not str or not is_clean_path(operand):
        raise MalformedTokenError("subpath must be a path without '.', '..', '//', a backslash or escapes of these")
    if operand == "/":
        return is_clean_path, lambda value: type(value) is str and value.startswith("/") and is_clean_path(value)
    if operand.endswith("/"):
        raise MalformedTokenError("subpath must not end with '/'")
    below = operand + "/"

    def holds(value: Any) -> bool:
        # The beginning is compared first: the search visits each character, and a caller may send a million.
        if type(value) is not str or not (value.startswith(below) or value == operand):
            return False
        return is_clean_path(value)

    return is_clean_path, holds


def is_one_line(value: Any) -> bool:
    """Return whether *value* is text without control characters and line breaks."""
    return type(value) is str and (value.isprintable() or _CONTROL.search(value) is None)


def is_clean_path(value: Any) -> bool:
    """Return whether *value* is a path that can mean only itself."""
    if type(value) is not str or value == "" or "\\" in value or "//" in value:
        return False
    if not is_one_line(value):
        return False
    if "%" in value:
        lower = value.lower()  # only ASCII letters become the letters in these escapes
        if any(escape in lower for escape in _ESCAPES):
            return False
    return not ("/." in value or "/ " in value or value[0] in ". ") or _DOTS.search("/" + value) is None


def cidr(operand: Any) -> Test:
    """Return the test: the text is an IP address in this network; IPv4 inside IPv6 is unwrapped first.

    Addresses of the other IP version are not tested, and so refused.

    Raises:
        MalformedTokenError: The operand is not a network in canonical form.
    """
    if type(operand) is not str:
        raise MalformedTokenError("cidr: expected a network such as 10.0.0.0/8")
    try:
        network = addresses.read_network(operand)
    except ValueError as error:
        raise MalformedTokenError(f"cidr: {error}") from None
    version = network.version

    def speaks(value: Any) -> bool:
        address = read_address(value)
        return address is not None and address.version == version

    return speaks, lambda value: (address := read_address(value)) is not None and address in network


def read_address(value: Any) -> Address | None:
    """Parse an IP address strictly: no zone, no leading zeros, no short form; IPv4 inside IPv6 is unwrapped.

    Returns:
        The address, or None.
    """
    if type(value) is not str or len(value) > _MAX_ADDRESS_CHARS or "%" in value:
        return None
    return addresses.read_address(value)


class _Location(NamedTuple):
    scheme: str
    host: str  # lower case; an IP address in canonical form, in brackets if it is IPv6
    port: int | None
    path: str


def url(scheme: Any, host: Any, port: Any, path: Any) -> Test:
    """Return the test: the text is a URL with this scheme and host, and this port and path if given.

    Args:
        scheme: In lower case.
        host: Exact, or ``*.example.com`` for every name below ``example.com``.  An IP address, private ones included,
            and ``localhost`` match only if the operand is that address or name.
        port: 1-65535, or None for any; a URL without a port has its scheme's.
        path: As for ``subpath``, beginning with ``/``, or None for any.

    Raises:
        MalformedTokenError: A part is not allowed by SPEC 7.3.
    """
    if type(scheme) is not str or _SCHEME.fullmatch(scheme) is None:
        raise MalformedTokenError("url scheme must be in lower case, such as 'https'")
    speaks_of_host, host_holds = _host(host)
    if port is not None and (type(port) is not int or not 1 <= port <= 65535):
        raise MalformedTokenError("url port must be 1-65535")
    if path is not None and (type(path) is not str or not path.startswith("/")):
        raise MalformedTokenError("url path must begin with '/'")
    speaks_of_path, path_holds = subpath(path) if path is not None else (is_text, is_text)

    def speaks(value: Any) -> bool:
        location = _read_url(value)
        return location is not None and speaks_of_host(location.host) and speaks_of_path(location.path)

    def holds(value: Any) -> bool:
        location = _read_url(value)
        if location is None or location.scheme != scheme or not host_holds(location.host):
            return False
        return (port is None or location.port == port) and path_holds(location.path)

    return speaks, holds


def _host(operand: Any) -> Test:
    wild = type(operand) is str and operand.startswith("*.")
    name = operand[2:] if wild else operand
    if type(name) is not str or name != _one_form(name) or (wild and _is_literal(name)):
        raise MalformedTokenError("url host must be a name in lower case, '*.name', or an IP address in canonical form")
    suffix = operand[1:]

    def speaks(value: str) -> bool:
        # A number, or this machine's own name, could be any host in disguise: only an equal operand tests it.
        return value == operand or not _is_literal(value)

    return speaks, (lambda value: value.endswith(suffix)) if wild else (lambda value: value == operand)


def _is_literal(host: str) -> bool:
    """Return whether *host* is an IP address, private or not, or a name of this machine."""
    if host.startswith("[") or host == "localhost" or host.endswith(".localhost"):
        return True
    return _NUMBER_LIKE.fullmatch(host.rpartition(".")[2]) is not None


def _one_form(host: str) -> str | None:
    """Return a host in canonical form; None for odd IP notations and for text that is no host."""
    if host.startswith("["):
        address = read_address(host[1:-1])
        return f"[{addresses.write_address(address)}]" if isinstance(address, IPv6Address) else None
    host = host.lower()
    labels = host.split(".")
    if _NUMBER_LIKE.fullmatch(labels[-1]) is not None:
        # 0x7f.1, 2130706433 and 0177.0.0.1 are 127.0.0.1 to many clients.
        return host if read_address(host) is not None else None
    if len(host) > _MAX_HOST_CHARS or not all(map(_LABEL.fullmatch, labels)):
        return None
    return host


def _read_url(value: Any) -> _Location | None:
    if type(value) is not str or len(value) > _MAX_URL_CHARS or not value.isascii() or not value.isprintable():
        return None
    if any(character in value for character in _NOT_IN_URL):
        return None
    # In the order of RFC 3986 B: fragment and query first, because they may contain `://` and slashes.
    scheme, _, rest = value.partition("#")[0].partition("?")[0].partition("://")
    named, slash, path = rest.partition("/")
    # Everything but host and port is refused, user information included: ``good.example@evil.example``.
    authority = _AUTHORITY.fullmatch(named)
    if authority is None or _ANY_SCHEME.fullmatch(scheme) is None:
        return None
    host, scheme = _one_form(authority[1]), scheme.lower()
    port = int(authority[2]) if authority[2] else _DEFAULT_PORTS.get(scheme)
    if host is None or (port is not None and port > 65535):
        return None
    return _Location(scheme, host, port, slash + path or "/")


def _one_star(first: str, last: str) -> Callable[[Any], bool]:
    start, shortest = len(first), len(first) + len(last)
    if not last:  # as for everything in a folder
        return lambda value: (
            type(value) is str
            and value.startswith(first)
            and value.find("/", start) < 0
            and (value.isprintable() or _CONTROL.search(value) is None)
        )

    def holds(value: Any) -> bool:
        if type(value) is not str or not value.startswith(first) or not value.endswith(last):
            return False
        return len(value) >= shortest and value.find("/", start, len(value) - len(last)) < 0 and is_one_line(value)

    return holds


def _segment(pattern: str) -> Callable[[str], bool]:
    """Return the test of text without slashes against one segment of a pattern."""
    # First and last literal match at the ends, each other one at its leftmost place.  The leftmost place leaves the
    # most for the rest, so that no backtracking is needed.
    if "*" not in pattern:
        return lambda text: text == pattern
    first, *middle, last = pattern.split("*")
    literals = [part for part in middle if part]
    shortest = len(first) + len(last)

    def match(text: str) -> bool:
        if len(text) < shortest or not text.startswith(first) or not text.endswith(last):
            return False
        at, end = len(first), len(text) - len(last)
        for literal in literals:
            at = text.find(literal, at, end)
            if at < 0:
                return False
            at += len(literal)
        return True

    return match
