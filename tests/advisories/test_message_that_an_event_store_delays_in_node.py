# SPDX-License-Identifier: Apache-2.0
"""An MCP server in Node with a slow event store could still write an answer of a call that was killed meanwhile.

The guard checked a message before the transport had it, which wrote it when the store had kept it.  Now it is checked
again when it is written.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("11")
@pytest.mark.parametrize("sdk", [1, 2])
@pytest.mark.parametrize("what", ["answer", "line of a log"])
def test_a_message_that_a_store_delays_ends_with_its_call(sdk: int, what: str) -> None:
    """The kill comes while the store keeps the message."""
    run_tests(
        "advisories.test.ts", f"SDK {sdk}: the {what} of a call that is killed while a store keeps it does not leave"
    )
