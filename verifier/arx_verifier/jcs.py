# SPDX-License-Identifier: Apache-2.0
"""Canonical JSON: strict for tokens, RFC 8785 for a call's arguments.  SPEC 3.

``encode`` and ``decode`` handle typed structs; ``jcs`` handles arguments, which have no type.  ``request`` parses the
JSON of requests.
"""

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from arx_verifier._native import twin
from arx_verifier.errors import ArxError, MalformedTokenError, RequestError

MAX_INTEGER: Final = 2**53 - 1  # beyond it ECMAScript and every float-based JSON parser lose digits (RFC 8785 D)
MAX_DEPTH: Final = 32  # nested containers in arguments: more than any real tool has, far below the recursion limit
MAX_TOKEN_DEPTH: Final = 16  # nested containers in a caveat, as many as the forms of SPEC 7 can nest
LAST_NAME_CHARACTER: Final = "\uffff"  # up to here UTF-16 order and code point order are the same

_T = TypeVar("_T")

_ENCODER: Final = msgspec.json.Encoder(order="sorted")


def encode(value: Any) -> bytes:
    """Return a struct, or plain data of strings, integers, lists and dicts, as canonical JSON.  SPEC 3.

    Args:
        value: The value.  It is not checked: ``decode`` of the result does that.

    Raises:
        MalformedTokenError: A lone surrogate, a type that JSON does not have, or a name that is no text.
    """
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError as error:
        raise MalformedTokenError("a token cannot contain text with a lone surrogate") from error
    except TypeError as error:
        raise MalformedTokenError(f"a token cannot contain this value: {error}") from error


def decode(
    decoder: msgspec.json.Decoder[_T], raw: bytes, explain: Callable[[bytes], ArxError | None] | None = None
) -> _T:
    """Parse canonical JSON and refuse every other form of the same value.  SPEC 3.

    Args:
        decoder: Typed with frozen structs that forbid unknown fields; its types carry the bounds of integers.
        raw: The bytes as received.
        explain: Returns a more precise error for bytes that cannot be parsed, or None.

    Returns:
        The decoded value; encoding it gives *raw* again.

    Raises:
        MalformedTokenError: Not JSON, not of this type, or not canonical.
    """
    try:
        value = decoder.decode(raw)
        # Encoding again excludes duplicate names, other orders, escapes and white space in one comparison.
        same = _ENCODER.encode(value) == raw
        # A name beyond U+FFFF needs a four-byte character; only then is the second parse needed.  It includes members
        # that the types left raw, so it may fail where the first parse did not.
        plain = raw.isascii() or max(raw) < 0xF0 or _names_are_plain(msgspec.json.decode(raw))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        # The new error gets no local name: an error that a variable of its own frame refers to is a cycle.  The text of
        # msgspec's error contains types, never a value.
        raise (explain(raw) if explain is not None else None) or MalformedTokenError(
            f"not what is expected here: {_because(error)}"
        ) from error
    if not same:
        raise MalformedTokenError("not canonical JSON: another order, spacing, escape, or a duplicate member")
    if not plain:
        raise MalformedTokenError("a name has a character beyond U+FFFF")
    return value


def read_canonical(raw: bytes) -> Any:
    """Parse canonical JSON of any content; return None if it has another form.  SPEC 3.1.

    Args:
        raw: The bytes as received.
    """
    try:
        value = msgspec.json.decode(raw)
        same = _ENCODER.encode(value) == raw
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return value if same and _is_canonical(value, MAX_TOKEN_DEPTH) else None


def _is_canonical(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind is dict:
        if depth == 0 or not all(map(is_plain_name, value)):
            return False
        value = value.values()
    elif kind is not list:
        return kind is str or kind is bool or (kind is int and -MAX_INTEGER <= value <= MAX_INTEGER)
    return depth > 0 and all(_is_canonical(item, depth - 1) for item in value)


def is_plain_name(name: str) -> bool:
    """Return whether a member's name is not empty and has no character beyond U+FFFF."""
    return name != "" and (name.isascii() or max(name) <= LAST_NAME_CHARACTER)


def jcs(value: Any) -> bytes:
    """Return a tool's arguments as RFC 8785 JSON, for the digest that a call proof signs.

    Args:
        value: ``str``, ``int``, ``float``, ``bool``, ``None``, ``list`` or ``dict``, nested.  Subclasses of these are
            refused, because two libraries might encode them differently.

    Raises:
        RequestError: NaN, a number beyond 2**53 - 1, a lone surrogate, a name that is no text, another type, or more
            than 32 nested containers.
    """
    try:
        raw = flat_jcs(value)
        if raw is not None:
            return raw
        return _ENCODER.encode(value) if _is_simple(value, MAX_DEPTH) else _write(value).encode()
    except UnicodeEncodeError as error:
        raise RequestError("the arguments have a lone surrogate, which UTF-8 cannot write") from error


def flat_jcs(value: Any) -> bytes | None:
    """Return a flat dict as RFC 8785 JSON; None for other values, which ``jcs`` encodes.

    Args:
        value: Any value.  A flat dict has text, integers within 2**53 - 1 and booleans under ASCII names, as the
            arguments of most calls.

    Raises:
        UnicodeEncodeError: A lone surrogate.
    """
    if not is_flat(value):
        return None
    raw = _ENCODER.encode(value)
    # msgspec's order is that of RFC 8785 for ASCII names.
    return raw if raw.isascii() or all(map(str.isascii, value)) else None


@twin()
def is_flat(value: Any) -> bool:
    """Return whether *value* is a dict of text names and text, integers within 2**53 - 1 or booleans."""
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
    """Return a float as ECMAScript writes it (RFC 8785 3.2.2.3): shortest digits, ``1e+21``, ``-0`` as ``0``.

    Args:
        value: The float.

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
    # point: the number of digits before the decimal point; 0 or negative if zeros follow it first.
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
    """Check every part of *value*; return False if only ``_write`` gives RFC 8785 (for a float or a rare name).

    Raises:
        RequestError: A part that ``jcs`` refuses.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        if -MAX_INTEGER <= value <= MAX_INTEGER:
            return True
        raise RequestError("an integer is beyond 2**53 - 1; send it as text")
    if kind is float:
        # ECMAScript has one number for it and for the integer of the same digits, which is refused above.
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise RequestError("a number is NaN or beyond 2**53 - 1; send it as text")
        return False
    if kind is not dict and kind is not list:
        raise RequestError(f"JSON has no {kind.__name__}; use text, numbers, lists and dicts")
    if depth == 0:
        raise RequestError(f"more than {MAX_DEPTH} nested containers")
    simple = True
    if kind is dict:
        for name in value:
            if type(name) is not str:
                # Libraries write such a name in different ways: `True` as "True" or "true".
                raise RequestError(f"a name in the arguments is {type(name).__name__}, not text")
            simple &= name.isascii() or max(name) <= LAST_NAME_CHARACTER
        value = value.values()
    for item in value:
        simple &= _is_simple(item, depth - 1)
    return simple


def _write(value: Any) -> str:
    """Return checked data as RFC 8785: names in UTF-16 order, numbers as ECMAScript writes them."""
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
        return "not UTF-8"  # the error's own text would quote the bytes
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)
