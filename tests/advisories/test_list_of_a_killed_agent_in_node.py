# SPDX-License-Identifier: Apache-2.0
"""A killed agent could still get a list from a slow MCP server in Node.

The guard of a transport checked the token of a list before the server saw the request, and not again when the list
came.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("11")
def test_a_list_ends_with_its_token() -> None:
    """Also if the server never answers."""
    run_tests(
        "advisories.test.ts",
        "a list that comes after a kill does not leave",
        "a list that never comes ends with its token",
    )
