# SPDX-License-Identifier: Apache-2.0
"""A database that is down, locked or full: 503 with the reason, nothing half done, and all is well once it is back."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from arx_caps.credentials.jose import SigningKey
from arx_caps.mint.db.events import Event
from arx_verifier.errors import UnavailableError
from tests.mint.harness import AGENT, LOOKUP, Harness, Holder, open_unit
from tests.postgres import Postgres
from tests.servers import until

pytestmark = pytest.mark.long

FILLER = Event.of("test.filled", "test")
Fault = Callable[[Harness], contextlib.AbstractContextManager[None]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a lock does not wait for seconds here."""
    monkeypatch.setattr("arx_caps.database.engines.BUSY_S", 1)
    monkeypatch.setattr("arx_caps.mint.db.health.LOOK_S", 0.0)


@contextlib.contextmanager
def locked_file(harness: Harness) -> Iterator[None]:
    """Another process holds the file's write lock."""
    with contextlib.closing(sqlite3.connect(harness.realm.database_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextlib.contextmanager
def full_disk(harness: Harness) -> Iterator[None]:
    """The file cannot grow by a page."""
    engine = harness.mint.db._engine

    def no_more(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA max_page_count=1")  # SQLite takes it for as many as there are

    event.listen(engine, "connect", no_more)
    engine.dispose()
    with contextlib.suppress(UnavailableError):  # the pages that are there are filled up
        while True:
            harness.mint.db.record(FILLER)
    yield
    event.remove(engine, "connect", no_more)
    engine.dispose()


@contextlib.contextmanager
def locked_table(harness: Harness) -> Iterator[None]:
    """Another connection locks the table that records every change."""
    url = str(harness.realm.database)
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE")
        try:
            yield
        finally:
            other.rollback()


@contextlib.contextmanager
def server_down(harness: Harness) -> Iterator[None]:
    """The database refuses every connection, and ends those that are open."""
    url = str(harness.realm.database)
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(url.replace(f"/{name}?", "/postgres?"), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        yield
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def check_under(harness: Harness, fault: Fault) -> None:
    """Try every kind of change under a fault, and after it."""
    holder, _ = harness.session()
    key = harness.enrol("acme/support/other")
    operator = harness.operator()
    before = [event["kind"] for event in harness.events()]
    # Enough that a full file has no room left in its last pages.
    body = {"path": "acme/new", "owner": "x" * 200, "metadata": {f"m{n}": "x" * 200 for n in range(16)}}
    body |= {"jwk": SigningKey.generate().public.jwk}
    fresh = Holder(harness, SigningKey.generate(), None)
    with fault(harness):
        answers = [
            holder.call("POST", "/v1/tasks", LOOKUP),
            operator.call("POST", "/v1/agents", body),
            fresh.call("POST", "/v1/sessions", {"assertion": harness.assertion(key, fresh.key), "purpose": "x" * 400}),
        ]
        ready = harness.client.get("/readyz")
    for answer in answers:
        assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1"), answer.text
        assert answer.json()["code"] in ("store_unavailable", "audit_unavailable")
        assert len(answer.json()["detail"]) > 20
    assert (ready.status_code, len(ready.json()["because"])) == (503, 1)
    until(lambda: harness.client.get("/readyz").status_code == 200)
    assert [event["kind"] for event in harness.events() if event["kind"] != FILLER.kind] == before
    assert {row.path for row in harness.mint.db.agents.list()} == {AGENT, "acme/support/other"}
    assert (len(harness.mint.db.sessions.list()), len(harness.mint.db.tasks.list())) == (1, 0)
    assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 201
    assert operator.call("POST", "/v1/agents", body).status_code == 201


@pytest.mark.parametrize("fault", [locked_file, full_disk])
def test_sqlite(tmp_path: Path, fault: Fault) -> None:
    """A file that is locked or full changes nothing by halves."""
    with open_unit(tmp_path / "realm") as unit:
        check_under(unit, fault)


@pytest.mark.servers
@pytest.mark.parametrize("fault", [locked_table, server_down])
def test_postgresql(tmp_path: Path, postgres: Postgres, fault: Fault) -> None:
    """A server that is gone, or whose table is locked, changes nothing by halves."""
    url = postgres.database(template="made")
    with open_unit(tmp_path / "realm", database=url) as unit:
        check_under(unit, fault)
    postgres.drop(url)
