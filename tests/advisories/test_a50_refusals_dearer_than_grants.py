# SPDX-License-Identifier: Apache-2.0
"""A50.  Whoever was refused made a service work more than whoever was allowed: up to twice as much.

Each argument that was wrong was put into words for a record that nobody might read; a journal without room made each
record three times and raised twice before it was counted; a ban was looked for by asking for each scope's kill.
"""

from pathlib import Path

import pytest

from arx_verifier import compiled
from benchmarks import refusals
from benchmarks.counting import count
from benchmarks.rows import Verifiers

TOLERANCE = 0.06  # a wrong argument, or a ban, is told; counts are no times
ENOUGH = 12  # that all is met before, and what a full journal keeps for refusals is used
LEAST_OF = 3  # now and then one draws salts for the next hundreds of them


@pytest.mark.skipif(compiled.COMPILED, reason="what runs in C is not counted")
def test_no_refusal_takes_more_than_its_grant(tmp_path: Path) -> None:
    """
    Bytecodes and calls of each refusal that a caller, a holder or a service's state brings about, beside the grant's.
    """
    made = Verifiers(tmp_path)
    for row in refusals.rows(made):
        counts = {}
        for name, batch in row.contenders.items():
            batch(ENOUGH)()
            counts[name] = min(count(batch(1)).work for _ in range(LEAST_OF))
        dearer = {name: work for name, work in counts.items() if work > counts["grant"] * (1 + TOLERANCE)}
        assert not dearer, (row.work, counts["grant"], dearer)
    made.close()
