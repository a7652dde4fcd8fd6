# SPDX-License-Identifier: Apache-2.0
"""One byte form for JSON: strict for what a token holds, RFC 8785 for what a call carries.  SPEC 3.

``encode`` and ``decode`` handle typed structs: a value is accepted only if encoding it again gives the same bytes, and
that rules out duplicate names, other orders, escapes and white space at once.  ``jcs`` writes a tool's arguments, which
have no type.  What the members mean is left to the structs; how a request's JSON is read, to ``request``.
"""

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from arx_verifier._native import twin
from arx_verifier.errors import ArxError, MalformedTokenError, RequestError

MAX_INTEGER: Final = 2**53 - 1  # beyond it ECMAScript and every float-based JSON reader lose digits (RFC 8785 D)
MAX_DEPTH: Final = 32  # nested containers in arguments: far above real tools, far below any recursion limit
LAST_NAME_CHARACTER: Final = "\uffff"  # up to here UTF-16 order and code point order are the same

_T = TypeVar("_T")

_ENCODER: Final = msgspec.json.Encoder(order="sorted")


def encode(value: Any) -> bytes:
    """Write a struct, or plain data made of strings, integers, lists and dicts, in canonical form.

    The value is not checked: what a caller made by hand is proven by decoding the result.

    Raises:
        MalformedTokenError: A lone surrogate, a type that JSON does not have, or a name that is no text.
    """
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError as error:
        raise MalformedTokenError("text with half of a surrogate pair cannot stand in a token") from error
    except TypeError as error:
        raise MalformedTokenError(f"this cannot stand in a token: {error}") from error


def decode(
    decoder: msgspec.json.Decoder[_T], raw: bytes, explain: Callable[[bytes], ArxError | None] | None = None
) -> _T:
    """Read canonical JSON, refusing every other way to write the same value.

    Args:
        decoder: Typed with frozen structs that forbid unknown fields; its types carry the bounds of integers.
        raw: The bytes as received.
        explain: Has another error to say of bytes that cannot be read, or None.

    Returns:
        The decoded value; encoding it gives *raw* again.

    Raises:
        MalformedTokenError: Not JSON, not of this type, or not in canonical form.
    """
    try:
        value = decoder.decode(raw)
        same = _ENCODER.encode(value) == raw
        # A name beyond U+FFFF needs a four-byte character somewhere; only then is the second reading paid for.  It is
        # of the whole, also of what the types left raw, and may fail where the first did not.
        plain = raw.isascii() or max(raw) < 0xF0 or _names_are_plain(msgspec.json.decode(raw))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        # Without a name: an error that its own frame names is a cycle.  msgspec's text names a type, never a value.
        raise (explain(raw) if explain is not None else None) or MalformedTokenError(
            f"not what is expected here: {_because(error)}"
        ) from error
    if not same:
        raise MalformedTokenError("not canonical JSON: another order, spacing, escape, or a member said twice")
    if not plain:
        raise MalformedTokenError("a name has a character beyond U+FFFF")
    return value


def is_plain_name(name: str) -> bool:
    """Tell whether a member's name has no character beyond U+FFFF and is not empty."""
    return name != "" and (name.isascii() or max(name) <= LAST_NAME_CHARACTER)


def jcs(value: Any) -> bytes:
    """Write a tool's arguments as RFC 8785 does, for the digest that a call's proof signs.

    Args:
        value: ``str``, ``int``, ``float``, ``bool``, ``None``, ``list`` or ``dict``, to any mixture; subclasses of
            these are refused, because two libraries might write them differently.

    Raises:
        RequestError: NaN, an infinity, an integer beyond 2**53 - 1, a lone surrogate, a name that is no text,
            another type, or more than 32 nested containers.
    """
    try:
        raw = flat_jcs(value)
        if raw is not None:
            return raw
        return _ENCODER.encode(value) if _is_simple(value, MAX_DEPTH) else _write(value).encode()
    except UnicodeEncodeError as error:
        raise RequestError("the arguments hold half of a surrogate pair") from error


def flat_jcs(value: Any) -> bytes | None:
    """Write what most calls carry, a dict of text, small integers and booleans under ASCII names, as ``jcs`` would.

    Returns:
        RFC 8785, or None for anything else, which ``jcs`` looks at with more care.

    Raises:
        UnicodeEncodeError: A lone surrogate.
    """
    if not is_flat(value):
        return None
    raw = _ENCODER.encode(value)
    # Only under ASCII names is msgspec's order surely that of RFC 8785.
    return raw if raw.isascii() or all(map(str.isascii, value)) else None


@twin()
def is_flat(value: Any) -> bool:
    """Tell whether *value* is a dict of nothing but text, integers within 2**53 - 1 and booleans, under text."""
    if type(value) is not dict:
        return False
    for name, item in value.items():
        kind = type(item)
        if kind is not str and not (kind is int and -MAX_INTEGER <= item <= MAX_INTEGER) and kind is not bool:
            return False
        if type(name) is not str:
            return False
    return True


def number(value: float) -> str:
    """Write a float as ECMAScript does (RFC 8785 3.2.2.3): shortest digits, ``1e+21``, ``-0`` as ``0``.

    Raises:
        RequestError: NaN or an infinity.
    """
    if not math.isfinite(value):
        raise RequestError("NaN and infinities are not JSON numbers")
    if value == 0:
        return "0"
    mantissa, _, power = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = fraction.rstrip("0")
    digits = (whole + fraction).lstrip("0")
    # point: how many of the digits stand before the decimal point (0 or negative: zeros follow it first).
    point = len(whole) + int(power or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    return ("-" if value < 0 else "") + _place(digits, point)


def _place(digits: str, point: int) -> str:
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{point - 1:+d}"


def _is_simple(value: Any, depth: int) -> bool:
    """Check every part of *value*; False when only the careful writer gives RFC 8785 (a float, a rare name)."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        if -MAX_INTEGER <= value <= MAX_INTEGER:
            return True
        raise RequestError("an integer is beyond 2**53 - 1; send it as text")
    if kind is float:
        number(value)
        return False
    if kind is not dict and kind is not list:
        raise RequestError(f"JSON has no {kind.__name__}; use text, numbers, lists and dicts")
    if depth == 0:
        raise RequestError(f"more than {MAX_DEPTH} nested containers")
    simple = True
    if kind is dict:
        for name in value:
            if type(name) is not str:
                raise RequestError(f"a name in the arguments is {type(name).__name__}, not text")
            simple &= name.isascii() or max(name) <= LAST_NAME_CHARACTER
        value = value.values()
    for item in value:
        simple &= _is_simple(item, depth - 1)
    return simple


def _write(value: Any) -> str:
    """The careful writer: names in UTF-16 order, numbers as ECMAScript writes them.  *value* was checked."""
    if type(value) is dict:
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(f"{_text(name)}:{_write(value[name])}" for name in names) + "}"
    if type(value) is list:
        return "[" + ",".join(map(_write, value)) + "]"
    return number(value) if type(value) is float else _text(value)


def _text(value: str | int | bool | None) -> str:
    return _ENCODER.encode(value).decode()


def _names_are_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(is_plain_name(name) and _names_are_plain(item) for name, item in value.items())
    return not isinstance(value, list) or all(map(_names_are_plain, value))


def _because(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "not UTF-8"  # its own text would quote the bytes
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)
