# SPDX-License-Identifier: Apache-2.0
"""A holder could use a killed token, after a store lost kills and gave their numbers to others.

A disk that loses its tail, or an older copy of it, and then as many kills as were lost, all before a verifier asked
again: its number was the store's, so it got its lease, and what had been killed meanwhile was accepted for as long as
its tokens lived.  The mint's memory compared numbers as well.  Numbers now stand for what led to them.
"""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.runtime import MintRuntime
from arx_caps.revocation.failover import Topology, attest
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import StoreHistoryError
from tests.faults.conftest import BY, Watch, bounded, kill, start, store, token
from tests.mint.harness import make_realm
from tests.servers import until

pytestmark = pytest.mark.servers
__all__ = ["start", "store"]  # the fixtures of the faults

VICTIM, LOST = "s-aaaaaaaaaaaaaaaa", "s-cccccccccccccccc"


def lose(server: EmbeddedValkey, folder: Path, meanwhile: Callable[[], None]) -> None:
    """Do something with the server, then set it back to what its disk held before."""
    written = server.data_dir / "appendonlydir"
    shutil.copytree(written, folder)
    meanwhile()
    os.kill(server.server_pid, signal.SIGKILL)
    until(lambda: not server.running)
    server.stop()
    shutil.rmtree(written)
    shutil.copytree(folder, written)
    server.start()


@pytest.mark.slow
@pytest.mark.parametrize("more", [0, 1])
def test_a_number_that_was_given_twice_is_noticed(
    own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch, tmp_path: Path, more: int
) -> None:
    """
    Two verifiers have the kill that was lost, and its number: both refuse everything from L after the other kill on,
    until the history ends.  One that starts anew knows no more than the store: it has the other kill.
    """
    kill(store, "s-bbbbbbbbbbbbbbbb")
    witnesses = [start(own_valkey.url, f"tool-{number}") for number in range(2)]
    lost: list[int] = []
    before = token(store, VICTIM)

    def meanwhile() -> None:
        kill(store, LOST)
        for witness in witnesses:
            until(lambda witness=witness: witness.say(applied=True) == store.header().seq)  # type: ignore[misc]
            witness.freeze()  # none of them asks before the number is given again
        lost.append(store.header().seq)

    lose(own_valkey, tmp_path / "older", meanwhile)
    with RevocationStore(own_valkey.url, store.realm) as unaware:
        killed = kill(unaware, VICTIM)
        for _ in range(more):
            kill(unaware, "s-dddddddddddddddd")
        assert unaware.header().seq == lost[0] + more
        assert attest(unaware, Topology())[1] is None, "a mint that knows of no lost kill"
        late = start(own_valkey.url, "late", live=False)
        for witness in witnesses:
            witness.thaw()
        for witness in witnesses:
            witness.until("fenced")
            bounded(witness, killed)
        late.watch(token=token(unaware, VICTIM), killed=before)
        late.until("ok")
        late.until("revoked", "killed")
    assert all(witness.code() == "fenced" for witness in witnesses)
    rotated = store.rotate(seq_at_least=lost[0])
    for witness in witnesses:
        witness.until("revoked")
        witness.watch(token=token(store))
        witness.until("ok")
    assert rotated.durable


def test_a_mint_that_was_away_ends_such_a_history(own_valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """
    The mint's own memory is a place, not a number: started over a store with another past of the same length, it ends
    that history, and every older token is dead.
    """
    realm = make_realm(tmp_path / "realm")

    def meanwhile() -> None:
        mint = MintRuntime.open(realm, store_url=own_valkey.url)
        mint.start()
        try:
            mint.revoker.end("kill", [f"session:{LOST}"], reason="test", by=BY, wait=False)
        finally:
            mint.close()

    mint = MintRuntime.open(realm, store_url=own_valkey.url)
    mint.start()
    mint.close()
    lose(own_valkey, tmp_path / "older", meanwhile)
    with RevocationStore(own_valkey.url, realm.name) as unaware:
        old = unaware.kill_by_kind([f"session:{VICTIM}"], "test", BY).header
        mint = MintRuntime.open(realm, store_url=own_valkey.url)
        assert (mark := mint.db.epoch.high_water(realm.name)) is not None
        assert (mark.incarnation, mark.seq) == (old.incarnation, old.seq)
        mint.start()
        try:
            assert unaware.header().incarnation != old.incarnation
            mark = mint.db.epoch.high_water(realm.name)
            assert mark is not None
            assert (mark.incarnation, mark.seq, mark.chain) == unaware.header().place
        finally:
            mint.close()


def test_a_kill_says_which_past_it_knows(own_valkey: EmbeddedValkey, store: RevocationStore, tmp_path: Path) -> None:
    """
    An operator who kills has seen a place as well: in another past the kill is refused, and nothing is written.
    """
    lose(own_valkey, tmp_path / "older", lambda: kill(store, LOST) and None)
    with RevocationStore(own_valkey.url, store.realm) as unaware:
        kill(unaware, VICTIM)
        before = unaware.header()
        with pytest.raises(StoreHistoryError, match="gave it twice"):
            kill(store)
        assert unaware.header().place == before.place
