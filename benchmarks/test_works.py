# SPDX-License-Identifier: Apache-2.0
"""The main works under pytest-benchmark, to compare two states of the code: ``python -m pytest benchmarks``.

``--benchmark-autosave`` keeps a run and ``--benchmark-compare`` sets the next beside it.  These times are by the clock,
one function after the other: what is compared with others is ``make bench``'s, which takes all in turns.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from benchmarks.rows import Row, Verifiers, rows

ROUNDS: Final = 400
WORKS: Final = {
    "first-sight": ("decide, 3 delegations, five constraints each", "ARx, first sight"),
    "parent-seen": ("decide, 3 delegations, five constraints each", "ARx, parent seen"),
    "plain-first-sight": ("decide, five restrictions, no proof", "ARx, first sight"),
    "plain-seen": ("decide, five restrictions, no proof", "ARx, seen"),
    "delegation": ("delegate one hop, five constraints", "ARx"),
    "delegation-to-and-exp": ("delegate one hop, only `to` and `exp`", "ARx"),
    "sign-a-call": ("make the per-call token", "ARx"),
    "mint": ("mint a token of five constraints", "ARx"),
}


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Row]]:
    """Everything that ``make bench`` compares, by work."""
    made = Verifiers(tmp_path_factory.mktemp("journals"))
    yield {row.work: row for row in rows(made)}
    made.close()


@pytest.mark.parametrize("name", WORKS)
def test_work(benchmark: Any, works: dict[str, Row], name: str) -> None:
    """
    Each round is one piece of work; what it needs new, such as a one-shot token, is made before and not timed.
    """
    work, contender = WORKS[name]
    batch = works[work].contenders[contender]

    def one() -> tuple[tuple[Callable[[], None]], dict[str, Any]]:
        return (batch(1),), {}

    benchmark.pedantic(_run, setup=one, rounds=ROUNDS, warmup_rounds=ROUNDS // 10)


def _run(work: Callable[[], None]) -> None:
    work()
