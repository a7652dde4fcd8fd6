# SPDX-License-Identifier: Apache-2.0
"""M106.  Requests that nobody ever answered made each further one dearer, while the mint's database was held for it.

Whether a session has too many that wait was found among all that waited when their tasks ended, of every session: at
200 000 a tenth of a second, and an agent can ask as often as it starts tasks.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import event

from tests.mint.approvals import Desk
from tests.mint.world import local_world

COUNTED = "count(*)"


def test_a_request_looks_at_those_of_its_session_alone(tmp_path: Path) -> None:
    """
    How many wait is one look into an index of the session's.
    """
    world, _ = local_world(tmp_path / "realm")
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, sql: str, values: Any, *___: Any) -> None:
        asked.append((sql, values))

    try:
        desk = Desk(world)
        event.listen(world.mint.state._engine, "before_cursor_execute", note)
        desk.ask()
        found = [(sql, values) for sql, values in asked if COUNTED in sql and "approvals" in sql]
        assert len(found) == 1
        with world.mint.state.read() as c:
            plan = c.exec_driver_sql(f"EXPLAIN QUERY PLAN {found[0][0]}", found[0][1]).all()
    finally:
        world.mint.close()
    assert any("approvals_waiting (session=? AND status=?)" in row[-1] for row in plan), plan
