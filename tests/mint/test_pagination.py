# SPDX-License-Identifier: Apache-2.0
"""Lists come in pages that miss nothing and repeat nothing, whatever begins or ends in between."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert

from arx_caps.mint.api.app import ENDPOINTS
from arx_caps.mint.api.pagination import MAX_ROWS_READ, PageQuery
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.tables import AGENTS, SESSIONS, TASKS
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token import wire
from tests.mint.harness import AGENT, LOOKUP, Harness, Holder, now_ms

pytestmark = pytest.mark.spec("CONTROL 4.3")

COUNT = 25
HOUR_MS = 3_600_000


def add_sessions(harness: Harness, count: int, **values: Any) -> list[str]:
    """Put sessions into the database, several of one millisecond, and return their ids, the oldest first."""
    epochs = harness.mint.epochs
    now = now_ms()
    row = {"agent": AGENT, "jkt": "x", "status": "open", "policy": harness.mint.policy.digest, "born": 0}
    row |= {"incarnation": epochs.view()[0], "expires_at": now + HOUR_MS} | values
    rows = [row | {"id": f"s-{number:016}", "opened_at": now + number // 4} for number in range(count)]
    with harness.mint.db.write() as c:
        c.execute(insert(SESSIONS), rows)
    return [each["id"] for each in rows]


def walk(caller: Holder, path: str, member: str, between: Any = None, **query: str) -> list[dict[str, Any]]:
    """Read a list page by page."""
    found: list[dict[str, Any]] = []
    while True:
        answer = caller.call("GET", path, **query)
        assert answer.status_code == 200, answer.text
        reply = answer.json()
        assert len(reply[member]) <= int(query.get("limit", 100))
        found += reply[member]
        if "next" not in reply:
            return found
        query["after"] = reply["next"]
        if between is not None:
            between()


def test_pages_miss_nothing_and_repeat_nothing(unit: Harness) -> None:
    """Every page size gives the same rows in the same order, also among those of one millisecond."""
    unit.enrol()
    ids = add_sessions(unit, COUNT)
    operator = unit.operator()
    for limit in (1, 7, 24, 25, 26, 1000):
        assert [row["id"] for row in walk(operator, "/v1/sessions", "sessions", limit=str(limit))] == ids[::-1]


def test_what_comes_meanwhile_moves_no_page(unit: Harness) -> None:
    """Sessions that are opened between two pages neither push a row onto the next one nor off it."""
    key = unit.enrol()
    ids = add_sessions(unit, COUNT)
    found = walk(unit.operator(), "/v1/sessions", "sessions", lambda: unit.open_session(key), limit="5")
    assert [row["id"] for row in found][-COUNT:] == ids[::-1]


def test_states_are_asked_for_page_by_page(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the kill epoch knows is found as well, where one page looks at few rows only."""
    monkeypatch.setattr("arx_caps.mint.api.pagination.MAX_ROWS_READ", 4)
    epochs = unit.epochs
    unit.enrol()
    ids = add_sessions(unit, COUNT)
    killed = ids[3::9]
    for session in killed:
        epochs.kill(f"session:{session}")
    with unit.mint.db.write() as c:
        c.execute(SESSIONS.update().where(SESSIONS.c.id == ids[0]).values(status="ended"))
        c.execute(SESSIONS.update().where(SESSIONS.c.id == ids[1]).values(expires_at=1))
    operator = unit.operator()

    def those(state: str) -> list[str]:
        return [row["id"] for row in walk(operator, "/v1/sessions", "sessions", state=state, limit="2")]

    assert those("killed") == killed[::-1]
    assert (those("ended"), those("expired"), those("frozen")) == ([ids[0]], [ids[1]], [])
    assert set(those("open")) == set(ids[2:]) - set(killed)


def test_no_more_is_read_than_a_page_needs(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an agent with a thousand sessions a page of open ones reads a page, and more where kills leave it short."""
    asked, sessions, epochs = [], unit.mint.db.sessions.list, unit.mint.epochs
    assert isinstance(epochs, UnsafeLocalEpochs)

    def spy(*, limit: int, **wanted: Any) -> list[dict[str, Any]]:
        asked.append(limit)
        return sessions(limit=limit, **wanted)

    unit.enrol()
    ids = add_sessions(unit, COUNT)
    monkeypatch.setattr(unit.mint.db.sessions, "list", spy)
    operator = unit.operator()
    for killed, reads in ((None, [6]), (ids[-1], [6, MAX_ROWS_READ])):
        asked.clear()
        if killed is not None:
            epochs.kill(f"session:{killed}")
        answer = operator.call("GET", "/v1/sessions", state="open", limit="5").json()
        assert (len(answer["sessions"]), "next" in answer, asked) == (5, True, reads)


def test_tasks_are_filtered_by_the_mint(unit: Harness) -> None:
    """By session, agent, template and state, and for an agent its own alone."""
    holder, session = unit.session()
    other, _ = unit.open_session(unit.enrol("acme/support/other"))
    for caller in (holder, holder, other):
        assert caller.call("POST", "/v1/tasks", LOOKUP).status_code == 201
    operator = unit.operator()

    def count(caller: Holder, **query: str) -> int:
        return len(walk(caller, "/v1/tasks", "tasks", **query))

    assert (count(operator), count(operator, agent=AGENT), count(operator, session=session["id"])) == (3, 2, 2)
    assert (count(operator, template="lookup"), count(operator, template="refund")) == (3, 0)
    assert (count(operator, state="open"), count(operator, state="ended")) == (3, 0)
    assert (count(holder, limit="1"), count(holder, agent="acme/support/other")) == (2, 0)


def test_agents_are_counted_and_found_below_a_path(unit: Harness) -> None:
    """A filter by path takes whole segments: a path that begins alike is another agent."""
    operator = unit.operator()
    row = {"status": "active", "metadata": "{}", "created_at": 1}
    paths = ["acme/a", "acme/a/b", "acme/a-b", "acme/ab", "acme/a_b/c", "other"]
    with unit.mint.db.write() as c:
        c.execute(insert(AGENTS), [row | {"path": path} for path in paths])
    answer = operator.call("GET", "/v1/agents", limit="2").json()
    assert (answer["total"], len(answer["agents"])) == (6, 2)
    assert [row["path"] for row in walk(operator, "/v1/agents", "agents", limit="2")] == sorted(paths)
    assert [row["path"] for row in walk(operator, "/v1/agents", "agents", under="acme/a")] == ["acme/a", "acme/a/b"]
    assert walk(operator, "/v1/agents", "agents", state="deactivated") == []


BAD = {
    "limit": ["0", "-1", "1001", "x", "1.5", ""],
    "after": [
        "x",
        "!",
        wire.text_of(b"[1]"),
        wire.text_of(b'["a","b"]'),
        wire.text_of(b'[99999999999999999999,"s"]'),
    ],
    "state": ["asleep", "OPEN", ""],
}


def test_a_page_that_cannot_be_is_refused(unit: Harness) -> None:
    """A limit out of bounds, a cursor that the mint did not give, an unknown state: 400, never a page of all."""
    operator = unit.operator()
    for name, values in BAD.items():
        for value in values:
            answer = operator.call("GET", "/v1/sessions", **{name: value})
            assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request"), (name, value)


def test_every_list_comes_in_pages() -> None:
    """What a route lists without end, it lists in pages; the log's records have an order and bounds of their own."""
    lists = [each for each in ENDPOINTS if each.method == "GET" and each.handler.__name__.startswith("list_")]
    whole = {each.path for each in lists if not issubclass(each.query, PageQuery)}
    assert {path for path in whole if not path.startswith("/v1/audit/")} == {
        "/v1/keys",
        "/v1/root-keys",
        "/v1/scopes",
        "/v1/sessions/{session}/marks",
        "/v1/signing-keys",
        "/v1/webhooks",
    }  # as few as are kept, as a policy has, or as a session can have
    assert {path for path in whole if path.startswith("/v1/audit/")} == {"/v1/audit/records", "/v1/audit/nodes"}


def test_policies_come_in_pages(unit: Harness) -> None:
    """The last in force first, each once."""
    operator = unit.operator()
    text = unit.realm.policy_path.read_text("utf-8")
    for hours in (1, 2, 3):
        changed = {"policy": text.replace('ttl = "8h"', f'ttl = "{hours}h"')}
        assert operator.call("POST", "/v1/policies", changed).status_code == 200
    found = walk(operator, "/v1/policies", "policies", limit="1")
    assert len({row["digest"] for row in found}) == len(found) >= 3
    assert [row["in_force"] for row in found] == [True] + [False] * (len(found) - 1)


def test_no_text_reaches_the_database_that_it_cannot_keep(unit: Harness) -> None:
    """A zero character in path, query or body is refused alike on every database, or finds nothing."""
    operator = unit.operator()
    for method, path, body in (
        ("GET", "/v1/sessions/%00", None),
        ("DELETE", "/v1/tasks/%00", None),
        ("GET", "/v1/operators/%00", None),
        ("POST", "/v1/agents", {"path": "acme/x", "jwk": unit.session_key.public.jwk, "owner": "a\0b"}),
    ):
        assert operator.call(method, path, body).status_code in (201, 400, 404), (method, path)
    for name in ("agent", "after"):
        assert operator.call("GET", "/v1/sessions", **{name: "\0"}).status_code in (200, 400)


def test_a_task_is_listed_with_its_session(unit: Harness) -> None:
    """A session shows its newest tasks, and where the rest of them is."""
    holder, session = unit.session()
    assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 201
    with unit.mint.db.write() as c:
        row = c.execute(TASKS.select()).mappings().one()
        c.execute(insert(TASKS), [{**row, "id": f"t-{number}", "started_at": number} for number in range(120)])
    answer = holder.call("GET", f"/v1/sessions/{session['id']}").json()
    rest = holder.call("GET", "/v1/tasks", after=answer["next"]).json()
    assert (len(answer["tasks"]), len(rest["tasks"]), "next" in rest) == (100, 21, False)


def test_sessions_are_found_by_whom_they_are_for_and_by_what_was_done(unit: Harness) -> None:
    """Filters hold together, page by page; what no session is like is an empty list."""
    unit.enrol()
    anns = add_sessions(unit, COUNT, subject="ann", subject_issuer="https://id.example", subject_claims="{}")
    operator = unit.operator()
    holder, own = unit.open_session(unit.enrol("acme/support/other"))
    assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 201
    for query, wanted in (
        ({"subject": "ann"}, anns[::-1]),
        ({"subject": "ann", "agent": AGENT, "state": "open"}, anns[::-1]),
        ({"subject": "ann", "template": "lookup"}, []),
        ({"subject": "an"}, []),
        ({"template": "lookup"}, [own["id"]]),
        ({"template": "refund"}, []),
    ):
        found = walk(operator, "/v1/sessions", "sessions", limit="7", **query)
        assert [each["id"] for each in found] == wanted, query
    assert operator.call("GET", "/v1/sessions", subject="").status_code == 400


def test_a_list_by_template_looks_at_no_task_twice(tmp_path: Path) -> None:
    """Whether a session has one is one look into an index, also where every session has many of that template."""
    with MintDatabase(f"sqlite:///{tmp_path}/mint.db") as db:
        db.create()
        asked: list[tuple[str, Any]] = []
        with db.read() as c:
            event.listen(
                c.engine, "before_cursor_execute", lambda _, __, sql, values, *___: asked.append((sql, values))
            )
        db.sessions.list(template="lookup", limit=101)
        sql, values = asked[-1]
        with db.read() as c:
            plan = c.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values).all()
    assert any("tasks_by_template (session=? AND template=?)" in row[-1] for row in plan), plan
