# SPDX-License-Identifier: Apache-2.0
"""A cluster whose nodes had the functions of budgets refused each call for good: the mint loaded none of used calls.

Services may load no functions, and the mint loaded them only into a node that lacked those of budgets.  The refusal
named rights that the services had.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation import acl
from arx_verifier.clock import now_ms
from arx_verifier.errors import StoreError
from arx_verifier.ledger.pools import PoolDraw, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.revocation.store_cluster import BUCKETS, bucket_of, read_library
from arx_verifier.verification.nonces import RedisNonces
from tests.ledgers import new_ledger
from tests.servers import until
from tests.topologies.shards import PATIENT, Shards, sharded

pytestmark = [pytest.mark.servers, pytest.mark.spec("17.7")]

PASSWORD = "p" * 9
ABSENT = "has no functions, and this user may load none: the mint loads them within 2 s, if `ledger` of realm.toml"
NAMES = tuple(next(f"{n}" for n in range(10_000) if bucket_of(f"{n}".encode()) == bucket) for bucket in BUCKETS)


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Shards]:
    with sharded(tmp_path, more=PATIENT) as running:
        for node in running.nodes:
            for role in (acl.LEDGER, acl.LEDGER_MINT):
                node.ask("ACL", "SETUSER", role, *acl.rules(role, "acme", PASSWORD, cluster=True))
        yield running


def all_answer(nonces: RedisNonces, ledger: RedisLedger) -> bool:
    """Whether every bucket accepts a new call and a new task draws."""
    now = now_ms()
    with suppress(StoreError):
        draws = [PoolDraw(f"{name}{now}/-/p/usd/task", 9, 0, now - 1, 0, 0, name) for name in NAMES]
        return all(nonces.spend(f"{name}{now}", now + 5_000, now) is not None for name in NAMES) and all(
            isinstance(ledger.take("draw", "", [draw]), Taken) for draw in draws
        )
    return False


@pytest.mark.slow
@pytest.mark.spec("8.3")
def test_the_mint_loads_what_is_missing(shards: Shards) -> None:
    """Into nodes with the functions of budgets alone, after a failover too, and into one that has lost all."""
    for node in shards.primaries():
        node.ask("FUNCTION", "LOAD", read_library("arx_verifier.ledger", "ledger.lua"))
    url = shards.url(f"{acl.LEDGER}:{PASSWORD}@")
    with ExitStack() as stack:
        nonces = stack.enter_context(closing(RedisNonces(url, "arx:nonce:acme:orders:", timeout_s=1)))
        ledger = stack.enter_context(closing(RedisLedger(url, "acme", timeout_s=1)))
        with pytest.raises(StoreError, match=f"nonce store {ABSENT}"):
            nonces.spend(b"k" * 32, now_ms() + 5_000, now_ms())
        mint_url = shards.url(f"{acl.LEDGER_MINT}:{PASSWORD}@")
        stack.enter_context(closing(new_ledger(mint_url, "acme", timeout_s=1, hides=True))).start()
        until(lambda: all_answer(nonces, ledger))
        replica = next(node for node in shards.nodes if node not in shards.primaries())
        replica.ask("CLUSTER", "FAILOVER")
        until(lambda: replica in shards.primaries())
        until(lambda: all_answer(nonces, ledger))
        replica.ask("FUNCTION", "FLUSH")
        until(lambda: all_answer(nonces, ledger))


@pytest.mark.spec("17.5")
def test_a_server_without_functions_names_what_loads_them(own_valkey: EmbeddedValkey) -> None:
    """Each call with a budget is refused until the mint has looked; the refusal names no right that the user has."""
    with ExitStack() as stack:
        root = stack.enter_context(redis.Redis.from_url(own_valkey.url))
        until(lambda: root.info("server")["uptime_in_seconds"] > 1)
        root.execute_command("ACL", "SETUSER", "orders", *acl.rules(acl.LEDGER, "acme", PASSWORD))
        url = own_valkey.url.replace("unix://", f"unix://orders:{PASSWORD}@")
        service = stack.enter_context(closing(RedisLedger(url, "acme", timeout_s=30)))
        draw = PoolDraw("t/-/p/usd/task", 9, 0, now_ms(), 0, 0)
        mint = stack.enter_context(closing(new_ledger(own_valkey.url, "acme", hides=True)))
        for _ in range(2):  # the second time after the mint has run, as a server that was started without its data
            root.flushall()
            root.function_flush()
            with pytest.raises(StoreError, match=f"ledger {ABSENT}"):
                service.take("draw", "", [draw])
            mint._look()
            assert isinstance(service.take("draw", "", [draw]), Taken)
