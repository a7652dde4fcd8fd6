# SPDX-License-Identifier: Apache-2.0
"""In liceat, a caller could pass a limit with a negative, infinite, huge or textual number, or NaN.

ARx: a limit holds for numbers, or for decimals written as text, exactly; any other value fails it, under ``not`` too.
"""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.token.caveats import Caveat
from tests.support import access, code_of, mint, verifier

ODD: list[Any] = [
    -1,
    101,
    float("nan"),
    float("inf"),
    float("-inf"),
    -0.01,
    100.00000000000001,
    2.0**53,
    1e308,
    2**53,
    2**64,
    -(2**63),
    10**400,
    "",
    " 5",
    "5 ",
    "+5",
    "5e0",
    "0x5",
    "1_0",
    "NaN",
    "Infinity",
    "-1",
    "\u0665",
    "5" * 40,
    True,
    False,
    None,
    [5],
    {"value": 5},
    Decimal(5),
    Fraction(5),
    5 + 0j,
    b"5",
]


def limited(**members: Any) -> str:
    """A token whose amount keeps this limit."""
    return mint(Caveat(allow=(Rule(tool="pay", args={"amount": Constraint(**members)}),))).encode()


@pytest.mark.parametrize("value", ODD, ids=lambda value: ascii(value)[:20])
def test_an_odd_number_keeps_no_limit(value: Any) -> None:
    """Of integers, of decimals, and turned round by ``not``."""
    for token in (
        limited(range=(0, 100)),
        limited(range=("0", "100")),
        limited(not_=Constraint(range=(-(2**53) + 1, -1)), max=100),
    ):
        assert code_of(token, access("pay", {"amount": value})) == "argument_not_allowed"


def test_ordinary_amounts_keep_it() -> None:
    """What the limit is for goes through, to both of its ends."""
    amounts: tuple[int | str, ...] = (0, 100, "0", "99.99", "100.00")
    for amount in (0, 5, 100):
        assert code_of(limited(range=(0, 100)), access("pay", {"amount": amount})) == "ok"
    for decimal in amounts:
        assert code_of(limited(range=("0", "100")), access("pay", {"amount": decimal})) == "ok"


def test_one_number_in_two_spellings_keeps_it_alike() -> None:
    """A proof covers 5.0 as 5: both are that integer.  A fraction is within decimals, and within no integers."""
    for amount in (0.0, -0.0, 5.0, 100.0):
        assert code_of(limited(range=(0, 100)), access("pay", {"amount": amount})) == "ok"
        assert code_of(limited(none_of=(int(amount),)), access("pay", {"amount": amount})) == "argument_not_allowed"
    assert code_of(limited(range=("0", "100")), access("pay", {"amount": 99.999})) == "ok"
    assert code_of(limited(range=(0, 100)), access("pay", {"amount": 99.999})) == "argument_not_allowed"


def test_text_keeps_no_limit_of_integers() -> None:
    """``"5"`` is not ``5``."""
    assert code_of(limited(range=(0, 100)), access("pay", {"amount": "5"})) == "argument_not_allowed"


def test_the_refusal_of_a_huge_number_is_short() -> None:
    """The refusal reports the value in a line, whatever its size."""
    decision = verifier().decide(limited(max=100), access("pay", {"amount": 10**400}))
    assert len(decision.failures[0].came) < 160
