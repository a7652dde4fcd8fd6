# SPDX-License-Identifier: Apache-2.0
"""A holder with many attenuations could make a service in Node prove the tokens of all other callers anew.

The verifier in TypeScript forgot all proven chains once they filled 32 MB.  Now those that were not asked for the
longest make room.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("11")
def test_a_chain_in_use_stays_known() -> None:
    """As in Python."""
    run_tests("chains.test.ts", "a chain in use stays known, however many another holder makes")
