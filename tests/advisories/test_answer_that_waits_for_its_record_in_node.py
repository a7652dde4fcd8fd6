# SPDX-License-Identifier: Apache-2.0
"""A killed agent could still get an answer in Node, while the record of its effect was written.

With a journal of mode ``durable``, an answer waits until the record of its effect is on disk.  The guard of Express and
``protect`` checked kills before that wait, and not again behind it: a timer did, every 250 ms.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("11")
def test_what_has_waited_is_checked_again() -> None:
    """Answers and results are withheld."""
    run_tests(
        "advisories.test.ts",
        "an answer of Express whose record waits for its disk does not leave after a kill",
        "a result of a function whose record waits for its disk is withheld after a kill",
    )
