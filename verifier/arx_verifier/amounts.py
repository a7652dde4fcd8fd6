# SPDX-License-Identifier: Apache-2.0
"""Exact amounts: decimal text, and the whole number of millionths that the ledger counts.  SPEC 17.2.

A count of millionths stays far below 2^53, so that a double, the only number of a Redis function, has it exactly.
"""

import re
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any, Final, TypeAlias

Amount: TypeAlias = int | str | Decimal | float
"""An amount as a caller may write it: a number, or decimal text."""

PLACES: Final = 6
UNIT: Final = 10**PLACES  # millionths in 1
# A pool may be topped up to twice this, and three counters of one pool and a cost are added: below 2^53.
MAX_AMOUNT: Final = 1_000_000_000 * UNIT
_TEXT: Final = re.compile(r"(?:0|[1-9][0-9]{0,9})(?:\.[0-9]{0,5}[1-9])?")
_UNIT: Final = re.compile(r"[a-z][a-z0-9_]{0,15}")
_MAX_CHARS: Final = 64  # of a decimal of a caller, whose conversion is not linear
# Used by name for each step: the context of a service's own thread may round to a few digits, or down.
_EXACT: Final = Context(prec=80, rounding=ROUND_CEILING)


def is_unit(text: Any) -> bool:
    """Return whether *text* can name a unit: ``[a-z][a-z0-9_]{0,15}``."""
    return isinstance(text, str) and _UNIT.fullmatch(text) is not None


def is_amount(text: str) -> bool:
    """Return whether *text* is an amount in the one form that a token has: at most 6 decimals and 1 000 000 000."""
    return _TEXT.fullmatch(text) is not None and millionths_of(text) <= MAX_AMOUNT


def millionths_of(text: str) -> int:
    """Return the millionths of a text that ``is_amount``."""
    whole, _, part = text.partition(".")
    return int(whole) * UNIT + int(part.ljust(PLACES, "0"))


def amount_text(millionths: int) -> str:
    """Return a count of millionths as decimal text, such as ``2.5``."""
    whole, part = divmod(millionths, UNIT)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".") if part else str(whole)


def read_amount(value: Any) -> int:
    """Return the millionths of a number or a decimal text, rounded up.

    Args:
        value: At least 0; a float counts as the decimal that it is written as.

    Raises:
        ValueError: It is no such number, below 0 or above 1 000 000 000.
    """
    # Rounded up, never down: many costs below a millionth would otherwise be free.
    kind = type(value)
    if kind is int:
        number = Decimal(value) if -1 < value <= MAX_AMOUNT else None
    elif kind is float or (kind is str and len(value) <= _MAX_CHARS) or kind is Decimal:
        number = _decimal(value)
    else:
        number = None
    if number is None or not number.is_finite() or number.is_signed() or number > MAX_AMOUNT // UNIT:
        raise ValueError("expected a number from 0 to 1000000000")
    return int(_EXACT.multiply(number, UNIT).to_integral_value(context=_EXACT))


def _decimal(value: Any) -> Decimal | None:
    text = repr(value) if type(value) is float else str(value)
    if type(value) is str and not re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text):
        return None  # a sign, an exponent, a space or a digit of another script
    try:
        return _EXACT.create_decimal(text)
    except ArithmeticError:
        return None
