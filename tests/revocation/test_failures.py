# SPDX-License-Identifier: Apache-2.0
"""What breaks: the store, the network, the processes.  Whatever it is, nothing is accepted beyond the lease."""

import contextlib
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.failover import Topology, attest
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import Header, StoreHistoryError
from arx_verifier.revocation.follower import Follower
from tests.servers import FAST_LEASE_MS, VerifierProcess, begun_store, freeze, until

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.6")]

SESSION = "session:s-" + "a" * 16
BY = "operator:ada"
L_NS = FAST_LEASE_MS * 1_000_000


def code(follower: Follower, incarnation: str, born: int = 0) -> str | None:
    """The refusal's code for a token of the session, None for an acceptance."""
    refused = follower.check(incarnation, born, (SESSION,))
    return None if refused is None else refused.code


@pytest.fixture
def follower(own_valkey: EmbeddedValkey, own_fast_store: RevocationStore) -> Iterator[Follower]:
    """A live follower of it."""
    follower = Follower(own_valkey.url, own_fast_store.realm, "v")
    assert follower.catch_up(0, 0, 10)
    yield follower
    follower.close()


@pytest.mark.spec("10.3")
def test_a_frozen_store_ends_every_lease(
    own_valkey: EmbeddedValkey, own_fast_store: RevocationStore, follower: Follower
) -> None:
    """SIGSTOP: nothing is accepted after L; SIGCONT: it comes back by itself, and a kill made then arrives."""
    incarnation, pid = own_fast_store.header().incarnation, own_valkey.server_pid
    frozen = last = freeze(pid)
    while (now := follower.boot_ns()) < frozen + 2 * L_NS:
        if code(follower, incarnation) is None:
            last = now
    assert code(follower, incarnation) == "stale"
    assert last - frozen < L_NS + 5_000_000, "the last acceptance was later than a lease after the freeze"
    os.kill(pid, signal.SIGCONT)
    until(lambda: code(follower, incarnation) is None)
    bump = own_fast_store.kill([SESSION], "test", BY)
    assert follower.catch_up(0, bump.header.seq, 10)
    assert code(follower, incarnation) == "revoked"


def test_a_killed_connection_is_replaced(
    own_valkey: EmbeddedValkey, own_fast_store: RevocationStore, follower: Follower
) -> None:
    """CLIENT KILL loses pushes in silence; the new connection asks for what is missing, within the old lease."""
    incarnation = own_fast_store.header().incarnation
    with redis.Redis.from_url(own_valkey.url) as raw:
        for number in range(20):
            raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            bump = own_fast_store.kill([SESSION], "test", BY)
            assert follower.catch_up(0, bump.header.seq, 10)
            assert code(follower, incarnation, number) == "revoked"
            assert code(follower, incarnation, bump.header.seq) is None


def test_a_restart_keeps_everything(
    own_valkey: EmbeddedValkey, own_fast_store: RevocationStore, follower: Follower
) -> None:
    """kill -9 and a new start: the same history, every kill, no fence; who is new learns all of it."""
    header = own_fast_store.kill_and_freeze([SESSION], "test", BY).header
    os.kill(own_valkey.server_pid, signal.SIGKILL)
    until(lambda: not own_valkey.running)
    until(lambda: follower.check(header.incarnation, header.seq, ()) is not None)
    own_valkey.stop()
    own_valkey.start()
    assert attest(own_fast_store, Topology())[1] is None
    until(lambda: follower.check(header.incarnation, header.seq, ()) is None)
    assert code(follower, header.incarnation) == "revoked"
    assert code(follower, header.incarnation, header.seq) == "frozen"
    with_all = Follower(own_valkey.url, own_fast_store.realm, "new")
    assert with_all.catch_up(0, header.seq, 10)
    assert code(with_all, header.incarnation) == "revoked"
    with_all.close()
    assert own_fast_store.kill([SESSION], "test", BY).header.seq == header.seq + 1


@pytest.mark.spec("10.5")
def test_an_emptied_store_is_a_new_history(
    own_valkey: EmbeddedValkey, own_fast_store: RevocationStore, follower: Follower
) -> None:
    """FLUSHALL: refused until the mint begins a new history, in which old tokens are dead."""
    old = own_fast_store.header().incarnation
    with redis.Redis.from_url(own_valkey.url) as raw:
        raw.flushall()
    until(lambda: code(follower, old) == "stale")
    new = own_fast_store.init(lease_ms=FAST_LEASE_MS).incarnation
    until(lambda: code(follower, new) is None)
    assert code(follower, old) == "revoked"


def never_again(store: RevocationStore, follower: Follower, old: Header) -> None:
    """Fenced, and not healed by anything but a rotation."""
    asked = follower.boot_ns()
    assert not follower.catch_up(asked, 0, 2 * FAST_LEASE_MS / 1000), "the old history must not come back"
    assert code(follower, old.incarnation, old.seq) == "fenced"
    new = store.rotate(seq_at_least=old.seq).header
    until(lambda: code(follower, new.incarnation, new.seq) is None)
    assert code(follower, old.incarnation, old.seq) == "revoked"


@pytest.mark.spec("10.9")
def test_a_store_that_went_back_is_not_believed_again(
    own_valkey: EmbeddedValkey,
    own_fast_store: RevocationStore,
    follower: Follower,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    An older file restored has fewer entries than were applied.  It is fenced, also once new kills use the lost numbers
    again: a follower that went by the number alone would miss them.
    """
    own_fast_store.kill(["session:s-" + "b" * 16], "test", BY)
    written = own_valkey.data_dir / "appendonlydir"
    shutil.copytree(written, tmp_path / "older")
    old = own_fast_store.kill(["session:s-" + "c" * 16], "test", BY).header
    assert follower.catch_up(0, old.seq, 10)
    own_valkey.stop()
    shutil.rmtree(written)
    shutil.copytree(tmp_path / "older", written)
    own_valkey.start()
    assert attest(own_fast_store, Topology())[1] is None, "alone, it does not know of the loss"
    until(lambda: code(follower, old.incarnation, old.seq) == "fenced")
    assert "refusing everything" in caplog.text
    with RevocationStore(own_valkey.url, own_fast_store.realm) as unaware:
        assert unaware.kill([SESSION], "test", BY).header.seq == old.seq
    with pytest.raises(StoreHistoryError):
        own_fast_store.kill([SESSION], "test", BY)
    never_again(own_fast_store, follower, old)


@pytest.mark.spec("10.10")
def test_a_store_that_lost_a_kill_is_not_believed_again(
    own_valkey: EmbeddedValkey, own_fast_store: RevocationStore, follower: Follower
) -> None:
    """Evicted or deleted by hand: fenced, also after a client wrote something in its place."""
    old = own_fast_store.kill(["session:s-" + "c" * 16], "test", BY).header
    assert follower.catch_up(0, old.seq, 10)
    with redis.Redis.from_url(own_valkey.url) as raw:
        raw.hdel(own_fast_store.keys.kills, "session:s-" + "c" * 16)
        until(lambda: code(follower, old.incarnation, old.seq) == "fenced")
        raw.hset(own_fast_store.keys.kills, "session:s-" + "c" * 16, "1")
    never_again(own_fast_store, follower, old)


@pytest.mark.spec("10.5")
def test_clocks_apart_fence_until_they_agree(own_fast_store: RevocationStore, follower: Follower) -> None:
    """More than 30 s between this clock and the store's: nothing about expiry can be trusted."""
    incarnation = own_fast_store.header().incarnation
    follower._wall = lambda: time.time_ns() + 40 * 10**9
    until(lambda: code(follower, incarnation) == "fenced")
    follower._wall = time.time_ns
    until(lambda: code(follower, incarnation) is None)


@pytest.mark.spec("10.5")
def test_a_realm_that_does_not_exist_yet(own_valkey: EmbeddedValkey, realm_name: str) -> None:
    """No functions, then no header, then a history: syncing until there is one, then live without a restart."""
    follower = Follower(own_valkey.url, realm_name, "v")
    assert not follower.catch_up(0, 0, 0.05)
    assert code(follower, "I") == "syncing"
    with RevocationStore(own_valkey.url, realm_name) as store:
        store.load_functions()
        assert not follower.catch_up(0, 0, 0.05)
        incarnation = store.init().incarnation
        assert follower.catch_up(0, 0, 10)
        assert code(follower, incarnation) is None
    follower.close()


def test_a_garbled_push_only_costs_a_connection(own_valkey: EmbeddedValkey, own_fast_store: RevocationStore) -> None:
    """A client that can publish can only refuse: an unknown push ends its connection, and the truth is asked for."""
    follower = Follower(own_valkey.url, own_fast_store.realm, "v")
    assert follower.catch_up(0, 0, 10)
    incarnation, link = own_fast_store.header().incarnation, follower._link
    with redis.Redis.from_url(own_valkey.url) as raw:
        raw.execute_command("SPUBLISH", f"arx:{{{own_fast_store.realm}}}:ch", "what is this")
    until(lambda: follower._link is not link)
    assert follower.catch_up(follower.boot_ns(), 0, 10)
    assert code(follower, incarnation) is None
    follower.close()


@pytest.mark.slow
def test_a_frozen_verifier_is_reported_and_refuses_when_it_thaws(own_valkey: EmbeddedValkey, realm_name: str) -> None:
    """The report names it and says when its lease is over; its first decision after the thaw is a refusal."""
    lease_ms = 2_000  # a lease that ends between the freeze and the kill needs no report
    with begun_store(own_valkey.url, realm_name, lease_ms=lease_ms) as store:
        incarnation = store.header().incarnation
        well, ill = (VerifierProcess(own_valkey.url, realm_name, name) for name in ("tool-1", "tool-7"))
        try:
            until(lambda: (seen := store.unacked(0, 0)).at_ms - seen.since_ms > lease_ms)
            freeze(ill.pid)
            report = store.wait_confirmed(store.kill([SESSION], "test", BY))
            assert report.status == "partial"
            assert (report.verifiers, report.confirmed, report.unreachable) == (2, 1, ("tool-7",))
            fenced = "1 (tool-7) unreachable, fenced by its lease at +2.002 s"
            assert report.summary == f"partial: 1 of 2 verifiers, {fenced}"
            assert report.fenced_in_ms == 0, "it was waited for until then"
            for verifier in (well, ill):
                verifier.send("check", incarnation, 0, SESSION)
            os.kill(ill.pid, signal.SIGCONT)
            assert well.read() == "revoked"
            assert ill.read() in ("stale", "revoked")
        finally:
            well.close()
            ill.close()


FORKING = """
import os, sys
from arx_verifier.revocation.follower import Follower
follower = Follower(sys.argv[1], sys.argv[2], "parent")
assert follower.catch_up(0, 0, 10)
incarnation = follower.view()[0]
child = os.fork()
if child == 0:
    first = follower.check(incarnation, 0, ())
    live = follower.catch_up(0, 0, 10)
    named = follower.verifier_id == f"parent.{os.getpid()}"
    print("child", first.code, live, follower.check(incarnation, 0, ()), named, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", follower.check(incarnation, 0, ()), follower.catch_up(follower.boot_ns(), 0, 10), flush=True)
"""


@pytest.mark.spec("10.5")
def test_a_forked_child_holds_no_lease(own_valkey: EmbeddedValkey, own_fast_store: RevocationStore) -> None:
    """It refuses as closed, then follows on its own connection under its own name; the parent notices nothing."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING, own_valkey.url, own_fast_store.realm]
    output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    assert output == ["child closed True None True", "parent None True"]


class SlowLine:
    """A line to the store that holds back what the store says."""

    def __init__(self, path: Path, store: Path, delay_s: float) -> None:
        self.url = f"unix://{path}"
        self._store, self._delay_s = store, delay_s
        self._stop = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._listener.settimeout(0.02)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._store))
                thread = threading.Thread(target=self._carry, args=(near, far))
                thread.start()
                self._threads.append(thread)
        self._listener.close()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with near, far, contextlib.suppress(OSError):
            while not self._stop.is_set():
                for ready in select.select([near, far], [], [], 0.02)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if ready is far:
                        self._stop.wait(self._delay_s if b"arx" in data or b"OK" in data else 0)
                    (near if ready is far else far).sendall(data)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.spec("10.3")
@pytest.mark.parametrize(("share", "live"), [(0.5, True), (1.5, False)])
def test_the_lease_runs_from_before_the_probe_left(
    own_valkey: EmbeddedValkey, own_fast_store: RevocationStore, tmp_path: Path, share: float, live: bool
) -> None:
    """
    An answer half a lease late gives half a lease; one that is later than a lease gives none.  A lease counted
    from the answer's arrival would accept killed tokens for as long as the network likes.
    """
    delay_ns = int(share * L_NS)
    line = SlowLine(tmp_path / "line.sock", own_valkey.data_dir / "valkey.sock", delay_ns / 1e9)
    follower = Follower(line.url, own_fast_store.realm, "far", lease_ms=FAST_LEASE_MS)
    try:
        assert follower.catch_up(0, 0, 10 if live else 8 * L_NS / 1e9) is live
        lease = follower._state.lease
        if live:
            assert lease is not None
            assert lease.boot - lease.sent == L_NS
            assert lease.boot - follower.boot_ns() <= L_NS - delay_ns
        else:
            assert lease is None
    finally:
        follower.close()
        line.close()


def test_losing_the_store_is_reported_without_its_address(
    own_valkey: EmbeddedValkey, own_fast_store: RevocationStore, follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the realm and the verifier."""
    caplog.set_level(logging.INFO)
    own_valkey.stop()
    until(lambda: "dropped" in caplog.text)
    assert f"realm={own_fast_store.realm!r}" in caplog.text
    assert str(own_valkey.data_dir) not in caplog.text


def test_the_end_of_an_outage_is_logged_once(
    own_valkey: EmbeddedValkey, own_fast_store: RevocationStore, follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    """The last line of a service that decides again is not that it refuses."""
    caplog.set_level(logging.INFO)
    with redis.Redis.from_url(own_valkey.url) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    until(lambda: "follows the revocation store again" in caplog.text)
    before = own_fast_store.header().seq
    own_fast_store.kill(["session:s-" + "a" * 16], "test", "operator:ada")
    until(lambda: follower._state.applied > before)
    assert [("dropped" in line, "again" in line) for line in caplog.messages] == [(True, False), (False, True)]
