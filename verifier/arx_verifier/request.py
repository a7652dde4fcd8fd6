# SPDX-License-Identifier: Apache-2.0
"""Requests that a verifier decides on, and the strict parser of their JSON arguments.  SPEC 8.

``enforcement`` maps an HTTP request to a tool.
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from arx_verifier.errors import RequestError

BOXES: Final = ("none", "bubblewrap")  # what a caller may state of the box that it runs in
MAX_JSON_DEPTH: Final = 32  # more than any tool's arguments have
MAX_INTEGER: Final = 2**53 - 1  # beyond it two parsers of the same bytes can return two numbers (RFC 8785)
UNSEEN_BODY: Final = bytes(32)  # in the place of the digest of a body that the verifier does not see; of no body
_MAX_INTEGER_CHARS: Final = 17  # a sign and 16 digits; a longer one is refused first: its conversion is quadratic
_MAX_FLOAT_CHARS: Final = 128  # the conversion of a decimal is not linear in its length
_EXACT_FLOAT_CHARS: Final = 16  # a dot and 15 digits, which a double always carries


class HttpCall(NamedTuple):
    """The HTTP request that carries a call, as its proof covers it.  SPEC 8.2.

    Attributes:
        method: The method as sent, upper case.
        target: Raw path and query as sent, before any decoding; an empty query may have its question mark or not.
        body_digest: SHA-256 of the body, 32 bytes; without a body, that of the empty string; ``UNSEEN_BODY`` if there
            may be one that the verifier does not see.
    """

    method: str
    target: bytes | str
    body_digest: bytes


class AccessRequest(msgspec.Struct, frozen=True):
    """One call, to be allowed or refused.

    Attributes:
        tool: Name of the tool; empty if the request maps to none, which no token allows.
        args: The arguments as they were sent, before validation or defaults.
        at: The time of the request, ms since the Unix epoch; the caller reads the clock once.
        peer: Network address of the caller, or None.
        http: The HTTP request around it, or None for another transport.
        request_id: The request's id in its own protocol, such as an MCP request's, for the record; or None.
        traceparent: The caller's trace context (W3C), for the record; or None.
        box: What the caller states of the box that it runs in, one of ``BOXES``, for the record; or None.

    Raises:
        TypeError: ``args`` is no mapping, ``at`` no integer, or a text member has another type.
    """

    tool: str
    args: Mapping[str, Any]
    at: int
    peer: str | None = None
    http: HttpCall | None = None
    request_id: str | None = None
    traceparent: str | None = None
    box: str | None = None

    def __post_init__(self) -> None:
        """Check the members' types."""
        # A decision on members of other types could be recorded in a form that no reader accepts.
        peer, request_id, traceparent = self.peer, self.request_id, self.traceparent
        if (
            not isinstance(self.tool, str)
            or type(self.at) is not int
            or (peer is not None and type(peer) is not str)
            or (request_id is not None and type(request_id) is not str)
            or (traceparent is not None and type(traceparent) is not str)
            or (self.box is not None and self.box not in BOXES)
        ):
            raise TypeError(
                "a request's tool is text, its `at` a whole number of ms, its peer, request_id and traceparent text or "
                f"None, its box one of {', '.join(BOXES)} or None"
            )
        if type(self.args) is not dict and not isinstance(self.args, Mapping):
            raise TypeError(f"a request's args are a mapping of names to values, not {type(self.args).__name__}")

    def after(self, waited_ns: int) -> "AccessRequest":
        """Return the same request at a later time.

        Args:
            waited_ns: How long the request has waited, ns.
        """
        # Without this, a call that waits in a queue could outlive the memory of its nonce.
        waited_ms = waited_ns // 1_000_000
        return msgspec.structs.replace(self, at=self.at + waited_ms) if waited_ms else self


def read_json_object(raw: bytes) -> dict[str, Any]:
    """Parse one JSON object so strictly that no second parser can see another one in the same bytes.  SPEC 8.2.

    Args:
        raw: The body, UTF-8 without a byte-order mark.

    Returns:
        The object's members.

    Raises:
        RequestError: Not JSON, not an object, a duplicate name at any depth, NaN or an infinity, a number beyond
            2^53-1, a decimal with more digits than a double carries, a lone surrogate, or more than 32 levels.
    """
    plain = _read_plain(raw)
    if plain is not None:
        return plain
    try:
        decoder = _CAREFUL if _LONG_NUMBER.search(raw) else _DECODER
        value = decoder.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RequestError(f"the JSON is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise RequestError(f"the JSON is nested deeper than {MAX_JSON_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise RequestError("the JSON is not an object")
    # Each level has an opening bracket and each surrogate an escape: without them there is nothing to check.
    if raw.count(b"{") + raw.count(b"[") > MAX_JSON_DEPTH:
        check_depth(value)
    if b"\\ud" in raw.lower():
        _check_text(value)
    return value


def _read_plain(raw: bytes) -> dict[str, Any] | None:
    """Parse an object without containers, escapes and long numbers, as most bodies are; None for others."""
    folded = raw.translate(_FOLDED)
    if folded.count(b"{") != 1 or _ZEROS in folded:
        return None
    try:
        value = _PLAIN.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # the careful parser raises with a precise error
    # This parser takes the last of duplicate names.  Each member has a colon: with as many colons as names, no name was
    # used twice.  A float is left to the careful parser, which has its digits.
    if type(value) is not dict or len(value) != raw.count(b":") or float in map(type, value.values()):
        return None
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise RequestError("the JSON has a name twice in one object")
    return members


def _integer(text: str) -> int:
    value = int(text) if len(text) <= _MAX_INTEGER_CHARS else MAX_INTEGER + 1
    if not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise RequestError("the JSON has an integer beyond 2^53-1")
    return value


def _float(text: str) -> float:
    value = float(text) if len(text) <= _MAX_FLOAT_CHARS else float("inf")
    # As for the integer that it is: beyond it no double has a fraction.
    if not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise RequestError("the JSON has a number beyond 2^53-1, or one that is too long")
    # A reader of decimals would see another number than a reader of floats: 20.000000000000000001 is above 20.
    if not _is_exact(text, value):
        raise RequestError("the JSON has a number with more digits than a double carries; send it as text")
    return value


def _is_exact(text: str, value: float) -> bool:
    """Return whether a number's text is the decimal of its float's shortest digits."""
    if len(text) <= _EXACT_FLOAT_CHARS and "e" not in text and "E" not in text:
        return True
    if value == 0:  # an exponent far below what a decimal takes
        return not any(digit in text.lower().partition("e")[0] for digit in "123456789")
    return Decimal(text) == Decimal(repr(value))


def _constant(text: str) -> NoReturn:
    raise RequestError(f"the JSON has {text}, which is not a number")


# One search of the bytes for long numbers: a body of half a million short ones then needs no hook for each.
_LONG_NUMBER: Final = re.compile(rb"[0-9]{16}")
_ZEROS: Final = b"0" * 16  # a long number once each digit is folded
# Every digit becomes a zero.  A backslash, a bracket and all beyond ASCII count as another opening brace.
_FOLDED: Final = bytes(range(128)).translate(bytes.maketrans(b"123456789\\[", b"000000000{{")) + b"{" * 128
_PLAIN: Final = msgspec.json.Decoder()
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_float=_float, parse_constant=_constant, strict=True
)
_CAREFUL: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_float, parse_constant=_constant, strict=True
)


def check_depth(value: Any) -> None:
    """Check the depth of nested containers in plain data, level by level.

    Raises:
        RequestError: There are more than 32 levels.
    """
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            inner
            for item in level
            for inner in (item.values() if type(item) is dict else item)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return
    raise RequestError(f"the JSON is nested deeper than {MAX_JSON_DEPTH} levels")


def _check_text(value: Any) -> None:
    try:
        msgspec.json.encode(value)  # the fastest check of every name and text: a lone surrogate has no UTF-8
    except UnicodeEncodeError:
        raise RequestError("the JSON has half of a surrogate pair") from None
