# SPDX-License-Identifier: Apache-2.0
"""A kill while clients stream through a gateway: each stream ends within the lease, and each later call is refused.

``make bench-kill-gateway`` measures it; here are some trials of each kind.
"""

from collections.abc import Iterator

import pytest

from benchmarks.kill_gateway import STOPPED, Place, measure, place

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def on() -> Iterator[Place]:
    with place() as on:
        yield on


@pytest.mark.slow
@pytest.mark.parametrize("upstream", ["http", "stdio"])
@pytest.mark.parametrize("what", ["kill", STOPPED])
def test_streams_end_within_the_lease(on: Place, what: str, upstream: str) -> None:
    """With a live store after a kill, and without an answer of the store."""
    measure(on, what, upstream, trials=2, late_ms=1_000)
