# SPDX-License-Identifier: Apache-2.0
"""A killed call of an MCP server in Node could still send its client messages that named no request.

The guard checked answers, and messages about a request.  Now it checks each message that a call sends, by its token.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("11")
def test_what_a_killed_call_sends_does_not_leave() -> None:
    """A message of the server itself leaves, as before."""
    run_tests("advisories.test.ts", "what a killed call sends for no request does not leave")
