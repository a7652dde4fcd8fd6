# SPDX-License-Identifier: Apache-2.0
"""Numbers: exact decimals, bounded integers, no second reading of text."""

import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arx_verifier.constraints.constraint import compile_constraint, read_constraint
from arx_verifier.jcs import MAX_INTEGER, jcs

pytestmark = pytest.mark.spec("7.2")


def holds(constraint: Any, value: Any) -> bool:
    return compile_constraint(read_constraint(constraint))(value)


class TestNumbers:
    decimals = st.from_regex(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{0,6}[1-9])?", fullmatch=True)
    amounts = (
        st.from_regex(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,8})?", fullmatch=True)
        | st.integers(-(10**9), 10**9)
        | st.decimals(-(10**9), 10**9, places=2).map(float)
        | st.floats(-(10**9), 10**9)
    )

    @given(decimals, decimals, amounts)
    def test_decimals_compare_as_decimals(self, low: str, high: str, value: Any) -> None:
        """
        A range of decimal text is exact, for text and for numbers: a float is the decimal that RFC 8785 writes.
        """
        assume(Decimal(low) <= Decimal(high))
        amount = Decimal(json.loads(jcs(value)) if type(value) is str else jcs(value).decode())
        assert holds({"range": [low, high]}, value) == (Decimal(low) <= amount <= Decimal(high))
        assert holds({"min": low}, value) == (Decimal(low) <= amount)
        assert holds({"max": high}, value) == (amount <= Decimal(high))

    @given(st.integers(-MAX_INTEGER, MAX_INTEGER), st.integers(-MAX_INTEGER, MAX_INTEGER), st.integers())
    def test_integers_compare_as_integers(self, low: int, high: int, value: int) -> None:
        """
        A range of integers is inclusive and ends where JSON loses digits.
        """
        assume(low <= high)
        assert holds({"range": [low, high]}, value) == (low <= value <= high)
        assert holds({"min": low}, value) == (low <= value <= MAX_INTEGER)
        assert holds({"max": high}, value) == (-MAX_INTEGER <= value <= high)

    @pytest.mark.parametrize(
        ("constraint", "last", "first_out"),
        [
            ({"min": "0.5"}, 1, 0),
            ({"min": "-0.5"}, 0, -1),
            ({"max": "0.5"}, 0, 1),
            ({"max": "-0.5"}, -1, 0),
            ({"max": "9" * 20}, MAX_INTEGER, MAX_INTEGER + 1),
            ({"max": "9" * 20}, float(MAX_INTEGER), 2.0**53),
            ({"min": "-" + "9" * 20}, -MAX_INTEGER, -MAX_INTEGER - 1),
        ],
    )
    def test_an_integer_beside_a_decimal_bound(self, constraint: Any, last: int, first_out: int) -> None:
        """
        A fraction excludes the integer beyond it, and a huge bound admits no integer that JSON would round.
        """
        assert holds(constraint, last)
        assert not holds(constraint, first_out)

    def test_no_float_s_rounding_is_involved(self) -> None:
        """
        A difference in the last of 32 digits counts, and so does one in the last digit of a JSON number.
        """
        for amount in (19.99, 0.1, 1e-7, 4503599627370495.5, 5e-324):
            exact = format(Decimal(repr(amount)), "f")
            if len(exact) <= 32:
                assert holds({"range": [exact, exact]}, amount)
                assert not holds({"range": [exact, exact]}, math.nextafter(amount, math.inf))
                assert not holds({"range": [exact, exact]}, math.nextafter(amount, -math.inf))
        assert holds({"min": "0"}, 5e-324)
        assert not holds({"max": "0"}, 5e-324)
        assert not holds({"max": "0.3"}, 0.1 + 0.2)
        limit = "9999999999999999999999999999.999"
        assert holds({"max": limit}, limit)
        assert not holds({"max": limit[:-1] + "8"}, limit)
        assert not holds({"max": limit}, limit + "1")  # 33 characters

    @pytest.mark.parametrize(
        "value",
        [
            "1e1",
            "1E1",
            "+1",
            " 1",
            "1 ",
            "1\n",
            "01",
            ".5",
            "5.",
            "1_0",
            "\u0661",
            "--1",
            "0x1",
            "NaN",
            "Infinity",
            "1,5",
            "",
        ],
    )
    def test_text_that_is_no_plain_decimal_passes_no_limit(self, value: str) -> None:
        """
        What another reader could take for another number fails, under ``not`` as well.
        """
        assert not holds({"range": ["-1000", "1000"]}, value)
        assert not holds({"not": {"range": ["500", "1000"]}}, value)
