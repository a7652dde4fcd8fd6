# SPDX-License-Identifier: Apache-2.0
"""A client without a token could fill the memory of an MCP server in Node with requests that it cancelled at once.

The guard kept the id of each, so that no late answer left under another request's grant.  Now the server has ids of its
own, and the late answer to a request that has ended is for none.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("11")
def test_the_id_of_a_cancelled_request_is_free() -> None:
    """And it is safe to use it again."""
    run_tests("advisories.test.ts", "the id of a cancelled request is free, and no late answer has it")
