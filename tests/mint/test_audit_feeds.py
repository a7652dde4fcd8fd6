# SPDX-License-Identifier: Apache-2.0
"""What the mint itself puts into the log: every event, every call and every kill, also those made past it, once."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from arx_caps.audit.ingest.entries import EventRecord, is_event, read_event
from arx_caps.audit.merkle.tiles import TileReader, fetch_from
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.store.log_store import LogStore
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.keys.log_key import read_log_key
from arx_caps.mint.runtime import MintRuntime
from arx_caps.revocation.store import RevocationStore
from arx_caps.settings.realm import Realm
from arx_verifier.journal.decision import Decision, unpack_record
from arx_verifier.journal.reader import read_journal
from tests.mint.harness import LOOKUP, Harness, client_of, make_realm

pytestmark = [pytest.mark.servers, pytest.mark.spec("LOG 1.7")]


class Mints:
    """A realm's mint on a real store: called again, it is stopped and started anew."""

    def __init__(self, realm: Realm, store_url: str) -> None:
        self._realm, self._store_url = realm, store_url
        self._running: TestClient | None = None

    def __call__(self) -> Harness:
        self.stop()
        mint = MintRuntime.open(Realm.open(self._realm.folder), store_url=self._store_url)
        self._running = client_of(mint)
        self._running.__enter__()
        return Harness(mint, self._running)

    def stop(self) -> None:
        if self._running is not None:
            self._running.__exit__(None, None, None)
        self._running = None


@pytest.fixture
def start_mint(tmp_path: Path, realm_name: str, database: str | None, valkey: EmbeddedValkey) -> Iterator[Mints]:
    """A realm whose mint is started by a call."""
    made = Mints(make_realm(tmp_path / "realm", realm_name, database=database), valkey.url)
    yield made
    made.stop()


@pytest.fixture
def past_the_mint(start_mint: Mints, realm_name: str, valkey: EmbeddedValkey) -> Iterator[RevocationStore]:
    """Another client's way to the store, once the mint has begun the realm's history."""
    start_mint()
    store = RevocationStore(valkey.url, realm_name)
    store.header()
    yield store
    store.close()


def logged(harness: Harness) -> tuple[list[EventRecord], list[Decision]]:
    """The events and the decisions of the log's files, verified."""
    harness.mint.log.step()
    assert harness.mint.log.failing is None
    checked = verify(harness.realm.log_dir, Trust(read_log_key(harness.realm.log_key_path)))
    reader = TileReader(fetch_from(harness.realm.log_dir), checked.checkpoint.size)
    kept = [reader.record(index) or b"" for index in range(checked.checkpoint.size)]
    events = [read_event(each, None) for each in kept if is_event(each)]
    return events, [unpack_record(each, None) for each in kept if not is_event(each)]


def test_everything_is_in_the_log_once(start_mint: Mints, past_the_mint: RevocationStore) -> None:
    """Through restarts: the outbox, the mint's journals and the store's log, each number once and in order."""
    live = start_mint()
    holder, session = live.session()
    task = holder.call("POST", "/v1/tasks", LOOKUP).json()["task"]["id"]
    holder.call("DELETE", f"/v1/tasks/{task}")
    logged(live)
    past_the_mint.kill([f"session:{session['id']}"], "past the mint", "operator:eve")
    live = start_mint()
    past_the_mint.kill_and_freeze(["agent:acme/x", "subject:" + "a" * 32], "past the mint again", "operator:eve")
    live.operator().call("GET", "/v1/agents")
    logged(live)
    live = start_mint()
    events, decisions = logged(live)
    by_source: dict[str, list[int]] = {}
    for event in events:
        by_source.setdefault(event.source.partition("/")[0], []).append(event.number)
    db = live.mint.db
    assert by_source["mint"] == [event.id for event in db.outbox.after(0)]
    kills = past_the_mint.log()
    assert by_source["store"] == [entry.seq for entry in kills]
    values = {event.named["seq"]: event for event in events if event.source.startswith("store/")}
    assert values[kills[-1].seq].by == "operator:eve"
    assert {event.named.get("target") for event in values.values()} >= {
        f"session:{session['id']}",
        "agent:acme/x",
        None,
    }
    assert int(past_the_mint.exchange.client.hget(past_the_mint.keys.header, "taken") or 0) == kills[-1].seq
    journal = [each for each in read_journal(live.realm.journals_dir / "mint") if each.sequence]
    ids = [each.id for each in decisions]
    assert sorted(ids) == sorted({each.id for each in journal})
    assert [each.tool for each in decisions if each.agent == "operator:root"].count("arx.agents.read") == 1


class Watched:
    """A feed that sees who else is in it."""

    def __init__(self) -> None:
        self._inside, self._second = threading.Lock(), threading.Event()

    @property
    def crowded(self) -> bool:
        """Whether a second caller came while the first was inside."""
        return self._second.is_set()

    def begin(self, store: LogStore) -> None:
        """Nothing is to be seen to."""

    def __call__(self, store: LogStore) -> None:
        """Stay until a second caller comes, which must not happen, or long enough for that."""
        if not self._inside.acquire(blocking=False):
            self._second.set()
            return
        self._second.wait(0.1)
        self._inside.release()


def test_steps_come_one_after_another(start_mint: Mints) -> None:
    """An erasure steps the log while the log's own thread does: two callers at one feed would mix it up."""
    log = start_mint().mint.log
    watched = Watched()
    log.feeds = [*log.feeds, watched]
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(log.step) for _ in range(4)]:
            done.result()
    assert not watched.crowded


def test_what_comes_into_the_log_is_counted(start_mint: Mints, past_the_mint: RevocationStore) -> None:
    """
    Decisions by what was decided and why, kills however they were made, each once; the journal and the
    checkpoint.
    """
    live = start_mint()
    holder, _ = live.session()
    holder.call("POST", "/v1/tasks", LOOKUP)
    live.client.get("/v1/agents", headers={"Authorization": "DPoP junk", "DPoP": "junk"})
    before = past_the_mint.header().seq
    past_the_mint.kill(["agent:acme/x", "agent:acme/y"], "past the mint", "operator:eve")
    past_the_mint.freeze(["agent:acme/z"], "past the mint", "operator:eve")
    past_the_mint.thaw(["agent:acme/z"], "past the mint", "operator:eve")
    logged(live)
    logged(live)
    text = live.client.app.state.metrics.text().decode()  # type: ignore[attr-defined]
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    _, decisions = logged(live)
    assert found["arx_decisions_total", "allow", "ok"] == sum(each.allowed for each in decisions) > 0
    # A series that begins with its first refusal has no rise that an alert could see.
    assert {("deny", "stale"), ("audit_unavailable", "deny")} <= {name[1:] for name in found}
    # With the taint that a thaw past the mint leaves (SPEC 18.4).
    assert past_the_mint.header().seq - before == 5
    assert [found["arx_kills_total", op] for op in ("kill", "freeze", "thaw")] == [2, 2, 1]
    assert found["arx_journal_bytes",] > 0
    assert 0 <= found["arx_checkpoint_age_seconds",] < 60


def test_kills_that_were_ended_unread_are_reported(start_mint: Mints, past_the_mint: RevocationStore) -> None:
    """While the mint is away a client kills, and the store gets another history: the log records what it missed."""
    live = start_mint()
    live.session()
    past_the_mint.kill(["agent:acme/a"], "seen", "operator:eve")
    events, _ = logged(live)
    seen = past_the_mint.log()[-1].seq
    start_mint.stop()
    missed = [past_the_mint.kill([f"agent:acme/{n}"], "missed", "operator:eve").header.seq for n in range(3)]
    past_the_mint.rotate(seq_at_least=missed[-1])
    last = past_the_mint.kill(["agent:acme/b"], "in a history that the mint ends", "operator:eve").header.seq
    events, _ = logged(start_mint())
    unread = [event.named for event in events if event.kind == "kills.unread"]
    assert [(each["first"], each["last"]) for each in unread] == [(seen + 1, last)]
