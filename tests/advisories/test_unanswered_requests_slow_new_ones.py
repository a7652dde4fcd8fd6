# SPDX-License-Identifier: Apache-2.0
"""An agent could slow each further approval request, with requests that no operator answers.

Whether a session has too many that wait was found among all that waited when their tasks ended, of every session: at
200 000 a tenth of a second, and an agent can ask as often as it starts tasks.
"""

from typing import Any

import pytest
from sqlalchemy import event, select, update

from arx_caps.mint.db.repositories.work.approvals import ENDED, MAX_CLOSED, WAITING
from arx_caps.mint.db.tables import APPROVALS, TASKS
from tests.mint.approvals import Desk
from tests.mint.harness import Harness, now_ms

COUNTED = "count(*)"


pytestmark = pytest.mark.sqlite


def test_a_request_looks_at_those_of_its_session_alone(unit: Harness) -> None:
    """
    How many wait is one look into an index of the session's.
    """
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, sql: str, values: Any, *___: Any) -> None:
        asked.append((sql, values))

    desk = Desk(unit)
    event.listen(unit.mint.db._engine, "before_cursor_execute", note)
    desk.ask()
    found = [(sql, values) for sql, values in asked if COUNTED in sql and "approvals" in sql]
    assert len(found) == 1
    with unit.mint.db.read() as c:
        plan = c.exec_driver_sql(f"EXPLAIN QUERY PLAN {found[0][0]}", found[0][1]).all()
    assert any("approvals_waiting (session=? AND status=?)" in row[-1] for row in plan), plan


def test_unanswered_requests_do_not_gather(unit: Harness) -> None:
    """
    Each request takes some whose task is over from those that wait; they stay in the list as what ended.
    """
    desk = Desk(unit)
    for _ in range(MAX_CLOSED):
        desk.ask()
    ended = desk.id
    with unit.mint.db.write() as c:
        c.execute(update(TASKS).where(TASKS.c.id == ended).values(expires_at=now_ms()))
    desk.id, desk.task = desk.start()
    desk.caveat = desk.third_party(desk.task)
    asked = desk.ask()
    with unit.mint.db.read() as c:
        statuses = c.execute(select(APPROVALS.c.task, APPROVALS.c.status)).all()
    assert {status for task, status in statuses if task == ended} == {ENDED}
    assert [status for task, status in statuses if task != ended] == [WAITING]
    listed = desk.agent.call("GET", "/v1/approvals", state="ended", task=ended).json()["approvals"]
    assert len(listed) == MAX_CLOSED
    waiting = desk.agent.call("GET", "/v1/approvals", state="waiting").json()["approvals"]
    assert [each["id"] for each in waiting] == [asked["id"]]
