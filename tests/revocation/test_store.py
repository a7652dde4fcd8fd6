# SPDX-License-Identifier: Apache-2.0
"""The operator's side of the store: outcomes known or reported as unknown, and no secret shown."""

import os
import signal
import threading
from pathlib import Path

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation import store as store_module
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import StoreHistoryError
from arx_verifier.errors import RequestError, SettingsError, StoreError
from arx_verifier.memory.taints import TaintWindow, read_window
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.history import UNKNOWN, HistoryPlace
from tests.servers import until

pytestmark = pytest.mark.servers

SESSION, TASK = "session:s-" + "a" * 16, "task:t-" + "b" * 16
BY = "operator:ada"


def test_a_kill_is_on_disk_before_it_is_reported(realm_store: RevocationStore) -> None:
    """The answer to WAITAOF is read, not only waited for."""
    bump = realm_store.kill([SESSION, TASK], "test", BY)
    assert bump.durable
    assert bump.targets == (SESSION, TASK)
    assert bump.header.seq == 2


@pytest.mark.spec("10.3")
def test_a_store_without_a_file_is_not_durable(own_valkey: EmbeddedValkey, realm_name: str) -> None:
    """The kill is in force, and the report says first that a crash could undo it."""
    with RevocationStore(own_valkey.url, realm_name) as store, redis.Redis.from_url(own_valkey.url) as raw:
        store.load_functions()
        store.init()
        raw.config_set("appendonly", "no")
        bump = store.kill([SESSION], "test", BY)
        assert not bump.durable
        assert store.kills() == {SESSION: 1}
        assert store.wait_confirmed(bump).summary.startswith("unconfirmed: NOT DURABLE")


@pytest.mark.spec("10.3")
def test_missing_replicas_are_not_durable(valkey: EmbeddedValkey, realm_store: RevocationStore) -> None:
    """A time-out of WAITAOF is an answer with smaller numbers, not a success."""
    with RevocationStore(valkey.url, realm_store.realm, replicas=1, timeout_ms=50) as store:
        assert not store.kill([SESSION], "test", BY).durable


@pytest.mark.spec("10.1")
def test_kills_by_kind(realm_store: RevocationStore) -> None:
    """A session is killed, an agent killed and frozen, a key frozen; one report names them all."""
    bump = realm_store.kill_by_kind([SESSION, "agent:acme", TASK, "key:k1.0"], "test", BY)
    assert set(bump.targets) == {SESSION, TASK, "agent:acme", "key:k1.0"}
    assert bump.header.seq == 6
    assert set(realm_store.kills()) == {SESSION, TASK, "agent:acme"}
    # What a killed session or task wrote is tainted (SPEC 18.4); its ordinary end is a kill alone.
    taints = {str(TaintWindow(target)) for target in (SESSION, TASK)}
    assert set(realm_store.freezes()) == {"agent:acme", "key:k1.0"} | taints
    realm_store.kill(["session:s-bbbbbbbbbbbbbbbb"], "session ended", BY)
    assert set(realm_store.freezes()) == {"agent:acme", "key:k1.0"} | taints


@pytest.mark.spec("10.2")
def test_freezes_stand_until_thawed(realm_store: RevocationStore) -> None:
    """Freeze, kill and freeze, thaw: a thaw takes the freeze and leaves the kill."""
    realm_store.freeze([SESSION], "freeze", BY)
    realm_store.kill_and_freeze(["agent:acme"], "off", BY)
    assert realm_store.freezes() == {SESSION: 1, "agent:acme": 2}
    thawed = realm_store.thaw([SESSION, "agent:acme"], "on", BY, unkilled=[SESSION])
    (taint,) = map(read_window, realm_store.freezes())
    assert taint is not None
    assert taint[:2] == ("agent:acme", 0)
    assert taint.until is not None
    assert 0 <= thawed.header.at_ms - taint.until < 30_000
    assert realm_store.kills() == {"agent:acme": 2}


def test_a_mistyped_target_never_reaches_the_store(realm_store: RevocationStore) -> None:
    """Refused before anything is sent, and nothing is written for the others either."""
    with pytest.raises(RequestError):
        realm_store.kill([SESSION, "session:oops"], "test", BY)
    assert realm_store.header().seq == 0


@pytest.mark.spec("10.9")
def test_another_history_is_refused_until_it_is_known(valkey: EmbeddedValkey, realm_store: RevocationStore) -> None:
    """Another client rotated: the next kill reports that, and works once the caller has looked."""
    realm_store.kill([SESSION], "test", BY)
    with RevocationStore(valkey.url, realm_store.realm) as other:
        rotated = other.rotate()
    with pytest.raises(StoreHistoryError) as caught:
        realm_store.kill([SESSION], "test", BY)
    assert caught.value.kind == "INCARNATION"
    realm_store.remember(rotated.header.place)
    assert realm_store.kill([SESSION], "test", BY).header.seq == rotated.header.seq + 1


@pytest.mark.spec("10.9")
def test_a_store_that_went_back_is_refused(realm_store: RevocationStore) -> None:
    """What a mint remembers from before a crash is held against the store; a rotation goes on from there."""
    header = realm_store.header()
    realm_store.remember(HistoryPlace(header.incarnation, 20, UNKNOWN))
    with pytest.raises(StoreHistoryError) as caught:
        realm_store.kill([SESSION], "test", BY)
    assert caught.value.kind == "REGRESSED"
    rotated = realm_store.rotate(seq_at_least=25)
    assert rotated.durable
    assert rotated.header.seq == 25
    assert rotated.header.incarnation != header.incarnation


def test_a_lowered_lease_is_waited_for_in_full(realm_store: RevocationStore) -> None:
    """Verifiers may hold the old, longer lease for as long as it lasts."""
    assert realm_store.rotate(lease_ms=200).header.lease_ms == 1_000
    assert realm_store.header().lease_ms == 1_000


def test_a_realm_without_a_history_is_reported(valkey: EmbeddedValkey, realm_name: str) -> None:
    """NOINIT is not a store that does not answer."""
    with RevocationStore(valkey.url, realm_name) as store, pytest.raises(StoreHistoryError) as caught:
        store.kill([SESSION], "test", BY)
    assert caught.value.kind == "NOINIT"


def test_functions_that_are_not_loaded_are_named(own_valkey: EmbeddedValkey, realm_name: str) -> None:
    """A fresh store says what it lacks."""
    with RevocationStore(own_valkey.url, realm_name) as store, pytest.raises(StoreError, match="not loaded"):
        store.init()


def test_a_lost_outcome_is_asked_for_until_it_is_known(
    own_valkey: EmbeddedValkey, realm_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store freezes with the kill on its way: the call is repeated, and its outcome is the store's."""
    with RevocationStore(own_valkey.url, realm_name, timeout_ms=100) as store:
        store.load_functions()
        store.init()
        pid, tries, retried = own_valkey.server_pid, [0], threading.Event()
        written = store._written

        def counted(*arguments: object) -> object:
            tries[0] += 1
            if tries[0] == 2:
                retried.set()
            return written(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "_written", counted)
        os.kill(pid, signal.SIGSTOP)
        thaw = threading.Thread(target=lambda: (retried.wait(60), os.kill(pid, signal.SIGCONT)))
        thaw.start()
        bump = store.kill([SESSION], "test", BY)
        thaw.join()
        assert tries[0] >= 2
        assert bump.durable
        assert bump.header.seq == store.header().seq >= 1


def test_an_outcome_that_stays_unknown_is_an_error(
    own_valkey: EmbeddedValkey, realm_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the patience is over the outcome is reported as unknown; the address is not shown."""
    monkeypatch.setattr(store_module, "OUTCOME_S", 0.1)
    with RevocationStore(own_valkey.url, realm_name) as store:
        store.load_functions()
        store.init()
        own_valkey.stop()
        with pytest.raises(StoreError, match="unknown"):
            store.kill([SESSION], "test", BY)
        with pytest.raises(StoreError, match="did not answer") as caught:
            store.kills()
        assert str(own_valkey.data_dir) not in str(caught.value)


def test_no_password_is_shown(own_valkey: EmbeddedValkey) -> None:
    """Neither the name nor the refusal of a store shows the password."""
    with redis.Redis.from_url(own_valkey.url) as raw:
        raw.config_set("requirepass", "hunter2")
    with RevocationStore(own_valkey.url, "acme", password="hunter1") as store:
        assert "hunter" not in repr(store)
        with pytest.raises(StoreError, match="refused the user or password") as caught:
            store.header()
        assert "hunter" not in str(caught.value)
    with pytest.raises(SettingsError) as wrong:
        RevocationStore("redis://:hunter/2@x", "acme")
    assert "hunter" not in str(wrong.value)
    with pytest.raises(SettingsError):
        RevocationStore(own_valkey.url, "No Realm")


def test_verifiers_are_listed(realm_store: RevocationStore, valkey: EmbeddedValkey) -> None:
    """Name, age and what they have applied; who has left is not listed."""
    follower = Follower(valkey.url, realm_store.realm, "orders-1")
    assert follower.catch_up(0, 0, 10)
    (seen,) = realm_store.verifiers()
    assert seen.id == "orders-1"
    assert seen.applied == 0
    assert 0 <= seen.age_ms < 10_000
    follower.close()
    until(lambda: realm_store.verifiers() == ())


def test_the_functions_are_part_of_the_package() -> None:
    """They are read from beside the module, wherever it is installed."""
    assert Path(store_module.__file__).with_name("functions.lua").exists()
