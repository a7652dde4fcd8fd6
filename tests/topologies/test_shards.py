# SPDX-License-Identifier: Apache-2.0
"""Used calls and budgets in a cluster: accepted when the replicas have them, and never twice.  SPEC 8.3, 17.7."""

import asyncio
import contextlib
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.revocation import acl
from arx_verifier.errors import SettingsError, StoreError
from arx_verifier.ledger.leases import LeasedLedger
from arx_verifier.ledger.pools import LOST, NEW, PoolDraw, Short, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.store_cluster import BUCKETS, StoreCluster, bucket_of
from arx_verifier.revocation.store_steps import Steps, run_async, steps_of
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.nonces import RedisNonces
from tests.ledgers import new_ledger
from tests.servers import until
from tests.support import ANYTHING, access, mint, sign, verifier
from tests.topologies.failovers import rehearse
from tests.topologies.fleet import NAMES, need
from tests.topologies.shards import PATIENT, Node, Shards, can_cut, sharded

pytestmark = [pytest.mark.servers, pytest.mark.slow]

PREFIX = "arx:nonce:acme:orders:"
KEEP_MS = 15_000
PASSWORD = "p" * 9


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shards]:
    with sharded(tmp_path_factory.mktemp("shards"), more=PATIENT) as running:
        yield running


@pytest.fixture
def services(shards: Shards) -> Iterator[list[RedisNonces]]:
    """Two processes of a service, past the beginning of every bucket."""
    found = [RedisNonces(shards.url(), PREFIX, timeout_s=1) for _ in range(2)]
    until(lambda: all(is_accepted(service) for service in found))
    yield found
    for service in found:
        service.close()


@pytest.fixture
def ledger(shards: Shards) -> Iterator[RedisLedger]:
    """The ledger of a new realm, as its mint has it."""
    with contextlib.closing(new_ledger(shards.url(), f"r{secrets.token_hex(4)}", timeout_s=1)) as found:
        begin(found)
        yield found


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def begin(ledger: RedisLedger) -> None:
    """Begin every bucket."""
    ledger.start()
    until(lambda: all(bucket.remembered != NEW for bucket in ledger._buckets.values()))


def is_accepted(service: RedisNonces) -> bool:
    """Whether new calls are accepted in every bucket."""
    try:
        return all(spend(service, key_in(bucket)) for bucket in BUCKETS)
    except StoreError:
        return False


def spend(service: RedisNonces, key: bytes | str) -> bool | None:
    now = now_ms()
    return service.spend(key, now + KEEP_MS, now)


def key_in(*buckets: str) -> bytes:
    """A call of one of these buckets."""
    return next(key for key in iter(lambda: secrets.token_bytes(32), b"") if bucket_of(key) in buckets)


def of_node(store: StoreCluster, node: Node, tag: str = "") -> tuple[str, ...]:
    """The buckets that a primary has."""
    return tuple(bucket for bucket in BUCKETS if store.shard_of(tag + bucket)[2:4] == (node.host, node.port))


def pool_of(session: str, most: int = 100) -> PoolDraw:
    return PoolDraw(f"{session}/-/p/usd/task", most, 0, now_ms(), 1, 1, session)


def draw(ledger: RedisLedger | LeasedLedger, pool: PoolDraw) -> Taken | Short:
    until(lambda: now_ms() > pool.opened)
    return ledger.take("draw", "", [pool])


def pool_at(ledger: RedisLedger, node: Node, most: int = 100) -> PoolDraw:
    """A pool that a primary keeps, on which a call has drawn."""
    realm = ledger._buckets[BUCKETS[0]].tag.removesuffix(BUCKETS[0])
    theirs = of_node(ledger._client, node, realm)
    session = next(name for n in range(10_000) if bucket_of((name := f"s{n}").encode()) in theirs)
    pool = pool_of(session, most)
    assert isinstance(draw(ledger, pool), Taken)
    return pool


@pytest.mark.spec("8.3")
def test_a_call_is_new_once_wherever_it_is_kept(services: list[RedisNonces], shards: Shards) -> None:
    """Of two processes one accepts it, in each shard; the name of an approval likewise."""
    one, other = services
    for key in [*[secrets.token_bytes(32) for _ in range(200)], "once:t-1:pay"]:
        assert spend(one, key)
        assert spend(other, key) is False
        assert one.not_before(key) == other.not_before(key) > 0
    kept = [node.client().dbsize() for node in shards.nodes]
    assert all(kept)


@pytest.mark.spec("8.3")
def test_a_new_service_refuses_for_three_seconds(shards: Shards) -> None:
    """A bucket without a beginning may have lost what it kept: all of them begin with the first call."""
    service = RedisNonces(shards.url(), f"arx:nonce:acme:{secrets.token_hex(4)}:", timeout_s=1)
    issued, key = now_ms(), key_in(BUCKETS[0])
    with pytest.raises(StoreError, match="has just taken over: it accepts calls in"):
        spend(service, key)
    until(lambda: is_accepted(service))
    assert spend(service, key), "the refused one was not spent"
    assert issued + 2_000 < service.not_before(key) <= now_ms()
    service.close()


@pytest.mark.spec("8.3")
def test_a_service_whose_clock_is_wrong_is_refused(services: list[RedisNonces]) -> None:
    """What it accepts could be issued after the beginning of the next server.  Far behind, it is forgotten early."""
    now = now_ms()
    with pytest.raises(StoreError, match=r"clock of this service is [0-9]+ ms ahead"):
        services[0].spend(b"a" * 32, now + KEEP_MS, now + 2_000)
    assert services[0].spend(secrets.token_bytes(32), now + KEEP_MS, now - 2_000)
    with pytest.raises(StoreError, match=r"clock of this service is -[0-9]+ ms ahead"):
        services[0].spend(b"a" * 32, now + KEEP_MS, now - 31_000)


@pytest.mark.spec("8.3")
@pytest.mark.spec("17.7")
def test_a_shard_without_its_replica_refuses(services: list[RedisNonces], ledger: RedisLedger, shards: Shards) -> None:
    """The others accept.  The refused call stays spent, and the refused draw counts."""
    primary = shards.primaries()[0]
    replica = replica_of(shards, primary)
    key, elsewhere = (key_in(*of_node(services[0]._client, node)) for node in (primary, shards.primaries()[1]))
    pool = pool_at(ledger, primary)
    replica.signal(signal.SIGSTOP)
    with pytest.raises(StoreError, match="replicas of a shard did not confirm"):
        spend(services[0], key)
    with pytest.raises(StoreError, match="replicas of a shard did not confirm"):
        draw(ledger, pool)
    assert spend(services[1], elsewhere)
    replica.signal(signal.SIGCONT)
    until(shards.is_whole)
    assert spend(services[1], key) is False
    answer = draw(ledger, pool)
    assert isinstance(answer, Taken)
    assert answer.remaining == (97,)


def replica_of(shards: Shards, primary: Node) -> Node:
    port = primary.ask("INFO", "replication")["slave0"]["port"]
    return next(node for node in shards.nodes if node.port == int(port))


@pytest.mark.spec("8.3")
def test_a_lost_answer_is_not_asked_for_again(services: list[RedisNonces], shards: Shards) -> None:
    """The primary runs the function once, after its caller has given up."""
    primary = shards.primaries()[0]
    quick = RedisNonces(shards.url(), PREFIX, timeout_s=0.2)
    key = key_in(*of_node(services[0]._client, primary))
    until(lambda: is_accepted(quick))
    before = calls_of(primary)
    primary.signal(signal.SIGSTOP)
    with pytest.raises(StoreError, match="TimeoutError"):
        spend(quick, key)
    primary.signal(signal.SIGCONT)
    until(lambda: calls_of(primary) > before)
    assert spend(services[0], key) is False
    assert calls_of(primary) == before + 2
    quick.close()


def calls_of(node: Node) -> int:
    return int(node.ask("INFO", "commandstats")["cmdstat_fcall"]["calls"])


@pytest.mark.spec("8.3")
@pytest.mark.spec("17.7")
def test_a_decision_spends_and_draws_in_two_shards(ledger: RedisLedger, shards: Shards) -> None:
    """
    A call is decided in a thread and on a loop alike; in the seconds of a beginning it is to be tried again, and what
    was signed before is signed anew by its caller.
    """
    nonces = RedisNonces(shards.url(), f"arx:nonce:acme:{secrets.token_hex(4)}:", timeout_s=1)
    service = verifier(nonces=nonces, ledger=ledger, costs={"*": {"calls": 1}})
    now = now_ms()
    parent = mint(ANYTHING, iat=now - 1_000, exp=now + 600_000).attenuate(
        Caveat(spend=("p", "calls", "3", "task", now))
    )

    async def on_loop(token: str, request: AccessRequest) -> str:
        return (await service.decide_async(token, request)).code

    def decide(code: str, token: str, request: AccessRequest) -> None:
        assert (asyncio.run(on_loop(token, request)) if code == "ok" else service.decide(token, request).code) == code

    before = sign(parent, access(at=now_ms()))
    decide("store_unavailable", before, access(at=now_ms()))
    until(lambda: is_accepted(nonces))
    early = service.decide(before, access(at=now_ms()))
    assert (early.code, early.failures[0].rule) == ("proof_invalid", "start")
    for code in ("ok", "ok", "ok", "budget_exhausted"):
        request = access(at=now_ms())
        token = sign(parent, request)
        decide(code, token, request)
        decide("replayed", token, request)
    nonces.close()


@pytest.mark.spec("8.3")
@pytest.mark.spec("17.7")
def test_an_event_loop_asks_the_cluster_by_its_own_connections(
    services: list[RedisNonces], ledger: RedisLedger, shards: Shards
) -> None:
    """As threads do: once each, followed when a slot moves, and refused without a replica."""
    source, target = shards.primaries()[:2]
    bucket, *_ = of_node(services[0]._client, source)
    keys, pools = [secrets.token_bytes(32) for _ in range(200)], [pool_of(f"s{n}") for n in range(20)]
    until(lambda: now_ms() > pools[-1].opened)

    async def work() -> None:
        now = now_ms()
        spends = [run_async(steps_of(services[0].spend, key, now + KEEP_MS, now)) for key in [*keys, *keys]]
        assert sorted(await asyncio.gather(*spends)) == [False] * 200 + [True] * 200
        takes = await asyncio.gather(*[run_async(steps_of(ledger.take, "draw", "", [pool])) for pool in pools * 5])
        assert sorted(answer.remaining[0] for answer in takes) == sorted([*range(95, 100)] * 20)
        with moved(shards, bucket, source, target):
            pass
        again = key_in(bucket)
        while True:
            with contextlib.suppress(StoreError):
                assert await run_async(steps_of(services[0].spend, again, now_ms() + KEEP_MS, now_ms()))
                break
        replica = replica_of(shards, target)
        replica.signal(signal.SIGSTOP)
        unconfirmed = key_in(bucket)
        with pytest.raises(StoreError, match="replicas of a shard did not confirm"):
            await run_async(steps_of(services[0].spend, unconfirmed, now_ms() + KEEP_MS, now_ms()))
        replica.signal(signal.SIGCONT)
        with contextlib.suppress(StoreError):
            assert await run_async(steps_of(services[0].spend, unconfirmed, now_ms() + KEEP_MS, now_ms())) is False

    asyncio.run(work())
    until(shards.is_whole)


@pytest.mark.spec("8.3")
def test_a_silent_replica_delays_no_caller_beyond_its_time_out(services: list[RedisNonces], shards: Shards) -> None:
    """Calls that follow one another would wait for the WAIT of each one before: all are refused, none works twice."""
    primary = shards.primaries()[0]
    replica, bucket = replica_of(shards, primary), of_node(services[0]._client, primary)[0]
    keys, took = [key_in(bucket) for _ in range(8)], []

    async def spend_late(number: int, key: bytes) -> None:
        await asyncio.sleep(number / 20)
        begun = time.monotonic()
        with pytest.raises(StoreError):
            await run_async(steps_of(services[0].spend, key, now_ms() + KEEP_MS, now_ms()))
        took.append(time.monotonic() - begun)

    async def work() -> None:
        assert await run_async(steps_of(services[0].spend, key_in(bucket), now_ms() + KEEP_MS, now_ms()))
        replica.signal(signal.SIGSTOP)
        await asyncio.gather(*map(spend_late, range(8), keys))
        replica.signal(signal.SIGCONT)
        await asyncio.to_thread(until, lambda: was_accepted(services[1], key_in(bucket)))
        # The server has not run what it had not read when the connection was dropped.
        for key in keys:
            spend(services[1], key)
            assert spend(services[1], key) is False
        await asyncio.sleep(0)

    asyncio.run(work())
    assert max(took) < 8 * 0.8, "one WAIT for each would take that long"
    until(shards.is_whole)


@pytest.mark.spec("17.7")
def test_pools_of_all_sessions_are_shown(ledger: RedisLedger, shards: Shards) -> None:
    """The last ones of all buckets, those of a task, one by its name; a top-up finds its pool."""
    pools = [pool_of(f"s{n}") for n in range(100)]
    for pool in pools:
        assert isinstance(draw(ledger, pool), Taken)
    assert sorted(ledger.latest()) == sorted(pool.pool for pool in pools)
    fresh = RedisLedger(shards.url(), ledger._buckets["00"].tag[:-3], timeout_s=1)
    (shown,) = fresh.shown("s7")
    assert (shown["id"], shown["committed"], shown["lost"]) == (pools[7].pool, 1, False)
    assert [row["remaining"] for row in fresh.read([pools[8].pool, "s8/-/other/usd/task"])] == [99]
    assert fresh.top_up(pools[8].pool, 5) == 104
    assert fresh.top_up("s8/-/other/usd/task", 5) is None
    granted = {"s9/-/q/usd/task": (7, pools[9].opened)}
    assert [row["remaining"] for row in fresh.read([*granted, pools[9].pool], granted, "s9")] == [7, 99]
    clock, seen = fresh.clocks()
    assert abs(clock - now_ms()) < 1_000
    assert pools[0].opened - 2_000 < seen <= now_ms()
    fresh.close()


@pytest.mark.spec("17.7")
def test_reservations_and_slices(ledger: RedisLedger, shards: Shards) -> None:
    """All pools of a call are in one bucket, so one function takes from all or from none."""
    pools = [pool_of("s-1"), pool_of("s-1", 3)._replace(pool="s-1/link/q/usd/task")]
    until(lambda: now_ms() > pools[1].opened)
    assert isinstance(ledger.take("reserve", "op", [each._replace(cost=3, wanted=3) for each in pools]), Taken)
    answer = ledger.take("draw", "", pools)
    assert (answer.at, answer.remaining) == (1, 0)  # type: ignore[union-attr]
    assert ledger.settle("op", [(each, 1) for each in pools]) is None
    assert ledger.settle("op", [(each, 1) for each in pools]) is None
    ledger.undo(pools)
    leased = LeasedLedger(RedisLedger(shards.url(), ledger._buckets["00"].tag[:-3], timeout_s=1))
    for _ in range(3):
        assert isinstance(draw(leased, pools[1]), Taken)
    assert draw(leased, pools[1]).remaining == 0
    leased.close()
    assert [row["committed"] for row in ledger.read([each.pool for each in pools])] == [0, 3]


@pytest.mark.spec("8.3")
@pytest.mark.spec("17.7")
def test_a_slot_that_moves_is_followed(services: list[RedisNonces], ledger: RedisLedger, shards: Shards) -> None:
    """
    While its keys move, the new primary is asked, where pools are exhausted: what it has was another server's.  A call
    that was used before the move is refused after it.
    """
    source, target = shards.primaries()[:2]
    pool, (bucket, *_) = pool_at(ledger, source), of_node(services[0]._client, source)
    used = key_in(bucket)
    assert spend(services[0], used)
    for tag in (ledger._bucket([pool]).tag, bucket):
        with moved(shards, tag, source, target):
            if tag != bucket:
                assert draw(ledger, pool).remaining == LOST  # type: ignore[comparison-overlap]
    assert draw(ledger, pool).remaining == LOST  # type: ignore[comparison-overlap]
    until(lambda: was_accepted(services[0], key_in(bucket)))
    assert spend(services[1], used) is False
    assert services[0]._client.shard_of(bucket).port == target.port


def was_accepted(service: RedisNonces, key: bytes) -> bool | None:
    try:
        return spend(service, key)
    except StoreError:
        return False


@pytest.mark.spec("8.3")
@pytest.mark.spec("17.7")
@pytest.mark.parametrize("first", [True, False], ids=("header first", "header last"))
@pytest.mark.parametrize("on_loop", [False, True], ids=("thread", "loop"))
def test_a_moving_slot_serves_a_call_once_or_refuses_it(
    services: list[RedisNonces], ledger: RedisLedger, shards: Shards, on_loop: bool, first: bool
) -> None:
    """
    Its keys move one by one.  After each of them a used call is repeated, a new one is made twice, and a pool is drawn
    on: no call is accepted twice, no unit is granted beyond the pool, and all is served once the slot has moved.
    """
    source, target = shards.primaries()[:2]
    bucket, pool = of_node(services[0]._client, source)[0], pool_at(ledger, source, 7)
    used, accepted, granted = [key_in(bucket) for _ in range(12)], Counter[bytes](), 1

    with asyncio.Runner() as runner:

        async def on(steps: Steps[Any]) -> Any:
            return await run_async(steps)

        def ask(method: Callable[..., Any], *args: object) -> Any:
            """Return the answer; None for a refusal."""
            with contextlib.suppress(StoreError):
                return runner.run(on(steps_of(method, *args))) if on_loop else method(*args)
            return None

        def call(key: bytes) -> None:
            for service in services:
                accepted[key] += ask(service.spend, key, now_ms() + KEEP_MS, now_ms()) is True

        def serve() -> None:
            nonlocal granted
            call(random.choice(used))
            call(key_in(bucket))
            granted += isinstance(ask(ledger.take, "draw", "", [pool]), Taken)

        for key in used:
            call(key)
        assert {*accepted.values()} == {1}
        for tag in (bucket, ledger._bucket([pool]).tag):
            with moved(shards, tag, source, target, serve, first=first):
                serve()
            serve()
        until(lambda: accepted.update({(new := key_in(bucket)): 0}) or call(new) or accepted[new] == 1)
        for key in [*accepted]:
            call(key)
        assert max(accepted.values()) == 1
        assert granted <= pool.max
        assert ask(ledger.take, "draw", "", [pool]).remaining == LOST
        for service in services:
            service.close()
        runner.run(asyncio.sleep(0))


@pytest.mark.spec("8.3")
@pytest.mark.parametrize("fault", ["cancelled", "disconnected"])
def test_calls_that_end_while_a_slot_moves(services: list[RedisNonces], shards: Shards, fault: str) -> None:
    """Their callers give up, or lose the connections, at any step: each is answered, and none is sent again."""
    source, target = shards.primaries()[:2]
    bucket, *_ = of_node(services[0]._client, source)
    keys = [key_in(bucket) for _ in range(200)]

    async def spend_on_loop(key: bytes) -> bool | None:
        return await run_async(steps_of(services[0].spend, key, now_ms() + KEEP_MS, now_ms()))

    async def work() -> list[bool | BaseException | None]:
        assert await spend_on_loop(key_in(bucket))
        with moved(shards, bucket, source, target):
            pass
        tasks = [asyncio.ensure_future(spend_on_loop(key)) for key in keys]
        for _ in range(60):
            await asyncio.sleep(0)
            if fault == "cancelled":
                for task in random.sample(tasks, 3):
                    task.cancel()
            else:
                random.choice((source, target)).ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        async with asyncio.timeout(60):
            return await asyncio.gather(*tasks, return_exceptions=True)

    before = sum(map(calls_of, shards.primaries()))
    answers = asyncio.run(work())
    assert all(isinstance(answer, bool | StoreError | asyncio.CancelledError) for answer in answers)
    assert sum(map(calls_of, shards.primaries())) - before <= 1 + len(keys) + 2 * len(BUCKETS)
    until(lambda: was_accepted(services[0], key_in(bucket)))
    for key, answer in zip(keys, answers, strict=True):
        assert not (answer is True and spend(services[1], key))


@contextlib.contextmanager
def moved(
    shards: Shards,
    tag: str,
    source: Node,
    target: Node,
    step: Callable[[], None] | None = None,
    *,
    first: bool = False,
) -> Iterator[None]:
    """Move the slot of a hash tag; within the block its keys are at the target, and the slot is the source's still.

    Args:
        shards: The cluster.
        tag: The hash tag.
        source: The primary that has the slot.
        target: The one that gets it.
        step: Called before the first key moves and after each of them; without it many move at once.
        first: Whether the header, the bucket's shortest key, moves before all others, or after them.
    """
    slot = source.ask("CLUSTER", "KEYSLOT", f"{{{tag}}}")
    source_id, target_id = (node.ask("CLUSTER", "MYID") for node in (source, target))
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    with source.client(decode_responses=False) as raw:
        if step is not None:
            step()
        while keys := sorted(raw.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1_000), key=len, reverse=not first):
            keys = keys if step is None else keys[:1]
            raw.execute_command("MIGRATE", target.host, target.port, "", 0, 5_000, "KEYS", *keys)
            if step is not None:
                step()
    yield
    for node in (target, source, shards.primaries()[2]):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)


@pytest.mark.spec("17.7")
def test_each_bucket_of_a_realm_is_noted(tmp_path: Path, shards: Shards) -> None:
    """
    A mint begins all of them as the realm's first; one whose ledger was elsewhere does not, and back again neither.
    """
    realm = init_realm(tmp_path / "realm", name=f"r{secrets.token_hex(4)}", issuer="http://127.0.0.1:9")
    with MintDatabase(realm.database_url) as db:
        db.create()

        def as_mint(url: str) -> RedisLedger:
            ledger = RedisLedger(url, realm.name, timeout_s=1)
            ledger.recall(db.ledger.beginning, db.ledger.note)
            ledger.start()
            return ledger

        with contextlib.closing(as_mint(shards.url())) as ledger:
            until(lambda: all(db.ledger.beginning(bucket).startswith("1 ") for bucket in BUCKETS))
            assert isinstance(draw(ledger, pool_of("s1")), Taken)
        assert db.ledger.beginning() != NEW
        db.ledger.note("", "5 another")
        assert {db.ledger.beginning(bucket) for bucket in BUCKETS} == {"5 another"}
        with contextlib.closing(as_mint(shards.url())) as ledger:
            assert draw(ledger, pool_of("s1")).remaining == LOST  # type: ignore[comparison-overlap]
            assert db.ledger.beginning(bucket_of(b"s1")).startswith("6 ")
        assert db.ledger.beginning().startswith("6 ")


def test_the_role_has_the_rights_that_a_cluster_takes(shards: Shards) -> None:
    """Of used calls and of budgets; no other realm's keys, and no key of a used call by itself."""
    name = f"r{secrets.token_hex(4)}"
    for node in shards.nodes:
        node.ask("ACL", "SETUSER", "services", *acl.rules("ledger", name, PASSWORD, cluster=True))
        node.ask("ACL", "SETUSER", "mint", *acl.rules("ledger-mint", name, PASSWORD, cluster=True))
    url = shards.url("services@")
    with (
        contextlib.closing(RedisLedger(shards.url("mint@"), name, password=PASSWORD, timeout_s=1, hides=True)) as mint,
        contextlib.closing(RedisLedger(url, name, password=PASSWORD, timeout_s=1)) as ledger,
    ):
        mint.recall(lambda _: NEW, lambda _, beginning: beginning)
        mint.load()
        begin(mint)
        assert isinstance(draw(ledger, pool_of("s1")), Taken)
        with pytest.raises(StoreError, match="does not permit"):
            ledger.shown("s1")
        assert mint.shown("s1")
        assert mint.top_up("s1/-/p/usd/task", 1) == 100
    service = RedisNonces(url, f"arx:nonce:{name}:orders:", password=PASSWORD, timeout_s=1)
    until(lambda: was_accepted(service, key_in(BUCKETS[0])))
    service.close()
    user = shards.nodes[0].client().acl_getuser("services")
    assert not acl.exceeds_ledger(user, name, cluster=True)
    assert acl.exceeds_ledger(user, name)
    others = RedisNonces(url, "arx:nonce:other:orders:", password=PASSWORD, timeout_s=1)
    with pytest.raises(StoreError, match="does not permit"):
        spend(others, b"k" * 32)
    others.close()


def test_a_server_that_may_forget_is_refused(shards: Shards) -> None:
    """Of used calls and of pools alike, in a cluster as at one server."""
    service = RedisNonces(shards.url(), PREFIX, timeout_s=1)
    ledger = RedisLedger(shards.url(), "forgets", timeout_s=1)
    for node in shards.nodes:
        node.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreError, match="noeviction"):
            spend(service, b"k" * 32)
        with pytest.raises(StoreError, match="noeviction"):
            draw(ledger, pool_of("s1"))
    finally:
        for node in shards.nodes:
            node.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        service.close()
        ledger.close()


def test_a_cluster_that_is_away_is_refused() -> None:
    """Each call is, at once."""
    service = RedisNonces("redis+cluster://127.0.0.1:1,127.0.0.1:2", PREFIX)
    for _ in range(2):
        with pytest.raises(StoreError, match="did not answer: ConnectionError"):
            spend(service, b"k" * 32)
    service.close()
    with pytest.raises(SettingsError, match="redis\\+cluster://"):
        RedisNonces("http://127.0.0.1", PREFIX)


@pytest.mark.spec("8.3")
@pytest.mark.spec("17.7")
def test_a_replica_that_takes_over_goes_on(services: list[RedisNonces], ledger: RedisLedger, shards: Shards) -> None:
    """It has each used call and each draw.  Calls are refused for 3 s, and pools are not lost."""
    primary = shards.primaries()[0]
    used, pool = key_in(*of_node(services[0]._client, primary)), pool_at(ledger, primary)
    old = ledger._bucket([pool]).remembered
    assert spend(services[0], used)
    time_of_seen(ledger, pool)
    replica = replica_of(shards, primary)
    replica.ask("CLUSTER", "FAILOVER")
    until(lambda: replica in shards.primaries())
    assert answered(lambda: draw(ledger, pool).remaining) == (98,)
    assert ledger._bucket([pool]).remembered != old
    with pytest.raises(StoreError, match="has just taken over"):
        spend(services[0], used)
    until(lambda: was_accepted(services[0], key_in(bucket_of(used))))
    assert spend(services[1], used) is False
    until(shards.is_whole)


def time_of_seen(ledger: RedisLedger, pool: PoolDraw) -> None:
    """Wait until the header is newer than the start of each server by what the function requires."""
    bucket = ledger._bucket([pool])
    up = ledger._client.server(bucket.tag).info("server")["uptime_in_seconds"]
    started = now_ms() - up * 1000
    until(lambda: ledger._seen(bucket) > started + 3_000)


def answered(ask: Callable[[], object]) -> object:
    """Ask until there is an answer."""
    found: list[object] = []

    def asked() -> bool:
        with contextlib.suppress(StoreError):
            found.append(ask())
        return bool(found)

    until(asked)
    return found[0]


@pytest.mark.spec("8.3")
@pytest.mark.spec("17.7")
def test_a_primary_that_starts_again_may_lack_what_it_kept(
    services: list[RedisNonces], ledger: RedisLedger, shards: Shards
) -> None:
    """It answers with an older file before its replica is promoted: pools are lost, and earlier calls are refused."""
    for node in shards.nodes:
        node.ask("CONFIG", "SET", "cluster-node-timeout", 20_000)
    primary = shards.primaries()[0]
    key, pool = key_in(*of_node(services[0]._client, primary)), pool_at(ledger, primary)
    time_of_seen(ledger, pool)
    issued = now_ms()
    primary.kill()
    primary.start()
    until(lambda: was_accepted(services[0], key_in(bucket_of(key))))
    assert issued < services[0].not_before(key)
    assert answered(lambda: draw(ledger, pool).remaining) == LOST


@pytest.mark.nightly
@pytest.mark.spec("8.3")
@pytest.mark.spec("17.7")
@pytest.mark.parametrize("binary", NAMES[1:])
def test_no_call_and_no_unit_is_given_twice(binary: str, tmp_path: Path) -> None:
    """Primaries are killed, paused and cut off under load; refusals end with the failover, and at most 4 s after it."""
    outcomes, load = rehearse(tmp_path, need(binary), ("kill", "pause", *(("cut",) if can_cut() else ())))
    assert load.calls.doubled == load.budgets.over == 0
    assert not any(each.late for each in outcomes)
    assert len(load.calls.accepted) > 100
    assert load.budgets.granted.total() > 100
