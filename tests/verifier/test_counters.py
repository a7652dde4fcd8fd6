# SPDX-License-Identifier: Apache-2.0
"""Nonce stores: spent once means spent, and when in doubt the answer is no."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from arx_verifier.errors import SettingsError, StoreError
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.nonces import APART_MS, MemoryNonces, RedisNonces
from arx_verifier.verification.verifier import Verifier
from tests.servers import run_together, until

pytestmark = pytest.mark.spec("8.3")

T0 = 1_700_000_000_000


def test_a_nonce_is_new_once() -> None:
    """The second use is refused while the first may still be repeated, and other keys are not touched."""
    store = MemoryNonces(now_ms=T0)
    assert store.spend("a", T0 + 15_000, T0)
    assert not store.spend("a", T0 + 15_000, T0)
    assert not store.spend("a", T0 + 99_000, T0 + 15_000)
    assert store.spend(b"b", T0 + 15_000, T0)
    assert store.not_before_ms == T0


def test_what_has_expired_is_forgotten_and_stays_refused() -> None:
    """Memory is given back after the last second of a nonce; a clock set back does not bring the nonce back to life."""
    store = MemoryNonces(now_ms=T0)
    assert store.spend("a", T0 + 1_000, T0)
    assert store.spend("b", T0 + 60_000, T0 + 30_000)
    assert len(store) == 1
    assert not store.spend("a", T0 + 1_000, T0)


def test_a_full_store_refuses_instead_of_forgetting() -> None:
    """No live nonce makes room for another: the new call is refused, the old one still counts as spent."""
    store = MemoryNonces(now_ms=T0, capacity=2)
    assert store.spend("a", T0 + 15_000, T0)
    assert store.spend("b", T0 + 15_000, T0)
    assert store.spend("c", T0 + 15_000, T0) is None
    assert store.spend("a", T0 + 15_000, T0) is False
    assert store.spend("c", T0 - 1, T0) is False  # what would be forgotten already is no question of room
    assert store.spend("c", T0 + 40_000, T0 + 20_000)


def test_of_many_threads_one_spends() -> None:
    """A nonce presented by eight threads at once is new to exactly one of them."""
    store, wins = MemoryNonces(now_ms=T0), []
    barrier = threading.Barrier(8)

    def race() -> None:
        barrier.wait()
        wins.extend(i for i in range(500) if store.spend(f"n{i}", T0 + 15_000, T0 + i))

    run_together(*[race] * 8)
    assert sorted(wins) == list(range(500))


def test_a_forked_child_refuses() -> None:
    """A child cannot know what its parent and siblings spent, so it reports that instead of guessing."""
    store = MemoryNonces(now_ms=T0)
    child = os.fork()
    if child == 0:
        try:
            store.spend("a", T0 + 15_000, T0)
        except StoreError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert store.spend("a", T0 + 15_000, T0)


def test_an_address_of_another_kind_is_refused_at_start() -> None:
    """A mistyped address is a settings error that does not repeat the address, which may hold a password."""
    with pytest.raises(SettingsError) as caught:
        RedisNonces("http://user:secret@localhost", "n:")
    assert "secret" not in str(caught.value)


def test_a_missing_store_refuses() -> None:
    """Without its server the store refuses at once, and says nothing of its address."""
    store = RedisNonces("redis://user:secret@127.0.0.1:1/0", "n:")
    with pytest.raises(StoreError, match="did not answer") as caught:
        store.spend("a", T0, T0)
    assert "secret" not in str(caught.value)
    store.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    embedded = pytest.importorskip("arx_caps.embedded")
    with embedded.EmbeddedValkey(Path(tmp_path_factory.mktemp("nonces"))) as valkey:
        yield valkey.url


@pytest.mark.servers
def test_a_closed_verifier_leaves_no_connection(server: str) -> None:
    """Its store of used calls is closed with it; another verifier that shares the store opens a new connection."""
    shared = RedisNonces(server, "close:")
    keys, epochs = KeyRing({"k1.0": bytes(32)}, realm="acme"), UnsafeLocalEpochs()
    verifier = Verifier(audience="orders", keys=keys, epochs=epochs, decisions=InMemoryDecisions(), nonces=shared)
    assert shared.spend("a", T0 + 15_000, T0)
    with Redis.from_url(server) as admin:
        before = len(admin.client_list())
        verifier.close()
        until(lambda: len(admin.client_list()) == before - 1)
    assert shared.spend("a", T0 + 15_000, T0) is False
    shared.close()


@pytest.mark.servers
def test_workers_share_their_nonces(server: str) -> None:
    """What one worker spent is spent for all, and is forgotten by the server after its time."""
    one, two = RedisNonces(server, "share:"), RedisNonces(server, "share:")
    now = time.time_ns() // 1_000_000
    assert one.spend("a", now + 15_000, now)
    assert not two.spend("a", now + 15_000, now)
    assert two.spend(b"b", now + 15_000, now)
    assert one.waits
    assert one.not_before(b"") <= time.time_ns() // 1_000_000
    assert one._client.redis.pttl("share:a") <= 15_000 + APART_MS
    one.close()
    two.close()


@pytest.mark.servers
def test_a_server_that_may_evict_is_refused(server: str) -> None:
    """As long as the server could forget a live nonce the store refuses; set right, it works without a restart."""
    admin = RedisNonces(server, "evict:")
    admin.spend("x", T0 + 1, T0)
    admin._client.redis.config_set("maxmemory-policy", "allkeys-lru")
    store = RedisNonces(server, "evict:")
    for _ in range(2):
        with pytest.raises(StoreError, match="noeviction"):
            store.spend("a", T0 + 15_000, T0)
    admin._client.redis.config_set("maxmemory-policy", "noeviction")
    assert store.spend("a", T0 + 15_000, T0)
    store.close()
    admin.close()


@pytest.mark.servers
def test_a_restarted_server_accepts_nothing_older(tmp_path: Path) -> None:
    """After a restart, what was issued before it is to be refused: the nonces may be gone."""
    embedded = pytest.importorskip("arx_caps.embedded")
    valkey = embedded.EmbeddedValkey(tmp_path / "v")
    store = RedisNonces(valkey.start(), "r:")
    try:
        assert store.spend("a", T0 + 15_000, T0)
        valkey.stop()
        with pytest.raises(StoreError):
            store.spend("b", T0 + 15_000, T0)
        stopped = time.time_ns() // 1_000_000
        valkey.start()
        assert store.spend("c", T0 + 15_000, T0)
        assert store.not_before(b"") >= stopped
    finally:
        store.close()
        valkey.stop()
