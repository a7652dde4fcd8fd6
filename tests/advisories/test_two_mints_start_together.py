# SPDX-License-Identifier: Apache-2.0
"""One of two mints that started together on an empty PostgreSQL ended with ``conflict``.

Both found that no policy was in force and both kept the file's, which only one could; and a run of the outbox's numbers
that one mint had just begun could be begun again by the other, which would have put each event into the log twice.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.operations.epoch import RECALLED
from arx_caps.mint.db.tables import Freeze
from tests.mint.harness import make_realm
from tests.mint.processes import MintProcess
from tests.postgres import Postgres
from tests.servers import until

pytestmark = pytest.mark.servers
WAITING = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE NOT granted AND datname = %s"
WAITING_FOR_A_ROW = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event = 'transactionid'"
PATIENT = "&options=-c%20lock_timeout%3D60s"  # the first to wait has to be there when the second comes
ONCE = ("policy.loaded", "epoch.begun", "epoch.rotated")


@pytest.fixture
def empty(postgres: Postgres) -> Iterator[str]:
    url = postgres.database()
    yield url
    postgres.drop(url)


@pytest.mark.slow
@pytest.mark.parametrize(
    "table",
    ["meta", *(pytest.param(table, marks=pytest.mark.nightly) for table in ("audience_keys", "policies", "outbox"))],
)
def test_all_start_and_each_thing_is_begun_once(
    tmp_path: Path, realm_name: str, empty: str, valkey: EmbeddedValkey, table: str
) -> None:
    """Two mints wait for a table until both have come to it, so that both go on from there in the same moment."""
    realm = make_realm(tmp_path / "realm", realm_name, database=empty + PATIENT)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        watch = stack.enter_context(psycopg.connect(empty, autocommit=True))
        gate = stack.enter_context(psycopg.connect(empty))
        gate.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        starts = [pool.submit(MintProcess, realm, valkey.url) for _ in range(2)]
        for start in starts:
            stack.callback(lambda start=start: start.exception() or start.result().kill())
        name = watch.info.dbname
        until(lambda: watch.execute(WAITING, (name,)).fetchone() == (2,), 60)
        gate.rollback()
        for start in starts:
            start.result()
    with MintDatabase(empty) as db:
        events = db.outbox.after(0)
    kinds = Counter(event.kind for event in events)
    assert kinds["mint.started"] == 2
    assert [kinds[kind] for kind in ONCE] == [1, 1, 0]


@pytest.mark.slow
def test_both_recall_the_freezes_of_the_log(empty: str) -> None:
    """Two mints that note at once for which history they put freezes back: neither ends with a conflict."""
    with ThreadPoolExecutor(1) as pool, psycopg.connect(empty) as other, MintDatabase(empty + PATIENT) as db:
        db.create()
        freeze = Freeze("agent:acme/one", 0, "operator:one", "test")
        other.execute("INSERT INTO meta (name, value) VALUES (%s, %s)", (RECALLED, "h-1"))
        recalled = pool.submit(db.epoch.recall, "h-1", [freeze])
        with psycopg.connect(empty, autocommit=True) as watch:
            until(lambda: watch.execute(WAITING_FOR_A_ROW, (watch.info.dbname,)).fetchone() == (1,), 60)
        other.commit()
        recalled.result()
        db.epoch.recall("h-1", [freeze])
        assert db.epoch.recalled() == "h-1"
        assert db.epoch.freezes() == {freeze.target}
