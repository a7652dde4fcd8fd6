# SPDX-License-Identifier: Apache-2.0
"""Durations: one number and one unit."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.settings.durations import MAX_MS, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "ms"),
    [("0ms", 0), ("500ms", 500), ("60s", 60_000), ("10m", 600_000), ("8h", 28_800_000), ("2d", 172_800_000)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, ms: int) -> None:
    """
    Milliseconds to days.
    """
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "text",
    ["", "10", "m", "10 m", " 10m", "10m ", "10m\n", "1h30m", "-1s", "+1s", "01s", "1.5h", "1e3s", "10M", "1w",
     "\u0661s", "367d", "9" * 15 + "d", "9" * 10_000 + "s", None, 10, 10.0, b"10m"],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_anything_else_is_refused(text: Any) -> None:
    """
    No bare number, no sum, no sign, no fraction, no space; and nothing longer than a year.
    """
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(0, MAX_MS))
def test_what_is_written_reads_back(ms: int) -> None:
    """
    Writing is exact.
    """
    assert parse_duration(format_duration(ms)) == ms


def test_the_largest_unit_is_used() -> None:
    """
    People read 10m, not 600000ms.
    """
    assert [format_duration(ms) for ms in (0, 1500, 600_000, 86_400_000, 5_400_000)] == [
        "0ms",
        "1500ms",
        "10m",
        "1d",
        "90m",
    ]
