# SPDX-License-Identifier: Apache-2.0
"""The store of used calls and budgets as event loops ask it: whose answer is whose, and what a bad network changes."""

import asyncio
import contextlib
import gc
import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation import acl
from arx_caps.revocation.store import RevocationStore
from arx_verifier.clock import now_ms
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.ledger.leases import LeasedLedger
from arx_verifier.ledger.pools import PoolDraw, Short, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.revocation import loop_link
from arx_verifier.revocation.epoch import boot_clock
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.store_client import StoreClient, StoreCommand
from arx_verifier.revocation.store_steps import run_async, steps_of
from arx_verifier.revocation.store_url import Address
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.nonces import RedisNonces
from arx_verifier.verification.verifier import Verifier
from tests.faults.conftest import BY, L_NS
from tests.faults.proxy import Proxy
from tests.ledgers import new_ledger
from tests.servers import until
from tests.support import ANYTHING, QUICK, access, mint, sign, verifier

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.3")]
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
PATIENT_S = 10.0  # where no test is about time


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Awaitable[Any]], Any]]:
    """Run work in an event loop of each kind."""
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner.run


@pytest.fixture
def network(valkey: EmbeddedValkey) -> Iterator[Proxy]:
    """A network before the store."""
    proxy = Proxy(Path(valkey.url.removeprefix("unix://")))
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def each_error_is_read(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No error of a task or of an answer is left unread: asyncio logs one when it is collected."""
    yield
    gc.collect()
    logged = [record.getMessage() for when in ("call", "teardown") for record in caplog.get_records(when)]
    assert [line for line in logged if "never retrieved" in line] == []


class Calls:
    """A service that keeps used calls in a store, and the calls of one task.

    Args:
        url: The store.
        timeout_s: As of ``RedisNonces``.
        prefix: As of ``RedisNonces``; empty for one of its own.
        parts: Of the verifier.
    """

    def __init__(self, url: str, timeout_s: float = PATIENT_S, prefix: str = "", **parts: Any) -> None:
        self.nonces = RedisNonces(url, prefix or f"{secrets.token_hex(4)}:", timeout_s=timeout_s)
        self.verifier: Verifier = verifier(nonces=self.nonces, **parts)
        now = now_ms()
        self.request = access(at=now)
        self._parent = mint(ANYTHING, iat=now - 1000, exp=now + 600_000)

    def call(self) -> str:
        """Sign a new call."""
        return sign(self._parent, self.request)

    async def code(self, token: str) -> str:
        """Decide on a call."""
        return (await self.verifier.decide_async(token, self.request)).code


@contextlib.asynccontextmanager
async def calls(url: str, timeout_s: float = PATIENT_S, **parts: Any) -> AsyncIterator[Calls]:
    made = Calls(url, timeout_s, **parts)
    yield made
    made.nonces.close()
    await asyncio.sleep(0)


def echo(client: StoreClient, word: int) -> "Awaitable[Any]":
    return StoreCommand(client, ("ECHO", word)).run_async()


def test_a_loop_needs_no_thread(run: Any, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls, replays and budgets are decided without a thread; together they have one connection."""

    async def refuse(*_: Any) -> None:
        raise AssertionError("a thread was asked")

    async def work() -> None:
        monkeypatch.setattr(asyncio, "to_thread", refuse)
        ledger = new_ledger(valkey.url, secrets.token_hex(4), PATIENT_S)
        ledger.start()
        opened = now_ms() + 5
        async with calls(valkey.url, ledger=ledger, costs={"*": {"calls": 1}}) as service:
            parent = service._parent.attenuate(Caveat(spend=("p", "calls", "3", "task", opened)))
            await asyncio.sleep(0.05)
            service.request = access(at=now_ms())
            tokens = [sign(parent, service.request) for _ in range(4)]
            with redis.Redis.from_url(valkey.url) as admin:
                before = len(admin.client_list())
                assert [await service.code(token) for token in [*tokens, tokens[0]]] == [
                    *["ok"] * 3,
                    "budget_exhausted",
                    "replayed",
                ]
                assert len(admin.client_list()) == before + 1
        ledger.close()

    run(work())


def test_a_cancelled_call_takes_no_answer_of_another(run: Any, valkey: EmbeddedValkey) -> None:
    """A decision is cancelled after each number of steps of its loop, until it ends before; all others are right."""

    async def work() -> None:
        async with calls(valkey.url) as service:
            # A busy machine takes any number of steps for an answer: what is longer than these ends in the wait for it.
            for steps in [*range(100), *(100 << doubled for doubled in range(14))]:
                first, cancelled, last = (service.call() for _ in range(3))
                tasks = [asyncio.ensure_future(service.code(token)) for token in (first, cancelled, last)]
                for _ in range(steps):
                    await asyncio.sleep(0)
                ended = tasks[1].done()
                tasks[1].cancel()
                assert [await tasks[0], await tasks[2]] == ["ok", "ok"]
                # A cancelled one was spent or was not; and it is spent once.
                again = [await service.code(cancelled) for _ in range(2)]
                assert again in (["ok", "replayed"], ["replayed", "replayed"])
                assert await service.code(first) == "replayed"
                if ended:
                    assert steps > 2
                    return
                if steps % 7 == 0:
                    service.nonces.close()  # so that the next is cancelled while a connection is opened
                    await asyncio.sleep(0)
        raise AssertionError("no decision ended before it was cancelled")

    run(work())


@pytest.mark.slow
@given(st.randoms(use_true_random=False))
@settings(QUICK, max_examples=40)
def test_each_answer_is_of_its_own_command(valkey: EmbeddedValkey, draws: random.Random) -> None:
    """Commands are asked, cancelled and cut off in any order: each gets its own answer, an error, or none."""

    # Drawn before anything is asked: Hypothesis ends an example at a draw, and then no answer would be read.
    plan = [
        (draws.randrange(4), draws.randrange(number + 1) if draws.random() < 0.3 else None, draws.random() < 0.05)
        for number in range(draws.randrange(1, 60))
    ]

    async def work() -> None:
        client = StoreClient(Address(valkey.url), PATIENT_S, lambda _: None)
        tasks: list[asyncio.Future[Any]] = []
        with redis.Redis.from_url(valkey.url) as admin:
            for number, (steps, cancelled, cuts) in enumerate(plan):
                tasks.append(asyncio.ensure_future(echo(client, number)))
                for _ in range(steps):
                    await asyncio.sleep(0)
                if cancelled is not None:
                    tasks[cancelled].cancel()
                if cuts:
                    admin.client_kill_filter(_type="normal", skipme=True)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for number, answer in enumerate(answers):
            assert answer == str(number).encode() or isinstance(answer, (redis.ConnectionError, asyncio.CancelledError))
        with contextlib.suppress(redis.ConnectionError):
            await echo(client, 6)  # a connection that was being opened may have been cut off
        assert await echo(client, 7) == b"7"
        client.close()
        await asyncio.sleep(0)

    asyncio.run(work())


def test_a_lost_answer_is_not_asked_again(run: Any, valkey: EmbeddedValkey, network: Proxy) -> None:
    """The call is refused, was sent once, and stays spent; the next one has a new connection."""

    async def work() -> None:
        async with calls(network.url) as service:
            assert await service.code(service.call()) == "ok"
            token = service.call()
            with redis.Redis.from_url(valkey.url) as admin:
                before = admin.info("commandstats")["cmdstat_set"]["calls"]
                network.lose(1)
                assert await service.code(token) == "store_unavailable"
                assert admin.info("commandstats")["cmdstat_set"]["calls"] == before + 1
            assert await service.code(token) == "replayed"
            assert await service.code(service.call()) == "ok"

    run(work())


def test_a_silent_store_refuses_all_in_time(run: Any, network: Proxy) -> None:
    """A caller that waits is refused after the time-out, and what the store answers later is used for none."""

    async def work() -> None:
        async with calls(network.url, timeout_s=0.5) as service:
            assert await service.code(service.call()) == "ok"
            tokens = [service.call() for _ in range(50)]
            network.hold(network.from_store)
            begun = time.monotonic()
            codes = await asyncio.gather(*map(service.code, tokens))
            assert set(codes) == {"store_unavailable"}
            assert time.monotonic() - begun < 5
            network.heal()
            assert await service.code(service.call()) == "ok"
            assert set(await asyncio.gather(*map(service.code, tokens))) == {"replayed"}

    run(work())


def test_a_slow_store_is_waited_for_until_the_time_out(run: Any, network: Proxy) -> None:
    """Late answers are used for none: not for the call that was asked, and not for one that follows."""

    async def work() -> None:
        async with calls(network.url, timeout_s=2) as service:
            assert await service.code(service.call()) == "ok"
            network.from_store.delay_s = 0.2
            assert set(await asyncio.gather(*[service.code(service.call()) for _ in range(20)])) == {"ok"}
            network.from_store.delay_s = 2.5
            tokens = [service.call() for _ in range(20)]
            assert set(await asyncio.gather(*map(service.code, tokens))) == {"store_unavailable"}
            network.heal()
            assert set(await asyncio.gather(*map(service.code, tokens))) == {"replayed"}
            assert await service.code(service.call()) == "ok"

    run(work())


def test_what_waits_is_bounded(run: Any, network: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """More calls than may wait are refused at once, also if those that wait are cancelled; then it goes on."""
    monkeypatch.setattr(loop_link, "MAX_WAITING", 20)

    async def work() -> None:
        async with calls(network.url) as service:
            assert await service.code(service.call()) == "ok"
            network.hold(network.from_store)
            waiting = [asyncio.ensure_future(service.code(service.call())) for _ in range(20)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for task in waiting[:5]:
                task.cancel()
            assert await service.code(service.call()) == "store_unavailable"
            network.heal()
            assert set(await asyncio.gather(*waiting[5:])) == {"ok"}
            assert await service.code(service.call()) == "ok"

    run(work())


@pytest.mark.spec("17.7")
def test_asking_leaves_with_its_command_or_not_at_all(
    run: Any, valkey: EmbeddedValkey, network: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for one command more: an ASKING alone would be for another call's command, and unread."""
    monkeypatch.setattr(loop_link, "MAX_WAITING", 2)

    async def work() -> None:
        client = StoreClient(Address(network.url), PATIENT_S, lambda _: None)
        assert await echo(client, 1) == b"1"
        before = _calls(valkey.url)
        network.hold(network.from_store)
        waiting = asyncio.ensure_future(echo(client, 2))
        await asyncio.sleep(0)
        moved = StoreCommand(client, ("ECHO", 3), ("WAIT", 0, 1), asking=True)
        confirmed = asyncio.ensure_future(moved.run_async())
        for _ in range(5):
            await asyncio.sleep(0)
        network.heal()
        with pytest.raises(redis.ConnectionError, match="too many"):
            await confirmed
        assert await waiting == b"2"
        client.close()
        await asyncio.sleep(0)
        asked = {name: each - before[name] for name, each in _calls(valkey.url).items()}
        assert asked["echo"] == 1 + asked["asking"]

    run(work())


def _calls(url: str) -> dict[str, int]:
    with redis.Redis.from_url(url) as admin:
        stats = admin.info("commandstats")
    return {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("asking", "echo")}


def test_bytes_that_wait_are_bounded(run: Any, network: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes nothing fills no memory; what it takes later is answered."""
    monkeypatch.setattr(loop_link, "MAX_UNSENT", 1 << 20)

    async def work() -> None:
        client = StoreClient(Address(network.url), PATIENT_S, lambda _: None)
        assert await echo(client, 1) == b"1"
        network.hold(network.to_store)
        asked: list[Awaitable[Any]] = []
        with contextlib.suppress(redis.ConnectionError):
            while len(asked) < 2000:
                asked.append(StoreCommand(client, ("ECHO", b"x" * 65_536)).run_async())
        assert len(asked) < 2000
        network.heal()
        assert set(await asyncio.gather(*asked)) == {b"x" * 65_536}
        client.close()
        await asyncio.sleep(0)

    run(work())


def test_a_busy_loop_uses_no_old_answer(run: Any, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that takes long refuses none whose answer came meanwhile, unless it is too old to prove anything."""

    async def work() -> None:
        async with calls(valkey.url, timeout_s=0.2) as service:
            assert await service.code(service.call()) == "ok"
            for busy_s, code in ((0.5, "ok"), (1.2, "store_unavailable")):
                task = asyncio.ensure_future(service.code(service.call()))
                await asyncio.sleep(0)
                time.sleep(busy_s)  # noqa: ASYNC251 - another task does that
                assert await task == code

    monkeypatch.setattr(loop_link, "LATEST_S", 1.0)
    run(work())


def test_a_forked_process_has_its_own_connection(run: Any, valkey: EmbeddedValkey) -> None:
    """A child uses none of its parent, and the parent's goes on."""

    async def work() -> None:
        client = StoreClient(Address(valkey.url), PATIENT_S, lambda _: None)
        waiting = asyncio.ensure_future(echo(client, 1))
        assert await echo(client, 2) == b"2"
        assert await waiting == b"1"
        pending = [echo(client, number) for number in range(20)]
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                # The child has no event loop of its own yet.
                asyncio._set_running_loop(None)
                answers = asyncio.new_event_loop().run_until_complete(_ask(client))
                status = 0 if answers == [b"%d" % number for number in range(100, 120)] else 2
            os._exit(status)
        assert await asyncio.gather(*pending) == [b"%d" % number for number in range(20)]
        assert os.waitstatus_to_exitcode(await asyncio.to_thread(_status_of, child)) == 0
        assert await echo(client, 3) == b"3"
        client.close()
        await asyncio.sleep(0)

    run(work())


def _status_of(process: int) -> int:
    return os.waitpid(process, 0)[1]


async def _ask(client: StoreClient) -> list[Any]:
    return [await echo(client, number) for number in range(100, 120)]


def test_a_loop_that_has_ended_leaves_no_connection(valkey: EmbeddedValkey) -> None:
    """The next loop has a new one, and the old one is closed."""
    client = StoreClient(Address(valkey.url), PATIENT_S, lambda _: None)

    async def work(number: int) -> None:
        assert await echo(client, number) == b"%d" % number

    with redis.Redis.from_url(valkey.url) as admin:
        before = len(admin.client_list())
        for number in range(5):
            asyncio.run(work(number))
        until(lambda: len(admin.client_list()) <= before + 1)

        async def end() -> None:
            client.close()
            assert await echo(client, 9) == b"9"  # a verifier that shares it opens a new one
            client.close()
            await asyncio.sleep(0)

        asyncio.run(end())
        until(lambda: len(admin.client_list()) == before)


def test_one_pool_gives_what_it_has_and_no_more(
    run: Any, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many tasks of a loop draw from a lease at the same moment: each unit is given once, and all are."""
    monkeypatch.setattr("arx_verifier.ledger.leases.LONGEST_TURN_S", 60.0)  # each draw counts, on a busy machine too

    async def work() -> None:
        ledger = new_ledger(valkey.url, secrets.token_hex(4), PATIENT_S)
        ledger.start()
        await asyncio.sleep(0.005)
        opened = now_ms()
        await asyncio.sleep(0.005)
        draw = PoolDraw("t/-/p/calls/task", 300, 0, opened, 1, 1)
        leased = LeasedLedger(ledger)
        results = await asyncio.gather(*(run_async(steps_of(leased.take, "draw", "", [draw])) for _ in range(400)))
        assert sum(isinstance(result, Taken) for result in results) == 300
        assert sum(isinstance(result, Short) for result in results) == 100
        leased.close()
        await asyncio.sleep(0)

    run(work())


def test_a_login_a_database_and_a_new_password(run: Any, own_valkey: EmbeddedValkey) -> None:
    """User, password and number of the database are those of the address; a refused login is logged without them."""
    with redis.Redis.from_url(own_valkey.url) as admin:
        until(lambda: admin.info("server")["uptime_in_seconds"] > 1)
        rights = ["+hello", "+auth", "+ping", "+select", "+info", "+client|setinfo", "+fcall", "+set", "~*"]
        admin.execute_command("ACL", "SETUSER", "orders", "reset", "on", ">first", "-@all", *rights)
        url = own_valkey.url.replace("unix://", "unix://orders:first@") + "?db=3"

        async def work() -> None:
            async with calls(url) as service:
                assert await service.code(service.call()) == "ok"
                assert admin.info("keyspace")["db3"]["keys"] == 1
                admin.execute_command("ACL", "SETUSER", "orders", "resetpass", ">second")
                admin.client_kill_filter(user="orders")
                assert await service.code(service.call()) == "store_unavailable"
                assert await service.code(service.call()) == "store_unavailable"
                admin.execute_command("ACL", "SETUSER", "orders", "resetpass", ">first")
                assert await service.code(service.call()) == "ok"

        run(work())


def test_a_restarted_store_accepts_nothing_older(run: Any, tmp_path: Path) -> None:
    """A new connection is asked when its server started, before it is asked for a call."""

    async def work() -> None:
        server = EmbeddedValkey(tmp_path / "v")
        server.start()
        try:
            with redis.Redis.from_url(server.url) as admin:
                until(lambda: admin.info("server")["uptime_in_seconds"] > 1)
            async with calls(server.url) as service:
                assert await service.code(service.call()) == "ok"
                tokens = [service.call() for _ in range(5)]
                server.stop()
                assert await service.code(tokens[0]) == "store_unavailable"
                server.start()
                for token in tokens:
                    assert await service.code(token) == "proof_invalid"
        finally:
            server.stop()

    run(work())


def test_a_cancelled_decision_is_recorded(run: Any, network: Proxy) -> None:
    """Its record has a refusal: what it has spent stays spent, and no call was allowed."""

    async def work() -> None:
        kept = InMemoryDecisions()
        async with calls(network.url, decisions=kept) as service:
            assert await service.code(service.call()) == "ok"
            network.hold(network.from_store)
            task = asyncio.ensure_future(service.code(service.call()))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            network.heal()
            assert [decision.code for decision in kept.decisions] == ["ok", "store_unavailable"]

    run(work())


class Budgeted(Calls):
    """A service whose calls draw on one budget of 3, kept by the server of its used calls.

    Args:
        url: The server.
        realm: The realm.
        begun: Whether a mint has begun the ledger, so that this user need not have its rights.
    """

    def __init__(self, url: str, realm: str, *, begun: bool) -> None:
        self.ledger = (RedisLedger if begun else new_ledger)(url, realm, timeout_s=PATIENT_S)
        super().__init__(url, ledger=self.ledger, costs={"*": {"calls": 1}}, prefix=f"arx:nonce:{realm}:orders:")

    async def begin(self) -> None:
        """Have the ledger begin, then open the budget."""
        await asyncio.to_thread(self.ledger.start)
        await asyncio.sleep(0.005)
        self._parent = self._parent.attenuate(Caveat(spend=("p", "calls", "3", "task", now_ms())))
        await asyncio.sleep(0.005)
        self.request = access(at=now_ms())

    async def end(self) -> None:
        """Close its stores."""
        self.nonces.close()
        await asyncio.to_thread(self.ledger.close)


@contextlib.asynccontextmanager
async def budgeted(url: str, realm: str = "") -> AsyncIterator[Budgeted]:
    made = Budgeted(url, realm or secrets.token_hex(4), begun=bool(realm))
    await made.begin()
    yield made
    await made.end()


@pytest.mark.spec("17.5")
def test_one_question_spends_a_call_and_draws(run: Any, valkey: EmbeddedValkey) -> None:
    """A server that keeps both is asked once; a replay draws nothing, and a call with no budget left is spent."""

    async def work() -> None:
        async with budgeted(valkey.url) as service:
            with redis.Redis.from_url(valkey.url) as admin:
                tokens = [service.call() for _ in range(4)]
                assert await service.code(tokens[0]) == "ok"
                before = admin.info("commandstats")["cmdstat_fcall"]["calls"]
                assert await service.code(tokens[1]) == "ok"
                assert admin.info("commandstats")["cmdstat_fcall"]["calls"] - before in (1, 2)  # or a look as well
            assert [await service.code(tokens[0]) for _ in range(5)] == ["replayed"] * 5
            assert [await service.code(token) for token in tokens[2:]] == ["ok", "budget_exhausted"]
            assert await service.code(tokens[3]) == "replayed"

    run(work())


def load_functions(url: str) -> None:
    """Load the ledger's functions and begin it, as a mint does: the user of a service may not."""
    with contextlib.closing(new_ledger(url, "acme")) as mint:
        mint.start()


@pytest.mark.spec("17.5")
@pytest.mark.parametrize("lacks", ["function", "rights"])
def test_a_server_that_cannot_do_both_is_asked_twice(own_valkey: EmbeddedValkey, lacks: str) -> None:
    """It keeps functions of an earlier version, or its user may not: calls are spent and drawn for all the same."""

    async def work() -> None:
        url = own_valkey.url
        with redis.Redis.from_url(url) as admin:
            until(lambda: admin.info("server")["uptime_in_seconds"] > 1)
            rules = acl.rules("ledger", "acme", "secret")
            if lacks == "function":
                source = files("arx_verifier.ledger").joinpath("ledger.lua").read_text("utf-8")
                admin.function_load(source.replace("redis.register_function('arx2_call', call)", ""))
            else:
                rules = [*rules[:-1], "(+set ~arx:nonce:acme:*)"]
            load_functions(url)
            admin.execute_command("ACL", "SETUSER", "budgets", *rules)
            async with budgeted(url.replace("unix://", "unix://budgets:secret@"), "acme") as service:
                tokens = [service.call() for _ in range(3)]
                assert [await service.code(token) for token in [*tokens[:2], tokens[0]]] == ["ok", "ok", "replayed"]
                assert [await service.code(token) for token in [tokens[2], service.call()]] == [
                    "ok",
                    "budget_exhausted",
                ]

    asyncio.run(work())


@pytest.mark.spec("17.5")
def test_a_user_of_the_role_does_both(own_valkey: EmbeddedValkey) -> None:
    """The rights that `arx redis acl --role ledger` prints are enough for used calls and budgets in one question."""

    async def work() -> None:
        with redis.Redis.from_url(own_valkey.url) as admin:
            until(lambda: admin.info("server")["uptime_in_seconds"] > 1)
            admin.execute_command("ACL", "SETUSER", "budgets", *acl.rules("ledger", "acme", "secret"))
            load_functions(own_valkey.url)
            user = admin.acl_getuser("budgets")
            assert not acl.exceeds_ledger(user, "acme")
            assert acl.exceeds_ledger(user, "other")
            async with budgeted(own_valkey.url.replace("unix://", "unix://budgets:secret@"), "acme") as service:
                assert [await service.code(service.call()) for _ in range(4)] == ["ok"] * 3 + ["budget_exhausted"]
                assert service.ledger.keeps_calls_of(service.nonces)

    asyncio.run(work())


@pytest.mark.spec("17.5")
def test_a_call_is_drawn_once_while_the_ledger_begins(run: Any, valkey: EmbeddedValkey) -> None:
    """The answer is the ledger's beginning, and the call is spent: it is then drawn for, and not taken for a replay."""

    async def work() -> None:
        async with budgeted(valkey.url) as service:
            service.ledger._buckets[""].remembered = ""
            assert await service.code(service.call()) == "ok"
            assert [await service.code(service.call()) for _ in range(3)] == ["ok", "ok", "budget_exhausted"]

    run(work())


@pytest.mark.nightly
@pytest.mark.spec("10.4")
@pytest.mark.parametrize("kind", LOOPS)
def test_a_hundred_kills_while_a_thousand_decisions_wait(
    store: RevocationStore,
    link: Proxy,
    own_valkey: EmbeddedValkey,
    realm_name: str,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """The store of used calls is slow, so that all wait; none is accepted after its kill and a lease, all are answered.

    Half of the tasks are killed while their calls wait; at the end the network is cut.
    """
    monkeypatch.setattr(loop_link, "LATEST_S", PATIENT_S)
    letters = [f"{number:016d}".translate(str.maketrans("0123456789", "abcdefghij")) for number in range(200)]
    tasks = [f"t-{name}" for name in letters]

    async def work() -> None:
        header = store.header()
        follower = Follower(own_valkey.url, realm_name, "v-loop")
        await asyncio.to_thread(follower.start)
        await asyncio.to_thread(follower.catch_up, 0, header.seq, 10)
        try:
            async with calls(link.url, epochs=follower) as service:
                with redis.Redis.from_url(own_valkey.url) as admin:
                    until(lambda: admin.info("server")["uptime_in_seconds"] > 2)
                # The connection is opened before the network is slow.
                assert await run_async(steps_of(service.nonces.spend, b"first", now_ms() + 1000, now_ms()))
                link.from_store.delay_s = 1.0
                accepted: list[tuple[str, int]] = []
                codes: list[str] = []

                async def decide(task: str) -> None:
                    now = now_ms()
                    about = {"task": task, "born": (header.incarnation, header.seq)}
                    token = sign(mint(ANYTHING, iat=now - 1000, exp=now + 600_000, **about), access(at=now))
                    code = (await service.verifier.decide_async(token, access(at=now))).code
                    codes.append(code)
                    if code == "ok":
                        accepted.append((task, boot_clock()))

                waiting = [asyncio.ensure_future(decide(task)) for task in tasks for _ in range(5)]
                await asyncio.sleep(0.02)
                killed: dict[str, int] = {}

                def kill(task: str) -> None:
                    store.kill([f"task:{task}"], "test", BY)
                    killed[task] = boot_clock()

                await asyncio.gather(*[asyncio.to_thread(kill, task) for task in tasks[:100]])
                await asyncio.gather(*waiting)
                assert len(codes) == 1000
                late = [task for task, at in accepted if task in killed and at > killed[task] + L_NS]
                assert late == []
                assert codes.count("revoked") > 0
                # From here on no call of a killed task is accepted; those of others are.
                link.from_store.delay_s = 0.0
                await asyncio.sleep(L_NS / 1e9)
                codes.clear()
                await asyncio.gather(*[decide(task) for task in tasks])
                assert codes.count("ok") == 100
                assert codes.count("revoked") == 100
                codes.clear()
                waiting = [asyncio.ensure_future(decide(task)) for task in tasks[100:]]
                await asyncio.sleep(0)
                link.cut()
                await asyncio.gather(*waiting)
                assert len(codes) == 100
                assert set(codes) <= {"ok", "store_unavailable"}
                link.heal()
                codes.clear()
                await decide(tasks[-1])
                assert codes == ["ok"]
        finally:
            await asyncio.to_thread(follower.close)

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(work())


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOOPS)
def test_a_store_that_stops_and_restarts_under_load(tmp_path: Path, kind: str) -> None:
    """It is stopped, paused, killed and started while calls go on: each is accepted once at most."""

    async def work() -> None:
        server = EmbeddedValkey(tmp_path / "v")
        server.start()
        ends = asyncio.Event()
        used: Counter[str] = Counter()
        codes: Counter[str] = Counter()

        async def load(service: Calls) -> None:
            while not ends.is_set():
                service.request = access(at=now_ms())
                request, token = service.request, service.call()
                for _ in range(2):  # the second one is a replay
                    code = (await service.verifier.decide_async(token, request)).code
                    codes[code] += 1
                    used[token] += code == "ok"

        try:
            with redis.Redis.from_url(server.url) as admin:
                until(lambda: admin.info("server")["uptime_in_seconds"] > 1)
            async with calls(server.url, timeout_s=0.5) as service:
                tasks = [asyncio.ensure_future(load(service)) for _ in range(50)]
                for fault in ("pause", "restart", "kill", "pause"):
                    await _more(codes, "ok", tasks)
                    pid = int((await asyncio.to_thread(_info, server.url))["process_id"])
                    if fault == "pause":
                        os.kill(pid, signal.SIGSTOP)
                        await _more(codes, "store_unavailable", tasks)
                        os.kill(pid, signal.SIGCONT)
                        continue
                    if fault == "kill":
                        os.kill(pid, signal.SIGKILL)
                    await asyncio.to_thread(server.stop)
                    await _more(codes, "store_unavailable", tasks)
                    await asyncio.to_thread(server.start)
                await _more(codes, "ok", tasks)
                ends.set()
                await asyncio.gather(*tasks)
            assert max(used.values()) == 1
            assert codes.keys() <= {"ok", "replayed", "store_unavailable", "proof_invalid"}
        finally:
            await asyncio.to_thread(server.stop)

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(work())


async def _more(codes: Counter[str], code: str, tasks: list[asyncio.Future[None]]) -> None:
    """Wait until there are more of a code, while the load goes on."""
    wanted = codes[code] + 100
    async with asyncio.timeout(60):
        while codes[code] < wanted:
            assert not any(task.done() for task in tasks)
            await asyncio.sleep(0.01)


def _info(url: str) -> dict[str, Any]:
    with redis.Redis.from_url(url) as admin:
        return dict(admin.info("server"))
