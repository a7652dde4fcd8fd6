# SPDX-License-Identifier: Apache-2.0
"""``arx doctor`` on real servers: whatever is wrong with what a store holds is found, named, and said how to mend."""

import contextlib
import os
import shutil
import signal
import sqlite3

import pytest

from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import Keys
from arx_verifier.memory.taints import LATEST_MS, TaintWindow
from tests.cli.helpers import arx
from tests.servers import VerifierProcess, freeze
from tests.topologies.doctored import AGENT, BY, OTHER, SESSION, Place, place

__all__ = ["place"]  # fixtures
pytestmark = pytest.mark.servers


def test_a_store_that_is_well(place: Place) -> None:
    """
    Seen by the mint's user nothing is wrong; the doctor names what that user may not ask.

    The kill of a session has two entries: before its own, the window of what the session wrote into memories.
    """
    assert place.bad() == {}
    ran = place.doctor()
    values = {check["name"]: check["found"] for check in ran.json["checks"]}
    assert (
        values["persistence"]
        == values["eviction"]
        == values["access"]
        == "the store's user has no permission for this check"
    )
    assert values["history"] == "at entry 3; 3 entries in the log"
    assert values["memory"] == "the mint has applied 3 of 3 entries"
    assert values["record"] == "2 entries match the mint's events"


@pytest.mark.nightly
def test_writing_past_the_functions_is_seen(place: Place) -> None:
    """
    What the break-glass user could do with its password: thaw a freeze or a taint, narrow a taint, take a kill back,
    set the sequence back, write other kills under old numbers.  Each contradicts the log, the mint's database or its
    record.
    """
    keys = Keys.of("acme")
    with place.server.client() as raw:
        raw.hdel(keys.freezes, AGENT)
        assert AGENT in place.bad()["history"][0]
        raw.hset(keys.freezes, AGENT, 3)
        taint, forged = str(TaintWindow(SESSION)), str(TaintWindow(AGENT, LATEST_MS))
        raw.hdel(keys.freezes, taint)
        assert taint in place.bad()["history"][0]
        assert taint in place.bad()["freezes"][0]
        raw.hset(keys.freezes, taint, 1)
        raw.hset(keys.freezes, forged, 3)  # it would trust what the killed agent wrote
        assert forged in place.bad()["history"][0]
        raw.hdel(keys.freezes, forged)
        raw.hset(keys.kills, SESSION, 0)
        assert SESSION in place.bad()["history"][0]
        raw.hdel(keys.kills, SESSION)
        raw.hincrby(keys.header, "n", -1)  # so that verifiers do not notice
        assert SESSION in place.bad()["history"][0]
        raw.hincrby(keys.header, "n", 1)
        raw.hset(keys.kills, SESSION, 2)
        raw.hset(keys.header, "seq", 2)
        assert {"history", "memory"} <= set(place.bad())
        assert "lost 1 entries" in place.bad()["memory"][0]
        raw.hset(keys.header, "seq", 3)
        whole = raw.xrange(keys.log)
        raw.delete(keys.log)
        for number, (_, fields) in enumerate(whole, 1):
            raw.xadd(keys.log, fields | {"s": OTHER}, id=f"{number}-0")
        assert f"entry 2 is {OTHER} in the store, {SESSION} at the mint" in place.bad()["record"][0]
        raw.xdel(keys.log, "2-0")
        assert "entry 2 is missing in the store" in place.bad()["record"][0]
        raw.xadd(keys.log, whole[-1][1], id="5-0")
        raw.hset(keys.header, "seq", 5)
        assert "lacks entries between 1 and 5" in place.bad()["history"][0]
        raw.hset(keys.header, "seq", 3)
        raw.delete(keys.log)
        for at, fields in whole:
            raw.xadd(keys.log, fields, id=at)
    assert place.bad() == {}


def test_a_mint_without_its_memory(place: Place) -> None:
    """
    A database that is gone, one that was made anew in its place, and one that knows another history.
    """
    path, aside = place.realm.folder / "mint.db", place.realm.folder / "aside.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        (incarnation,) = database.execute("select incarnation from epoch_high_water").fetchone()
        database.execute("update epoch_high_water set incarnation = 'another'")
        database.commit()
        assert "another history" in place.bad()["memory"][0]
        database.execute("update epoch_high_water set incarnation = ?", (incarnation,))
        database.commit()
    shutil.copy(path, aside)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("delete from operators")
        database.commit()
    assert "is new" in place.bad()["memory"][0]
    aside.rename(path)
    path.rename(aside)
    try:
        found = place.bad()["memory"]
        assert "mint.db is missing" in found[0]
        assert "backup" in found[1]
    finally:
        aside.rename(path)


def test_verifiers_that_lag_and_a_registry_that_lies(place: Place) -> None:
    """
    A frozen verifier is named with how far it is; one that is silent without missing anything is only mentioned; a
    registry that knows the future, or numbers that were never given, is not believed.
    """
    url = f"redis://127.0.0.1:{place.server.port}"
    store = RevocationStore(url, "acme")
    slow = VerifierProcess(url, "acme", "tool-7")
    try:
        freeze(slow.pid)
        store.kill([OTHER], "test", BY)
        found, mend = place.bad(url)["verifiers"]
        assert "tool-7 is at entry 3 of 4" in found
        assert "refuses every call" in mend
        with place.server.client() as raw:
            raw.zadd(store.keys.probes, {"tool-7": store.header().at_ms - 60_000})
        answer = next(check for check in place.doctor(url).json["checks"] if check["name"] == "verifiers")
        assert answer["ok"], "it has ended, as far as the store knows"
        assert "have no lease and refuse every call (tool-7, last probe 1m" in answer["found"]
        with place.server.client() as raw:
            raw.zadd(store.keys.probes, {"tool-8": 2e12})
            raw.zadd(store.keys.acks, {"tool-8": 4})
            assert "clock was set back" in place.bad(url)["registry"][0]
            raw.zadd(store.keys.probes, {"tool-8": store.header().at_ms})
            raw.zadd(store.keys.acks, {"tool-8": -101})
            assert "tool-8 has applied entry 99, and the store is at entry 4" in place.bad(url)["registry"][0]
            raw.zrem(store.keys.probes, "tool-8", "tool-7")
        assert "verifiers" not in place.bad(url)
    finally:
        os.kill(slow.pid, signal.SIGCONT)
        slow.close()
        store.close()


def test_a_missing_store(place: Place) -> None:
    """
    No process listens: the doctor reports that first, and asks nothing else.
    """
    ran = arx("doctor", "--realm-dir", place.realm.folder, "--json", "--store", "redis://127.0.0.1:1")
    names = [check["name"] for check in ran.json["checks"] if not check["ok"]]
    assert names == ["store", "mint"]


def test_a_lookup_without_a_login_fails_as_documented(place: Place) -> None:
    """
    A wrong password is the store's answer, shown without the password: a store that runs need not be started.
    """
    found = place.bad(password="guess")
    assert found["store"][0].startswith("refused the user or password: set ARX_STORE_PASSWORD, ARX_STORE_PASSWORD_FILE")
    assert "start" not in found["store"][1]
    assert "guess" not in str(found)


def test_what_was_forgotten_in_time_is_not_missed(place: Place) -> None:
    """
    The mint lets the end of a session be forgotten with the session itself; any other kill has to last for ``max_ttl``.
    """
    url, gone = f"redis://127.0.0.1:{place.server.port}", "session:s-" + "c" * 16
    with RevocationStore(url, "acme") as store, place.server.client() as raw:
        for why, missed in (("session ended", False), ("stolen", True)):
            store.kill([gone], why, BY)
            raw.hdel(store.keys.kills, gone)
            raw.hincrby(store.keys.header, "n", -1)
            assert (gone in place.bad(url).get("history", ("",))[0]) is missed
