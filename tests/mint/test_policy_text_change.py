# SPDX-License-Identifier: Apache-2.0
"""The first line that changed between two policies: of two texts, and in the list of those that were in force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.mint.policy.text_change import MAX_CHARS, LineChange, first_change
from tests.mint.approvals import POLICY
from tests.mint.harness import Harness

LINES = st.lists(st.sampled_from(["", " ", "a", "b", "# c"]), max_size=12)
CASES = {
    "changed": ("a\nb\nc\n", "a\nx\nc\n", LineChange(line=2, text="x", removed=False)),
    "added": ("a\nc\n", "a\n  b\nc\n", LineChange(line=2, text="b", removed=False)),
    "removed": ("a\nb\nc\n", "a\nc\n", LineChange(line=2, text="b", removed=True)),
    "removed at the end": ("a\nb\n", "a\n", LineChange(line=2, text="b", removed=True)),
    "an empty line first": ("a\n", "a\n\nb\n", LineChange(line=3, text="b", removed=False)),
    "all": ("", "a\n", LineChange(line=1, text="a", removed=False)),
    "long": ("", "y" * 500, LineChange(line=1, text="y" * MAX_CHARS, removed=False)),
    "none": ("a\n", "a\n", None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_change_of_two_texts(name: str) -> None:
    """A line that was added or changed is the newer text's, a removed one the older text's."""
    older, newer, expected = CASES[name]
    assert first_change(older, newer) == expected


@given(LINES, LINES)
def test_a_change_is_a_line_of_its_text(old: list[str], new: list[str]) -> None:
    """None means equal; else the line has that number in the text that it is said to be of."""
    found = first_change("".join(f"{line}\n" for line in old), "".join(f"{line}\n" for line in new))
    assert (found is None) == (old == new)
    if found is not None:
        assert (old if found.removed else new)[found.line - 1].strip() == found.text


@pytest.mark.spec("CONTROL 6.5")
def test_the_list_has_the_first_change_of_each(unit: Harness) -> None:
    """Compared with the next of the list, also of the next page; the oldest has none; without asking there is none."""
    for most in ("500", "40", "30"):
        unit.use(POLICY.replace("[1, 500]", f"[1, {most}]"))
    operator = unit.operator()
    shown = operator.call("GET", "/v1/policies", changes="true").json()["policies"]
    texts = [each["first_change"] and each["first_change"]["text"] for each in shown]
    assert ("[1, 30]" in texts[0], "[1, 40]" in texts[1], texts[-1]) == (True, True, None)
    page = operator.call("GET", "/v1/policies", changes="true", limit="1").json()
    assert page["policies"] == shown[:1]
    assert "first_change" not in operator.call("GET", "/v1/policies").json()["policies"][0]
