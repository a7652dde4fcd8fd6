# SPDX-License-Identifier: Apache-2.0
"""A caller without a token could make a service in Node keep and parse a megabyte of JSON before it verified anything.

The guard of Express read the body first, and parsed it before it looked at the token.  Now it reads the body of a
request only if a key of the service made the token.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("8.4")
def test_a_refusal_waits_for_no_body() -> None:
    """The client has its answer before it has sent the whole body."""
    run_tests(
        "advisories.test.ts",
        "the body of a request without a token is not read",
        "the body of a request with a token that no key made is not read",
    )
