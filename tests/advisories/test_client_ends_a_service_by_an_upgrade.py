# SPDX-License-Identifier: Apache-2.0
"""A stranger could end a service in Node, by asking for an upgrade of a connection and resetting it.

Node takes its own listener for errors from a socket that a client wants to upgrade.  The guard answered without one of
its own, so no listener took the error of a reset connection, which ends a process of Node.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("8.4")
def test_a_reset_connection_ends_nothing() -> None:
    """The guard takes the error."""
    run_tests("advisories.test.ts", "a client that asks for an upgrade and is gone does not end the process")
