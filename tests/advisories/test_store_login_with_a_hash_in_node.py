# SPDX-License-Identifier: Apache-2.0
"""A service in Node with ``#`` in its store's password followed a server of localhost, which need not know a kill.

The verifier in TypeScript read what is no URL as one without a host.  Now it does not start, and names the mend.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("15.2")
def test_a_login_with_a_hash_is_no_url() -> None:
    """As in Python, the service does not start."""
    run_tests("advisories.test.ts", "a login with a hash is no URL of localhost")
