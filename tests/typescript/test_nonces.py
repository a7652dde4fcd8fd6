# SPDX-License-Identifier: Apache-2.0
"""Used calls that processes of Node and Python share in one server.  SPEC 8.3."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.clock import now_ms
from arx_verifier.constraints.rule import Rule
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.nonces import RedisNonces
from arx_verifier.verification.verifier import Verifier
from tests.servers import child, freeze, nonce_store, until
from tests.typescript.node import PROGRAMS, node

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.spec("8.3")]

PREFIX = "arx:nonce:test:orders:"
APART_MS = 60_000  # between two clocks
Ask = Callable[[str], str]


def command_of(realm: UnsafeTestRealm, url: str, prefix: str) -> list[str]:
    """Return the command line of a process that decides each line."""
    key, incarnation = realm._key.hex(), realm.epochs.view()[0]
    return [str(node()), str(PROGRAMS / "nonces_process.ts"), url, prefix, key, incarnation]


def decide_once(realm: UnsafeTestRealm, url: str, token: str) -> tuple[str, str]:
    """Return what a process decides that ends after it, and what it warns of."""
    asked = json.dumps({"token": token, "tool": "orders.get", "args": {"order_id": "o-1"}})
    command = command_of(realm, url, PREFIX)
    done = subprocess.run(command, input=f"{asked}\n", capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip(), done.stderr


@contextlib.contextmanager
def node_verifier(realm: UnsafeTestRealm, url: str, prefix: str) -> Iterator[Ask]:
    """Start a process of Node; what it returns decides the call of a token."""
    with child(command_of(realm, url, prefix), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(token: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"token": token, "tool": "orders.get", "args": {"order_id": "o-1"}}) + "\n")
            process.stdin.flush()
            return str(process.stdout.readline()).strip()

        yield ask


@contextlib.contextmanager
def python_verifier(realm: UnsafeTestRealm, url: str, prefix: str) -> Iterator[Ask]:
    """Return what decides the call of a token in this process."""
    keys = realm.verifier.keys
    nonces = RedisNonces(url, prefix)
    verifier = Verifier(audience="orders", keys=keys, epochs=realm.epochs, decisions=realm.decisions, nonces=nonces)
    try:
        yield (
            lambda token: (
                verifier.decide(token, AccessRequest(tool="orders.get", args={"order_id": "o-1"}, at=now_ms())).code
            )
        )
    finally:
        nonces.close()


@pytest.fixture
def realm() -> UnsafeTestRealm:
    return UnsafeTestRealm("orders")


def token_of(caller: UnsafeCaller) -> str:
    return caller.token("orders.get", order_id="o-1")


def test_a_call_is_accepted_by_one_process(
    valkey: EmbeddedValkey, realm_store: RevocationStore, realm: UnsafeTestRealm, realm_name: str
) -> None:
    """What one of two Node processes and one of Python accepted is used at the others: a call, and an approval."""
    prefix = f"arx:nonce:{realm_name}:orders:"
    caller = realm.caller(Rule(tool="orders.get"))
    with (
        node_verifier(realm, valkey.url, prefix) as first,
        node_verifier(realm, valkey.url, prefix) as second,
        python_verifier(realm, valkey.url, prefix) as third,
    ):
        for order in ((first, second, third), (second, third, first), (third, first, second)):
            token = token_of(caller)
            assert [ask(token) for ask in order] == ["ok", "replayed", "replayed"]
            approved = caller.macaroon.attenuate(Caveat(once=(f"a{order.index(first)}", now_ms())))
            codes = [ask(token_of(UnsafeCaller(approved, "orders"))) for ask in order]
            assert codes == ["ok", "already_used", "already_used"]
    with redis.Redis.from_url(valkey.url) as raw:
        kept = [raw.pttl(key) for key in raw.keys(f"{prefix}*")]
    assert len(kept) == 15  # twelve calls, three approvals
    assert min(kept) > APART_MS  # a process whose clock is behind accepts a call for longer


def test_without_the_server_each_call_is_refused_and_after_it_old_ones(tmp_path: Path, realm: UnsafeTestRealm) -> None:
    """A Node process connects again by itself; a call from before the server's start is not accepted."""
    caller = realm.caller(Rule(tool="orders.get"))
    with nonce_store(tmp_path) as server, node_verifier(realm, server.url, PREFIX) as ask:
        assert ask(token_of(caller)) == "ok"
        server.stop()
        old = token_of(caller)
        assert ask(old) == "store_unavailable"
        server.start()
        assert ask(old) == "proof_invalid"
        until(lambda: ask(token_of(caller)) == "ok")


def test_a_server_that_does_not_answer_refuses_each_call(tmp_path: Path, realm: UnsafeTestRealm) -> None:
    """It keeps its connections and stands still; once it goes on, calls are accepted again."""
    caller = realm.caller(Rule(tool="orders.get"))
    with nonce_store(tmp_path) as server, node_verifier(realm, server.url, PREFIX) as ask:
        with redis.Redis.from_url(server.url) as raw:
            pid = raw.info("server")["process_id"]
        assert ask(token_of(caller)) == "ok"
        freeze(pid)
        try:
            assert [ask(token_of(caller)) for _ in range(2)] == ["store_unavailable"] * 2
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: ask(token_of(caller)) == "ok")


def test_approvals_leave_room_for_calls(tmp_path: Path, realm: UnsafeTestRealm) -> None:
    """A holder can make names that are kept for a day: they have half of the server's memory."""
    caller = realm.caller(Rule(tool="orders.get"))
    with (
        nonce_store(tmp_path) as server,
        redis.Redis.from_url(server.url) as raw,
        node_verifier(realm, server.url, PREFIX) as ask,
    ):
        used = raw.info("memory")["used_memory"]
        for most, code in ((4 * used, "ok"), (used * 3 // 2, "store_unavailable")):
            raw.config_set("maxmemory", most)
            approved = caller.macaroon.attenuate(Caveat(once=(f"a{most}", now_ms())))
            assert ask(token_of(UnsafeCaller(approved, "orders"))) == code
        assert ask(token_of(caller)) == "ok"


def test_a_login_without_functions_and_facts_is_enough(tmp_path: Path, realm: UnsafeTestRealm) -> None:
    """Then the server counts as started now: a call from before is refused.  Another password is named as the cause."""
    caller = realm.caller(Rule(tool="orders.get"))
    with nonce_store(tmp_path) as server, redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "nonces", "on", ">right", "~arx:nonce:*", "+set", "+ping")
        at = server.url.removeprefix("unix://")
        with node_verifier(realm, f"unix://nonces:right@{at}", PREFIX) as ask:
            assert ask(token_of(caller)) == "proof_invalid"
            token = token_of(caller)
            assert [ask(token), ask(token)] == ["ok", "replayed"]
        answer, warned = decide_once(realm, f"unix://nonces:wrong@{at}", token_of(caller))
    assert answer == "store_unavailable"
    assert "refused the user or password: set ARX_NONCES_PASSWORD" in warned
    assert "wrong" not in warned


def test_a_server_that_may_forget_accepts_no_call(tmp_path: Path, realm: UnsafeTestRealm) -> None:
    """One that evicts keys is refused, and the cause is named."""
    caller = realm.caller(Rule(tool="orders.get"))
    with nonce_store(tmp_path) as server, redis.Redis.from_url(server.url) as raw:
        raw.config_set("maxmemory-policy", "allkeys-lru")
        answer, warned = decide_once(realm, server.url, token_of(caller))
        assert (answer, "set its maxmemory-policy to noeviction" in warned) == ("store_unavailable", True)
        with node_verifier(realm, server.url, PREFIX) as ask:
            assert ask(token_of(caller)) == "store_unavailable"
            raw.config_set("maxmemory-policy", "noeviction")
            assert ask(token_of(caller)) == "ok"
