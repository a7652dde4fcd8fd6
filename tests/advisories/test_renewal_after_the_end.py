# SPDX-License-Identifier: Apache-2.0
"""A holder could prolong a session or a task that the mint had reported as over.

Whether its time was over was asked before the change was written.  An operator who ended it in between read that it
had ended by itself, and no kill was made; then it went on for hours.
"""

from collections.abc import Callable

import pytest

from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.tables import SESSIONS, TASKS, GrantRow
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError
from tests.mint.test_races import MARK, SOME, dbs, enrol, open_session, start_task

__all__ = ["dbs"]  # a fixture


def prolong_session(db: MintDatabase) -> None:
    db.sessions.renew(db.unit(), "s-1", {"expires_at": now_ms() + 60_000}, MARK, "acme", SOME)


def grant() -> GrantRow:
    return GrantRow("l-more", "t-1", "{}", "p", now_ms(), now_ms() + 60_000)


def extend_task(db: MintDatabase) -> None:
    db.grants.add(db.unit(), grant(), MARK, "acme", SOME)


def attenuate_task(db: MintDatabase) -> None:
    db.grants.replace(db.unit(), {"l-t-1"}, grant(), "l-t-1", [], MARK, "acme", SOME)


@pytest.mark.parametrize("prolong", [prolong_session, extend_task, attenuate_task])
def test_what_is_over_is_not_prolonged(
    dbs: tuple[MintDatabase, MintDatabase], prolong: Callable[[MintDatabase], None]
) -> None:
    """Once its row says that its time is over, nothing lets it go on, whenever that was looked at before."""
    db, _ = dbs
    enrol(db)
    open_session(db, "s-1")
    start_task(db, "t-1", "s-1")
    with db.write() as c:
        for table in (SESSIONS, TASKS):
            c.execute(table.update().values(expires_at=now_ms()))
    with pytest.raises(GrantError, match="over"):
        prolong(db)
    assert {row.expires_at <= now_ms() for row in (db.sessions.find("s-1"), db.tasks.find("t-1")) if row} == {True}
