# SPDX-License-Identifier: Apache-2.0
"""A killed call could still send its caller early hints in Node, before the refusal.

Express has them beside `write` and `end`, and the guard had replaced these alone.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("11")
def test_no_early_hint_leaves_after_a_kill() -> None:
    """The refusal is all that leaves."""
    run_tests("advisories.test.ts", "early hints of a killed call do not leave")
