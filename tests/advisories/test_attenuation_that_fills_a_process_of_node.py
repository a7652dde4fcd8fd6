# SPDX-License-Identifier: Apache-2.0
"""A holder could make a service in Node take 650 MB, with a thousand attenuations of its token.

The verifier in TypeScript kept a thousand proven chains, however heavy: one with 1,900 operands takes 635 kB.  Now it
counts what they take, up to 32 MB.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("11")
def test_chains_are_kept_by_their_memory() -> None:
    """As in Python."""
    run_tests("advisories.test.ts", "a holder that attenuates its token again and again fills no memory")
