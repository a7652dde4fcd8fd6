# SPDX-License-Identifier: Apache-2.0
"""A kill waited for a database that commits nothing, and the mint was ready all the time.

PostgreSQL holds every commit back while its synchronous standby is silent.  The proof of a kill was used up in a
transaction of its own, so that the kill waited for the standby: 12 and 20 s were measured, with ``/readyz`` at 200.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psycopg
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.runtime import MintRuntime
from arx_verifier.journal.reader import read_journal
from arx_verifier.revocation.follower import Follower
from tests.cli.helpers import arx
from tests.cli.live import Live
from tests.console.harness import sign_in
from tests.mint.harness import LOOKUP, Harness, Holder, client_of, open_live
from tests.postgres import Postgres, running
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.long, pytest.mark.spec("CONTROL 4.7")]

BOUND_S = 2.0  # of a commit, and of the time until a kill is in force
SLACK_S = 4.0  # a loaded machine
REASON = "runs wild"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A PostgreSQL of its own: its settings are for all databases in it."""
    with running() as found:
        yield found


@pytest.fixture
def realm(tmp_path: Path, server: Postgres, valkey: EmbeddedValkey, realm_name: str) -> Iterator[Harness]:
    """A mint that runs on that server, and on a real store."""
    url = server.database()
    with open_live(tmp_path / "realm", valkey.url, name=realm_name, database=url) as harness:
        until(lambda: harness.client.get("/readyz").status_code == 200)
        yield harness
    server.drop(url)


@contextlib.contextmanager
def in_force(harness: Harness, *targets: str) -> Iterator[Callable[[], float]]:
    """Yield what waits until a verifier refuses all targets, and returns after how many seconds it does."""
    follower = Follower(harness.mint.store_url, harness.realm.name, "orders-1")
    try:
        assert follower.catch_up(0, 0, 10)
        incarnation, seq, _ = follower.view()
        began = time.monotonic()

        def refused(target: str) -> bool:
            answer = follower.check(incarnation, seq, (target,))
            return answer is not None and answer.code in ("revoked", "frozen")

        def wait() -> float:
            until(lambda: all(map(refused, targets)), BOUND_S + SLACK_S)
            return time.monotonic() - began

        yield wait
    finally:
        follower.close()


def kill(holder: Holder, *targets: str) -> httpx2.Response:
    """Kill targets, without a wait for the confirmations."""
    return holder.call("POST", "/v1/kills", {"targets": targets, "reason": REASON, "wait": False})


def recorded(harness: Harness, kind: str = "targets.killed") -> list[tuple[str, str, list[str]]]:
    """Return the events of kills: actor, reason and targets."""
    return [(e["by"], e["reason"], e["targets"]) for e in harness.events() if e["kind"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/kills", "/v1/freezes"])
def test_through_the_api(realm: Harness, server: Postgres, path: str) -> None:
    """It is in force at once, the answer says what is recorded later, and then it is recorded once."""
    operator, target = realm.operator(), "session:s-abcdefghijklmnop"
    body = {"targets": [target], "reason": REASON, "wait": False}
    with in_force(realm, target) as refused, ThreadPoolExecutor(1) as pool, server.hanging_commits():
        answer = pool.submit(operator.call, "POST", path, body)
        assert refused() < BOUND_S + SLACK_S
        report = answer.result(BOUND_S + SLACK_S)
        assert (report.status_code, "records it later" in report.json()["summary"]) == (200, True), report.text
        ready = realm.client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "commits nothing" in ready.json()["because"][0], ready.text
    until(lambda: realm.client.get("/readyz").status_code == 200)
    kind = "targets.killed" if path == "/v1/kills" else "targets.frozen"
    until(lambda: recorded(realm, kind))
    assert recorded(realm, kind) == [("operator:root", REASON, [target])]


def test_not_ready_without_a_call(realm: Harness, server: Postgres) -> None:
    """The check of ``/readyz`` commits by itself, and within the bound."""
    with server.hanging_commits():
        began = time.monotonic()
        until(lambda: realm.client.get("/readyz").status_code == 503, BOUND_S + SLACK_S)
        assert time.monotonic() - began < BOUND_S + SLACK_S
    until(lambda: realm.client.get("/readyz").status_code == 200)


def test_operator_who_signs_in_meanwhile(realm: Harness, server: Postgres) -> None:
    """An operator's token needs no commit either, and the journal has its sign-in."""
    target = "session:s-abcdefghijklmnop"
    with in_force(realm, target) as refused, server.hanging_commits():
        operator = realm.operator()
        assert kill(operator, target).status_code == 200
        assert refused() < 2 * BOUND_S + SLACK_S
    journal = realm.realm.journals_dir / "mint"
    assert [each.tool for each in read_journal(journal) if each.sequence][-2:] == ["arx.login", "arx.kill"]


def test_operator_who_signs_in_while_the_disk_is_full(realm: Harness) -> None:
    """The proof is stored and the event is not: the sign-in was refused as a repeated one, by its own proof."""
    full = "BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END"
    with psycopg.connect(str(realm.realm.database), autocommit=True) as root:
        root.execute(f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $${full}$$")
        root.execute("CREATE TRIGGER full_disk BEFORE INSERT ON outbox EXECUTE FUNCTION full_disk()")
        operator = realm.operator()
        root.execute("DROP TRIGGER full_disk ON outbox")
    assert kill(operator, "session:s-abcdefghijklmnop").status_code == 200
    journal = realm.realm.journals_dir / "mint"
    assert [each.tool for each in read_journal(journal) if each.sequence][-2:] == ["arx.login", "arx.kill"]


def test_through_the_console(realm: Harness, server: Postgres) -> None:
    """A browser that is signed in kills, and sees its kill."""
    browser, target = sign_in(realm), "session:s-abcdefghijklmnop"
    realm.mint.db.console_sessions.use(  # its use is due to be stored: that is a change, too
        realm.mint.db.console_sessions.list()[0].id, until=realm.mint.db.console_sessions.list()[0].until
    )
    with in_force(realm, target) as refused, ThreadPoolExecutor(1) as pool, server.hanging_commits():
        browser.get(f"/console/kill?target={target}")
        page = pool.submit(browser.post, "/console/kill", what="kill", targets=target, reason=REASON, do="go")
        assert refused() < BOUND_S + SLACK_S
        assert REASON in page.result(2 * BOUND_S + SLACK_S)
        assert browser.status == 200
    until(lambda: recorded(realm))
    assert recorded(realm) == [("operator:root", REASON, [target])]


@pytest.mark.slow
def test_behind_calls_that_hang(realm: Harness, server: Postgres) -> None:
    """Sixty calls of others that wait for their commits, or for a thread, delay no kill."""
    agent, _ = realm.session()
    operator, target = realm.operator(), "session:s-abcdefghijklmnop"
    until(lambda: realm.client.get("/readyz").status_code == 200)
    with in_force(realm, target) as refused, ThreadPoolExecutor(61) as pool, server.hanging_commits():
        others = [pool.submit(agent.call, "POST", "/v1/tasks", LOOKUP) for _ in range(60)]
        answer = pool.submit(kill, operator, target)
        assert refused() < BOUND_S + SLACK_S
        assert answer.result(60).status_code == 200
        assert {other.result(60).status_code for other in others} <= {503}


def test_behind_locks_of_others(realm: Harness, server: Postgres) -> None:
    """Another program holds the tables that a kill is recorded in, and the operators' rows: neither delays it."""
    operator, target = realm.operator(), "session:s-abcdefghijklmnop"
    with (
        in_force(realm, target) as refused,
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(str(realm.realm.database)) as other,
    ):
        other.execute("LOCK TABLE outbox, epoch_high_water, epoch_followed, epoch_kills IN ACCESS EXCLUSIVE MODE")
        other.execute("LOCK TABLE used_jti IN EXCLUSIVE MODE")
        other.execute("SELECT * FROM operators FOR UPDATE")
        answer = pool.submit(kill, operator, target)
        try:
            assert refused() < BOUND_S + SLACK_S
        finally:
            other.rollback()
        assert answer.result(60).status_code == 200
    until(lambda: recorded(realm))
    assert recorded(realm) == [("operator:root", REASON, [target])]


@pytest.mark.sqlite
def test_behind_a_writer_of_a_file(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> None:
    """Another program holds the write lock of the mint's SQLite file, and other calls wait for it."""
    with open_live(tmp_path / "realm", valkey.url, name=realm_name) as live:
        agent, _ = live.session()
        operator, target = live.operator(), "session:s-abcdefghijklmnop"
        with (
            in_force(live, target) as refused,
            ThreadPoolExecutor(21) as pool,
            contextlib.closing(sqlite3.connect(live.realm.database_path, isolation_level=None)) as other,
        ):
            other.execute("BEGIN IMMEDIATE")
            others = [pool.submit(agent.call, "POST", "/v1/tasks", LOOKUP) for _ in range(20)]
            answer = pool.submit(kill, operator, target)
            try:
                assert refused() < BOUND_S + SLACK_S
            finally:
                other.execute("ROLLBACK")
            assert answer.result(60).status_code == 200
            assert all(other.result(60).status_code in (201, 503) for other in others)


def test_when_the_database_is_silent(realm: Harness, server: Postgres) -> None:
    """The mint can authenticate no caller: the caller reads that, and goes to the store; the mint is not ready."""
    operator = realm.operator()
    with server.silence():
        began = time.monotonic()
        answer = kill(operator, "session:s-abcdefghijklmnop")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), answer.text
        assert time.monotonic() - began < BOUND_S + SLACK_S
        until(lambda: realm.client.get("/readyz").status_code == 503, BOUND_S + SLACK_S)
    until(lambda: realm.client.get("/readyz").status_code == 200)
    assert kill(operator, "session:s-abcdefghijklmnop").status_code == 200


@pytest.mark.spec("CONTROL 1.2")
def test_proof_used_again(realm: Harness, server: Postgres) -> None:
    """The store accepts a proof once, at all mints, while commits hang and after it."""
    operator, body = realm.operator(), {"targets": ["session:s-abcdefghijklmnop"], "reason": REASON, "wait": False}
    other = MintRuntime.open(realm.realm, store_url=realm.mint.store_url)
    with client_of(other) as second:
        headers = operator.headers("POST", "/v1/kills")
        begun = threading.Barrier(4)

        def send(client: httpx2.Client) -> int:
            begun.wait()
            return client.post("/v1/kills", json=body, headers=headers).status_code

        with ThreadPoolExecutor(4) as pool, server.hanging_commits():
            sent = list(pool.map(send, (realm.client, second, realm.client, second)))
            assert sorted(sent) == [200, 401, 401, 401]
        for client in (realm.client, second):
            answer = client.post("/v1/kills", json=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "replayed")
        until(lambda: recorded(realm))
    assert [entry.op for entry in realm.mint.store.log() if entry.target == body["targets"][0]] == ["kill"]
    assert len(recorded(realm)) == 1


@pytest.mark.spec("CONTROL 1.1")
def test_sign_in_used_again(realm: Harness, server: Postgres) -> None:
    """An assertion that the store has accepted opens nothing after it, when the database commits again."""
    holder = Holder(realm, realm.operator_key.key, None)
    path, body = "/v1/operators/token", {"assertion": realm.assertion(realm.operator_key)}
    with server.hanging_commits():
        assert holder.call("POST", path, body).status_code == 201
        assert holder.call("POST", path, body).json()["code"] == "replayed"
    until(lambda: realm.client.get("/readyz").status_code == 200)
    assert holder.call("POST", path, body).json()["code"] == "replayed"


@pytest.mark.nightly
def test_by_the_command(tmp_path: Path, server: Postgres, free_port: int) -> None:
    """``arx kill`` with a key and nothing else: through the mint, as the store's address is not here."""
    url = server.database()
    made = ("init", "--name", "acme", "--issuer", f"http://127.0.0.1:{free_port}", "--database", url)
    assert arx(*made, env={"ARX_HOME": str(tmp_path / "realm")}).exit_code == 0
    live = Live(tmp_path / "realm", free_port)
    try:
        key = tmp_path / "root.key"
        key.write_bytes((tmp_path / "realm" / "operator.key").read_bytes())
        key.chmod(0o600)
        command = ("kill", "session:s-abcdefghijklmnop", "--reason", REASON, "--yes", "--operator-key", key, "--json")
        with server.hanging_commits():
            began = time.monotonic()
            done = arx(*command, env={"ARX_HOME": str(tmp_path / "nothing")})
            assert done.exit_code in (0, 3), (done.out, done.err)
            assert done.json["by"] == "mint", (done.out, done.err)
            assert time.monotonic() - began < 15
    finally:
        live.stop()
        server.drop(url)
