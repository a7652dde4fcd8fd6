# SPDX-License-Identifier: Apache-2.0
"""Numbers: exact decimals, bounded integers, no second reading of text."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arx_verifier.constraints.constraint import compile_constraint, read_constraint
from arx_verifier.jcs import MAX_INTEGER

pytestmark = pytest.mark.spec("7.2")


def holds(constraint: Any, value: Any) -> bool:
    return compile_constraint(read_constraint(constraint))(value)


class TestNumbers:
    decimals = st.from_regex(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{0,6}[1-9])?", fullmatch=True)
    amounts = st.from_regex(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,8})?", fullmatch=True) | st.integers(-(10**9), 10**9)

    @given(decimals, decimals, amounts)
    def test_decimals_compare_as_decimals(self, low: str, high: str, value: Any) -> None:
        """
        A range of decimal text is exact, for text and for integers.
        """
        assume(Decimal(low) <= Decimal(high))
        assert holds({"range": [low, high]}, value) == (Decimal(low) <= Decimal(value) <= Decimal(high))
        assert holds({"min": low}, value) == (Decimal(low) <= Decimal(value))
        assert holds({"max": high}, value) == (Decimal(value) <= Decimal(high))

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
        A difference in the last of 32 digits counts.
        """
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
