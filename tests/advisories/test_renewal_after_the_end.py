# SPDX-License-Identifier: Apache-2.0
"""A holder could prolong a session or a task that the mint had reported as over.

Whether its time was over was asked before the change was written.  An operator who ended it in between was told that it
had ended by itself, and no kill was made; then it went on for hours.
"""

from collections.abc import Callable

import pytest

from arx_caps.mint.db.state import MintState, now_ms
from arx_caps.mint.db.tables import SESSIONS, TASKS
from arx_verifier.errors import GrantError
from tests.mint.test_races import MARK, SOME, enrol, open_session, start_task, states

__all__ = ["states"]  # a fixture


def prolong_session(state: MintState) -> None:
    state.renew_session("s-1", {"expires_at": now_ms() + 60_000}, MARK, "acme", SOME)


def grant() -> dict[str, object]:
    ends = {"granted_at": now_ms(), "expires_at": now_ms() + 60_000}
    return {"link": "l-more", "content": "{}", "policy": "p", **ends}


def extend_task(state: MintState) -> None:
    state.add_grant("t-1", grant(), MARK, "acme", SOME)


def attenuate_task(state: MintState) -> None:
    state.replace_grants("t-1", {"l-t-1"}, {**grant(), "before": "l-t-1"}, "[]", MARK, "acme", SOME)


@pytest.mark.parametrize("prolong", [prolong_session, extend_task, attenuate_task])
def test_what_is_over_is_not_prolonged(
    states: tuple[MintState, MintState], prolong: Callable[[MintState], None]
) -> None:
    """Once its row says that its time is over, nothing lets it go on, whenever that was looked at before."""
    state, _ = states
    enrol(state)
    open_session(state, "s-1")
    start_task(state, "t-1", "s-1")
    with state.write() as c:
        for table in (SESSIONS, TASKS):
            c.execute(table.update().values(expires_at=now_ms()))
    with pytest.raises(GrantError, match="over"):
        prolong(state)
    assert {row["expires_at"] <= now_ms() for row in (state.session("s-1"), state.task("t-1")) if row} == {True}
