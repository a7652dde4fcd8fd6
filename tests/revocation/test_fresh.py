# SPDX-License-Identifier: Apache-2.0
"""``fresh``: from a line of the policy to a kill that no later request gets past, at the cost of a shared probe."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest
import redis

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.follower import Follower
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.wire import bytes_of
from arx_verifier.verification.verifier import Verifier
from tests.mint.harness import Harness, now_ms
from tests.mint.test_policy import SAMPLE
from tests.servers import freeze, until

SWITCH = 'fresh = "0ms"'
FRESH = SAMPLE.read_text("utf-8").replace(f"# {SWITCH}", SWITCH)  # ask the store before money moves
assert f"\n{SWITCH}" in FRESH
pytestmark = [
    pytest.mark.servers,
    pytest.mark.spec("6.1"),
    pytest.mark.sqlite,
    pytest.mark.realm(own_store=True, policy=FRESH),
]

TOOL, ARGS = "payments.refund", {"order_id": "o-1", "amount": 5}
REFUND = {"template": "refund", "params": {"order_id": "o-1", "amount": 5}}


@pytest.fixture
def payments(live: Harness, own_valkey: EmbeddedValkey) -> Iterator[Verifier]:
    """The service's verifier, with what the mint gives it."""
    file = live.service_file("payments")
    keys = {kid: bytes_of(key) for kid, key in file["keys"].items()}
    follower = Follower(own_valkey.url, file["realm"], "payments-1")
    ring = KeyRing(keys, realm=file["realm"], max_ttl_ms=file["max_ttl_ms"])
    verifier = Verifier(audience="payments", keys=ring, epochs=follower, decisions=InMemoryDecisions())
    verifier.start()
    assert follower.catch_up(0, 0, 10)
    yield verifier
    verifier.close()


def start_refund(harness: Harness) -> tuple[Bundle, str]:
    """Start a task that moves money; returns its bundle and its session's id."""
    holder, session = harness.session()
    answer = holder.call("POST", "/v1/tasks", REFUND)
    assert answer.status_code == 201, answer.text
    return Bundle.parse(answer.json()["bundle"]), session["id"]


def ask() -> AccessRequest:
    return AccessRequest(TOOL, ARGS, now_ms())


def probes(server: EmbeddedValkey) -> int:
    with redis.Redis.from_url(server.url) as raw:
        return int(raw.info("commandstats")["cmdstat_fcall"]["calls"])


def test_a_policy_line_closes_the_window(live: Harness, payments: Verifier) -> None:
    """
    The token carries it, each decision rests on a probe sent after the request came, and what was acknowledged before
    the request is never missed, however short before.
    """
    bundle, session = start_refund(live)
    task, follower = Task(bundle), payments.epochs
    assert any(b'"fresh":0' in packet for packet in bundle.tokens["payments"].packets if isinstance(packet, bytes))
    assert isinstance(follower, Follower)

    def decide() -> str:
        token, came = task.call_token("payments", TOOL, ARGS), follower.boot_ns()
        code = payments.decide(token, ask()).code
        lease = follower._state.lease
        assert lease is not None
        assert lease.sent >= came or code != "ok"
        return code

    with RevocationStore(live.mint.store_url, live.realm.name) as store:
        for _ in range(20):
            assert decide() == "ok"
            store.freeze([f"session:{session}"], "test", "operator:ada")
            assert decide() == "frozen"
            thawed = store.thaw([f"session:{session}"], "test", "operator:ada")
            assert follower.catch_up(0, thawed.header.seq, 10)  # a refusal is never waited for: a thaw may come late
        assert decide() == "ok"
        store.kill([f"task:{bundle.task}"], "test", "operator:ada")
        assert decide() == "revoked"


def test_many_that_wait_share_a_probe(live: Harness, payments: Verifier, own_valkey: EmbeddedValkey) -> None:
    """Two hundred requests at once in one event loop: all allowed, after a few probes, without a thread each."""
    task = Task(start_refund(live)[0])
    tokens = [task.call_token("payments", TOOL, ARGS) for _ in range(200)]

    async def main() -> list[str]:
        threads = threading.active_count()
        decisions = await asyncio.gather(*(payments.decide_async(token, ask()) for token in tokens))
        assert threading.active_count() == threads
        return [decision.code for decision in decisions]

    before = probes(own_valkey)
    assert set(asyncio.run(main())) == {"ok"}
    asked = probes(own_valkey) - before
    print(f"{len(tokens)} requests cost {asked} probes of all verifiers")
    assert asked < len(tokens) / 4


def test_waiting_does_not_hold_the_loop(live: Harness, payments: Verifier, own_valkey: EmbeddedValkey) -> None:
    """The store is frozen: requests wait for a probe in vain and are refused, while the loop serves others."""
    task = Task(start_refund(live)[0])
    tokens = [task.call_token("payments", TOOL, ARGS) for _ in range(50)]
    gaps: list[float] = []

    async def beat() -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(0.005)
            gaps.append(loop.time() - began)

    async def main() -> list[str]:
        beating = asyncio.create_task(beat())
        decisions = await asyncio.gather(*(payments.decide_async(token, ask()) for token in tokens))
        beating.cancel()
        return [decision.code for decision in decisions]

    pid = own_valkey.server_pid
    freeze(pid)
    try:
        assert set(asyncio.run(main())) == {"stale"}
    finally:
        os.kill(pid, signal.SIGCONT)
    print(f"{len(gaps)} beats while waiting, the longest gap {max(gaps) * 1000:.0f} ms")
    assert len(gaps) > 20, "held once for the whole wait, there would be one"
    until(lambda: payments.decide(task.call_token("payments", TOOL, ARGS), ask()).code == "ok")
