# SPDX-License-Identifier: Apache-2.0
"""A caller could have a route of Express in Node run without the body that was judged, by its JSON type.

The guard judges `application/merge-patch+json`, which `express.json()` does not parse: the handler took a default for
an argument that a rule limits.  Now `req.body` is what was judged, unless a parser of the application reads it.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("8.4")
def test_a_handler_reads_the_body_that_was_judged() -> None:
    """With an amount that a rule limits, and a default above it."""
    run_tests("advisories.test.ts", "a body whose type no parser of the application takes is what was judged")
