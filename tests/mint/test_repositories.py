# SPDX-License-Identifier: Apache-2.0
"""The mint's database: what it keeps, under concurrency and across a restart, and that it is no system's own."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from sqlalchemy import select

from arx_caps.credentials.jose import SigningKey
from arx_caps.mint.backup import restorer
from arx_caps.mint.db import database, migrations, tables
from arx_caps.mint.db.database import Repository, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.events import webhooks
from arx_caps.mint.db.repositories.identity import keys, signing_keys
from arx_caps.mint.db.repositories.oauth import connections
from arx_caps.mint.db.repositories.operations import epoch
from arx_caps.mint.db.repositories.operations.epoch import HighWater
from arx_caps.mint.db.repositories.work import proofs
from arx_caps.mint.db.repositories.work.proofs import KEEP_MS, PRUNE_MS
from arx_caps.mint.policy import activation
from arx_caps.mint.revocation import store_history
from arx_verifier.errors import AuditError, GrantError, StoreError

NOW = 1_700_000_000_000


@pytest.fixture
def db(tmp_path: Path, database: str | None) -> Iterator[MintDatabase]:
    with MintDatabase(database or f"sqlite:///{tmp_path}/mint.db") as made:
        made.create()
        yield made


def test_what_was_answered_survives_a_power_cut(tmp_path: Path) -> None:
    """SQLite writes ahead and waits for the disk."""
    with MintDatabase(f"sqlite:///{tmp_path}/mint.db") as db, db.write() as c:
        assert c.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert c.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert c.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_writer_waits_for_another_one(db: MintDatabase) -> None:
    """A transaction that has changed something delays a second one; none fails in its middle, and readers go on."""
    db.epoch.raise_high_water("acme", HighWater("a", 0, max_ttl_ms=1))
    inside, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with db.write() as c:
            epoch.raise_high_water(c, "acme", HighWater("a", 1))
            inside.set()
            let_go.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(5)
    assert db.epoch.high_water("acme") == HighWater("a", 0, max_ttl_ms=1)
    other = threading.Thread(target=db.epoch.raise_high_water, args=("acme", HighWater("a", 2)))
    other.start()
    let_go.set()
    thread.join()
    other.join()
    assert db.epoch.high_water("acme") == HighWater("a", 2, max_ttl_ms=1)


def test_the_high_water_mark_only_rises(db: MintDatabase) -> None:
    """A late writer does not lower it, in the same history or across one."""
    assert db.epoch.high_water("acme") is None
    db.epoch.raise_high_water("acme", HighWater("a", 7, max_ttl_ms=100))
    db.epoch.raise_high_water("acme", HighWater("a", 5))
    assert db.epoch.high_water("acme") == HighWater("a", 7, max_ttl_ms=100)
    db.epoch.raise_high_water("acme", HighWater("b", 6, max_ttl_ms=200), begins=True)
    assert db.epoch.high_water("acme") == HighWater("b", 7, max_ttl_ms=200)


def test_a_high_water_mark_that_is_gone_fails_the_change(db: MintDatabase) -> None:
    """A call whose position cannot be stored is not answered."""
    with pytest.raises(StoreError), db.write() as c:
        epoch.raise_from(c, "acme", HighWater("a", 1), HighWater("a", 2))


def test_each_lock_of_all_mints_has_a_number_of_its_own() -> None:
    """One part that waits for another one's lock could be refused for it."""
    numbers = [migrations.LOCK, restorer.LOCK, activation.SETTLING, store_history.ATTESTING]
    numbers += [webhooks._ADDING, connections.ACCOUNTS_LOCK, keys._NUMBERING, signing_keys._MAKING]
    assert len({*numbers}) == len(numbers)


def test_a_record_that_fails_undoes_the_change(db: MintDatabase) -> None:
    """The change and its record stand or fall together."""
    with db.write() as c:
        c.exec_driver_sql("DROP TABLE outbox")
    enrolled = Event.of("agent.enrolled", "operator:root")
    with pytest.raises(AuditError) as caught:
        db.agents.add(db.unit(), "acme/x", SigningKey.generate().public, owner=None, metadata={}, what=enrolled)
    assert "INSERT" not in str(caught.value)
    assert db.agents.find("acme/x") is None
    assert db.holder_keys.kids("acme/x") == []
    with pytest.raises(AuditError):
        db.outbox.check()


def test_a_change_that_fails_is_not_recorded(db: MintDatabase) -> None:
    """What was refused leaves no event, and the next one is there with its facts, once, in order."""
    key = SigningKey.generate().public
    db.operators.add(db.unit(), "root", key, Event.of("operator.enrolled", "init", operator="root"), role="admin")
    with pytest.raises(GrantError) as caught:
        db.agents.add(
            db.unit(), "acme/x", key, owner=None, metadata={}, what=Event.of("agent.enrolled", "operator:root")
        )
    assert caught.value.code == "key_enrolled"
    assert db.agents.find("acme/x") is None
    db.outbox.check()
    db.record(Event.of("mint.started", "mint", policy="p"))
    first, second = db.outbox.after(0)
    assert [first.kind, second.kind] == ["operator.enrolled", "mint.started"]
    assert (second.facts, second.by, second.mint) == ({"policy": "p"}, "mint", "mint")
    assert db.outbox.after(first.id) == [second]
    assert db.outbox.since(0, ["mint.started"]) == [second]
    assert db.outbox.since(second.at_ms + 60_000) == []
    db.outbox.forget(first.id)
    assert (db.outbox.waiting(), db.outbox.after(0)) == (1, [second])


def test_a_change_that_finds_nothing_is_not_recorded(db: MintDatabase) -> None:
    """Of two changes with one condition, the first one is done and has an event; the second one leaves no trace."""
    db.issuer.begin("https://a.example")
    answers = [db.issuer.change("https://a.example", to, Event.of("t", "mint", to=to)) for to in ("b", "c")]
    assert answers == [True, False]
    assert (db.issuer.find(), [what.facts for what in db.outbox.after(0)]) == ("b", [{"to": "b"}])


def test_used_ids_are_forgotten_when_they_no_longer_matter(db: MintDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id is kept until what it belongs to would be refused for its age, and a minute more."""
    clock = [NOW]
    monkeypatch.setattr(proofs, "now_ms", lambda: clock[0])
    db.unit().spend("proof", "k", "one", NOW + 30_000)
    clock[0] = NOW + 30_000 + KEEP_MS - 1
    db.unit().spend("proof", "k", "two", clock[0] + 30_000)
    with pytest.raises(GrantError):
        db.unit().spend("proof", "k", "one", clock[0] + 30_000)
    clock[0] += PRUNE_MS + 1
    db.unit().spend("proof", "k", "three", clock[0] + 30_000)
    with db.read() as c:
        assert len(c.execute(select(tables.USED_JTI)).all()) == 2


def test_ids_of_different_keys_do_not_meet(db: MintDatabase) -> None:
    """The same id under another key or of another kind is another one; no caller uses up the id of another."""
    for kind, kid in (("proof", "a"), ("proof", "b"), ("assertion", "a")):
        db.unit().spend(kind, kid, "one", database.now_ms())
        with pytest.raises(GrantError) as caught:
            db.unit().spend(kind, kid, "one", database.now_ms())
        assert caught.value.code == "replayed"


def test_a_database_that_does_not_answer_is_reported_without_its_values(db: MintDatabase) -> None:
    """A lost table is a ``StoreError`` that quotes no statement."""
    with db.write() as c:
        c.exec_driver_sql("DROP TABLE used_jti")
    with pytest.raises(StoreError) as caught:
        db.unit().spend("proof", "secret-kid", "secret-jti", NOW)
    assert "secret" not in str(caught.value)
    assert "INSERT" not in str(caught.value)


def test_no_repository_returns_a_row_as_a_mapping() -> None:
    """Rows are structs, whose columns the type checker knows."""
    returned = {
        f"{kind.__name__}.{name}": get_type_hints(method).get("return")
        for kind in (StructRepository, *subclasses(Repository))
        for name, method in vars(kind).items()
        if isinstance(method, FunctionType)
    }
    assert len(returned) > 100
    assert [name for name, hint in returned.items() if is_mapping_of_any(hint)] == []
    assert is_mapping_of_any(list[dict[str, Any]] | None)


def subclasses(kind: type) -> Iterator[type]:
    """Yield the subclasses of a class, at all depths."""
    for below in kind.__subclasses__():
        yield below
        yield from subclasses(below)


def is_mapping_of_any(hint: Any) -> bool:
    """Return whether an annotation has a mapping whose values may be anything."""
    args = get_args(hint)
    return (get_origin(hint) in (dict, Mapping) and Any in args) or any(map(is_mapping_of_any, args))
