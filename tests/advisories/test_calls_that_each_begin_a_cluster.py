# SPDX-License-Identifier: Apache-2.0
"""After a failover each call that waited had a service send the beginnings of all buckets, and wait for them.

With hundreds of calls in a moment the cluster was asked tens of thousands of questions by each process.
"""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from arx_verifier.clock import now_ms
from arx_verifier.errors import StoreError
from arx_verifier.revocation.store_cluster import BUCKETS
from arx_verifier.revocation.store_steps import run_async, steps_of
from arx_verifier.verification.nonces import RedisNonces
from tests.servers import until
from tests.topologies.shards import PATIENT, Node, Shards, sharded

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.spec("8.3")]

CALLS = 200


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Shards]:
    with sharded(tmp_path, more=PATIENT) as running:
        yield running


def asked(node: Node) -> int:
    """How many functions a node has run."""
    return int(node.ask("INFO", "commandstats").get("cmdstat_fcall", {"calls": 0})["calls"])


async def serve(service: RedisNonces) -> None:
    """Have many calls wait at the same moment."""
    now = now_ms()
    calls = [steps_of(service.spend, secrets.token_bytes(32), now + 15_000, now) for _ in range(CALLS)]
    for answer in await asyncio.gather(*map(run_async, calls), return_exceptions=True):
        assert isinstance(answer, bool | StoreError), answer


def test_one_call_begins_the_buckets(shards: Shards) -> None:
    """At the start, and again when the primaries may be others."""
    with closing(RedisNonces(shards.url(), "arx:nonce:acme:orders:", timeout_s=5)) as service:

        def accepts() -> bool:
            with suppress(StoreError):
                now = now_ms()
                return bool(service.spend(secrets.token_bytes(32), now + 15_000, now))
            return False

        for _ in range(2):
            before = sum(map(asked, shards.nodes))
            asyncio.run(serve(service))
            assert sum(map(asked, shards.nodes)) - before <= 2 * CALLS + len(BUCKETS)
            until(accepts)
            service._client.doubt()
