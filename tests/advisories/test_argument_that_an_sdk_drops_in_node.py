# SPDX-License-Identifier: Apache-2.0
"""A tool of an MCP server in Node could run without an argument that was judged: its SDK drops `__proto__`.

The guard judged the member, and the handler took a default that no rule saw.  Now such arguments are refused.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("8.2")
def test_a_member_that_the_sdk_drops_is_refused() -> None:
    """Of a prompt and of a tool, at any depth; a text with that name is none."""
    run_tests("advisories.test.ts", "arguments that the SDK of MCP drops are refused")
