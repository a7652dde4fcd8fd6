# SPDX-License-Identifier: Apache-2.0
"""A holder could satisfy a rule in Node with the body of a GET, or with a member that the route has in its query.

The guard of Express joined the members of each body with the arguments of path and query.  A handler that looks in the
query found none there, and took its default, to which no rule was applied.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("8.4")
def test_an_argument_in_another_place_is_refused() -> None:
    """As in Python."""
    run_tests("advisories.test.ts", "an argument in a place where the route has none is refused")
