# SPDX-License-Identifier: Apache-2.0
"""The hot path gets no dearer unnoticed: its bytecodes and calls are counted, and nothing is timed."""

import pytest

from benchmarks.counting import count
from benchmarks.hot_path import PYTHON, TOLERANCE, budgets, counted

BUDGETS = budgets().get(PYTHON, {})


@pytest.mark.skipif(not BUDGETS, reason=f"what the hot path may take is known for {', '.join(budgets())} only")
def test_the_hot_path_takes_no_more_than_it_did() -> None:
    """
    Each work takes at most the bytecodes and calls of ``benchmarks/hot_path.json``, and 5 % beyond.
    """
    found = counted()
    assert set(found) == set(BUDGETS), "run `python -m benchmarks.hot_path --write` with each Python"
    dearer = {
        name: f"{bytecodes} bytecodes and {calls} calls, allowed are {BUDGETS[name][0]} and {BUDGETS[name][1]}"
        for name, (bytecodes, calls) in found.items()
        if bytecodes > BUDGETS[name][0] * (1 + TOLERANCE) or calls > BUDGETS[name][1] * (1 + TOLERANCE)
    }
    assert not dearer, f"save it elsewhere, or if it is worth it: `python -m benchmarks.hot_path --write`\n{dearer}"


def test_counting_sees_one_step_more() -> None:
    """
    What counts can fail: one call more, one loop more and one longer text are seen, and the same work counts the same.
    """

    def work(times: int, text: str = "a" * 400) -> int:
        return sum(len(text.lower()) for _ in range(times))

    few, again, more = count(lambda: work(3)), count(lambda: work(3)), count(lambda: work(4))
    assert few == again
    assert more.bytecodes > few.bytecodes
    assert more.calls == few.calls + 2
    assert more.characters == few.characters + 400
