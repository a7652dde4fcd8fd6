# SPDX-License-Identifier: Apache-2.0
"""The store's server breaks: frozen, killed, emptied, cut, full.  Nothing is accepted after L; service comes back."""

import os
import secrets
import shutil
import signal
import time

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.failover import Topology, attest
from arx_caps.revocation.store import RevocationStore
from arx_verifier.revocation.epoch import boot_clock
from arx_verifier.revocation.store_link import MAX_ANSWER
from tests.faults.conftest import BY, L_NS, Watch, bounded, kill, print_figure, token
from tests.servers import FAST_LEASE_MS, freeze, until

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.6")]


@pytest.mark.slow
def test_a_frozen_server(own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch) -> None:
    """SIGSTOP: three processes accept for L at most, then say stale; SIGCONT: they accept again, and a kill arrives."""
    witnesses = [start(own_valkey.url, f"tool-{number}") for number in range(3)]
    pid = own_valkey.server_pid
    stopped = freeze(pid)
    for witness in witnesses:
        witness.until("stale")
    os.kill(pid, signal.SIGCONT)
    for witness in witnesses:
        runs = witness.runs()
        assert [run.code for run in runs[:2]] == ["ok", "stale"]
        assert (runs[0].last - stopped) / 1e6 < FAST_LEASE_MS
        print_figure((runs[0].last - stopped) / 1e6)
        witness.until("ok")
    killed = kill(store)
    for witness in witnesses:
        witness.until("revoked")
        bounded(witness, killed)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["pause", "script"])
def test_another_holds_the_server(own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch, who: str) -> None:
    """CLIENT PAUSE, or a slow script: an instance that is shared stands still for all: leases end, and come back."""
    witness = start(own_valkey.url)
    with redis.Redis.from_url(own_valkey.url, socket_timeout=60) as raw:
        if who == "pause":
            raw.client_pause(int(2.5 * FAST_LEASE_MS))
            stood = boot_clock()
        else:
            raw.eval("local t = os.clock() repeat until os.clock() - t > tonumber(ARGV[1])", 0, 2.5 * L_NS / 1e9)
            stood = boot_clock() - int(2.5 * L_NS)  # on a busy machine it began later than it was sent
        until(lambda: len(witness.runs()) > 1)
        runs = witness.runs()
        assert [run.code for run in runs[:2]] == ["ok", "stale"]
        assert runs[0].last - stood < L_NS
    witness.until("ok")
    killed = kill(store)
    witness.until("revoked")
    bounded(witness, killed)


def kill_server(server: EmbeddedValkey) -> int:
    """kill -9; returns when it was dead, boot clock, ns."""
    os.kill(server.server_pid, signal.SIGKILL)
    until(lambda: not server.running)
    return boot_clock()


def test_a_killed_server_with_its_file(own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch) -> None:
    """kill -9 while a kill is acknowledged: the new process has it, and no verifier accepts it any more."""
    witness = start(own_valkey.url)
    witness.watch(token=token(store), other=token(store, "s-bbbbbbbbbbbbbbbb"))
    witness.until("ok", "other")
    killed = kill(store)
    dead = kill_server(own_valkey)
    witness.until("stale", "other")
    assert (witness.last_accepted("other") - dead) / 1e6 < FAST_LEASE_MS
    own_valkey.stop()
    own_valkey.start()
    assert attest(store, Topology())[1] is None
    witness.until("ok", "other")
    assert witness.code() == "revoked"
    bounded(witness, killed)


@pytest.mark.slow
@pytest.mark.spec("10.11")
def test_a_killed_server_without_its_file(own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch) -> None:
    """The data are gone: refused until a new history begins; then its tokens are good and the old ones dead."""
    witness = start(own_valkey.url)
    dead = kill_server(own_valkey)
    own_valkey.stop()
    shutil.rmtree(own_valkey.data_dir / "appendonlydir")
    own_valkey.start()
    witness.until("stale")
    bounded(witness, dead)
    with RevocationStore(own_valkey.url, store.realm) as anew:
        anew.load_functions()
        anew.init(lease_ms=FAST_LEASE_MS)
        witness.until("revoked")
        witness.watch(token=token(anew))
        witness.until("ok")


@pytest.mark.spec("10.10")
def test_a_file_whose_tail_is_cut(own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch) -> None:
    """
    What a power cut leaves: the server starts without complaint, some kills short.  Only a memory notices: fenced, also
    once the lost numbers are used again.  After a rotation there is service.
    """
    witness = start(own_valkey.url)
    for number in range(8):
        kill(store, "s-" + "bcdefghi"[number] * 16)
    last = store.header()
    witness.watch(token=token(store))  # born where the verifier must have been
    witness.until("ok")
    dead = kill_server(own_valkey)
    own_valkey.stop()
    [tail] = (own_valkey.data_dir / "appendonlydir").glob("*.incr.aof")
    os.truncate(tail, tail.stat().st_size - 900)
    own_valkey.start()
    with RevocationStore(own_valkey.url, store.realm) as unaware:
        assert attest(unaware, Topology())[1] is None
        witness.until("fenced")
        bounded(witness, dead)
        assert unaware.header().seq < last.seq
        while unaware.header().seq <= last.seq:
            kill(unaware, "s-zzzzzzzzzzzzzzzz")
    time.sleep(FAST_LEASE_MS / 1000)
    assert witness.code() == "fenced", "a number that was used twice proves nothing"
    store.rotate(seq_at_least=last.seq)
    witness.until("revoked")
    witness.watch(token=token(store))
    witness.until("ok")


def test_killed_clients(own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch) -> None:
    """CLIENT KILL of every subscriber loses pushes in silence; the kill is in force within L all the same."""
    witness = start(own_valkey.url)
    with redis.Redis.from_url(own_valkey.url) as raw:
        for number in range(5):
            name = "s-" + "bcdef"[number] * 16
            witness.watch(token=token(store, name))
            witness.until("ok")
            raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            killed = kill(store, name)
            witness.until("revoked")
            bounded(witness, killed)
            assert {run.code for run in witness.runs()} <= {"ok", "revoked", "stale"}


@pytest.mark.slow
def test_a_slow_consumer(own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch) -> None:
    """
    A verifier stands still while more is published than the server keeps for it: it is disconnected, has missed
    thousands, and its first decision when it goes on is a refusal.  It catches up by itself.
    """
    witness = start(own_valkey.url)
    with redis.Redis.from_url(own_valkey.url) as raw:
        # Far below the default, and well above the largest answer to a probe, which is held to the same limit.
        raw.config_set("client-output-buffer-limit", "pubsub 512kb 256kb 5")
        stopped = witness.freeze()
        killed = kill(store)
        batch = 0
        while raw.client_list("pubsub"):
            store.kill([f"operator:o{batch}-{number}" for number in range(1000)], "test", BY)
            batch += 1
    until(lambda: boot_clock() - stopped > FAST_LEASE_MS * 1_000_000)
    thawed = boot_clock()
    witness.thaw()
    witness.until("revoked")
    bounded(witness, killed, bound_ns=thawed - killed)
    assert witness.last_accepted() <= stopped
    witness.watch(token=token(store))
    witness.until("ok")


def test_no_room_for_one_that_is_far_behind(own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch) -> None:
    """
    With a limit below its largest answer, a verifier that missed much is cut off each time: it refuses, for as long as
    that lasts.  With the room that ``arx doctor`` asks for it catches up by itself, however long the reasons are.
    """
    witness = start(own_valkey.url)
    with redis.Redis.from_url(own_valkey.url) as raw:
        raw.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
        witness.freeze()
        raw.client_kill_filter(_type="pubsub")
        killed = kill(store)
        store.kill([f"agent:{'a' * 60}{number:04}" for number in range(1000)], "\U0001f600" * 500, BY)
        witness.thaw()
        witness.until("stale")
        cut_off = "client_output_buffer_limit_disconnections"
        until(lambda: raw.info("stats")[cut_off] >= 3)
        assert witness.code() == "stale"
        bounded(witness, killed)
        raw.config_set("client-output-buffer-limit", f"pubsub {MAX_ANSWER} 0 0")
        witness.until("revoked")
        seen = raw.info("stats")[cut_off]
        witness.watch(token=token(store))
        witness.until("ok")
        assert raw.info("stats")[cut_off] == seen


@pytest.mark.slow
@pytest.mark.spec("10.10")
@pytest.mark.parametrize("loss", ["flushall", "evicted", "deleted"])
def test_a_store_that_lost_something(
    own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch, loss: str
) -> None:
    """Emptied, evicted under memory pressure, or one kill deleted by hand: refused within L, until a new history."""
    witness = start(own_valkey.url)
    kill(store, "s-bbbbbbbbbbbbbbbb")
    with redis.Redis.from_url(own_valkey.url) as raw:
        if loss == "flushall":
            raw.flushall()
        elif loss == "deleted":
            raw.hdel(store.keys.kills, "session:s-bbbbbbbbbbbbbbbb")
        else:
            raw.config_set("maxmemory-policy", "allkeys-random")
            raw.config_set("maxmemory", raw.info("memory")["used_memory"] + 1_000_000)
            until(lambda: _fill(raw) and not raw.exists(store.keys.kills, store.keys.header))
            raw.config_set("maxmemory", 0)
            raw.config_set("maxmemory-policy", "noeviction")
        lost = boot_clock()
        until(lambda: witness.code() in ("fenced", "stale"))
        bounded(witness, lost)
        if loss == "deleted":
            assert witness.code() == "fenced"
            store.rotate()
        else:
            store.init(lease_ms=FAST_LEASE_MS)
    witness.until("revoked")
    with RevocationStore(own_valkey.url, store.realm) as anew:
        witness.watch(token=token(anew))
        witness.until("ok")


def _fill(raw: redis.Redis) -> bool:
    for _ in range(400):
        raw.set(f"other:{secrets.token_hex(8)}", "x" * 4000)
    return True


def test_a_full_store(own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch) -> None:
    """Out of memory, nothing may be written any more, except a kill: it is acknowledged, on disk and in force."""
    witness = start(own_valkey.url)
    with redis.Redis.from_url(own_valkey.url) as raw:
        raw.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            raw.set("anything", "at all")
        time.sleep(FAST_LEASE_MS / 1000)
        assert {run.code for run in witness.runs()} == {"ok"}, "probes are still answered"
        killed = kill(store)
        witness.until("revoked")
        bounded(witness, killed)
        raw.config_set("maxmemory", 0)
    witness.watch(token=token(store))
    witness.until("ok")
