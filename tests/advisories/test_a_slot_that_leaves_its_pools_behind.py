# SPDX-License-Identifier: Apache-2.0
"""Nodes of a ledger's cluster that two runs of a mint loaded had two secrets: a slot moved without its pools.

Its new node named the keys by its own secret.  What was drawn stayed under the former names, unseen and for good, and a
beginning that a service remembered there did not count when the slot moved back.
"""

from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from arx_verifier.clock import now_ms
from arx_verifier.ledger.pools import LOST, NEW, PoolDraw, Short, Taken, number_of
from arx_verifier.ledger.redis_ledger import RedisLedger, secret_of
from arx_verifier.revocation.store_steps import run
from tests.ledgers import new_ledger
from tests.servers import until
from tests.topologies.shards import PATIENT, sharded
from tests.topologies.test_shards import answered, moved, of_node

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.spec("17.7")]


def secrets_of(ledger: RedisLedger) -> set[str]:
    """The secrets in the names of all buckets."""
    buckets = ledger._buckets.values()
    return {secret_of(ledger._client.server(bucket.tag), bucket.keys[0]) for bucket in buckets}


def test_a_slot_moves_with_its_pools(tmp_path: Path) -> None:
    """A mint that ended had loaded one node; the next one loads the others with the same secret."""
    with sharded(tmp_path, more=PATIENT) as shards, ExitStack() as stack:
        source, target = shards.primaries()[:2]
        service = stack.enter_context(closing(RedisLedger(shards.url(), "acme", timeout_s=5)))
        theirs = of_node(service._client, target, "acme.")[0]
        with closing(new_ledger(shards.url(), "acme", timeout_s=5, hides=True)) as former:
            run(former._store.load(f"acme.{theirs}"))
        with closing(new_ledger(shards.url(), "acme", timeout_s=5, hides=True)) as mint:
            mint.start()
            until(lambda: all(bucket.remembered != NEW for bucket in mint._buckets.values()))
            assert len(secrets_of(mint)) == 1
            bucket = service._buckets[of_node(service._client, source, "acme.")[0]]
            session = next(name for name in map(str, range(10_000)) if service._bucket_of(name) is bucket)
            draw = PoolDraw(f"{session}/-/p/usd/task", 9, 0, now_ms(), 1, 1, session)
            until(lambda: now_ms() > draw.opened)
            assert isinstance(service.take("draw", "", [draw]), Taken)
            with moved(shards, bucket.tag, source, target):
                pass
            answer = answered(lambda: service.take("draw", "", [draw]))
            assert isinstance(answer, Short)
            assert answer.remaining == LOST
            assert answered(lambda: [(row["committed"], row["lost"]) for row in mint.shown(session)]) == [(1, True)]
        there = number_of(bucket.remembered)
        with moved(shards, bucket.tag, target, source):
            pass
        until(lambda: isinstance(answered(lambda: service.take("draw", "", [draw])), Short))
        assert number_of(bucket.remembered) > there, "no mint has looked"
