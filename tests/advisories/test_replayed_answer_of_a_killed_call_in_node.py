# SPDX-License-Identifier: Apache-2.0
"""An MCP server in Node with an event store replayed the stored answer of a call that had been killed meanwhile.

A transport replays stored messages by itself, past the guard.  Now a request with `Last-Event-ID` is refused.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("11")
@pytest.mark.parametrize("sdk", [1, 2])
def test_a_stored_answer_of_a_killed_call_is_not_replayed(sdk: int) -> None:
    """The client had lost its connection; the answer was stored before the kill."""
    run_tests("advisories.test.ts", f"SDK {sdk}: a stored answer of a killed call is not replayed")
