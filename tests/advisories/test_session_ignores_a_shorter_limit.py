# SPDX-License-Identifier: Apache-2.0
"""An agent could act for a subject for longer than the policy in force allows.

How much longer than the subject's own token it may live was asked when it was opened and never again: a policy that
made it shorter, because a person's login was not to be outlived any more, changed nothing for what ran.
"""

from typing import Any

import pytest

from arx_caps.mint.db.tables import SESSIONS
from tests.mint.harness import Harness, Holder
from tests.mint.workloads import DESK, POLICY, WORKLOADS, Desk, behalf

pytestmark = WORKLOADS


def outlive(harness: Harness, duration: str) -> None:
    harness.realm.policy_path.write_text(POLICY.replace('subject_outlives = "10m"', f'subject_outlives = "{duration}"'))
    harness.mint.reload_policy()


def renew(holder: Holder, session: dict[str, Any]) -> Any:
    return holder.call("POST", f"/v1/sessions/{session['id']}/renew").json()


@pytest.fixture
def opened(unit: Harness) -> tuple[Holder, dict[str, Any]]:
    """A session that may outlive its subject's token by ten minutes."""
    holder, answer = Desk(unit, DESK).ask(**behalf(groups=["leads"]))
    return holder, answer["session"]


def test_a_shorter_limit_shortens_what_runs(unit: Harness, opened: tuple[Holder, dict[str, Any]]) -> None:
    """The renewal ends it by the terms in force; a limit that became longer prolongs nothing."""
    holder, session = opened
    outlive(unit, "20m")
    assert renew(holder, session)["session"]["ends_at"] == session["ends_at"]
    outlive(unit, "1m")
    answer = renew(holder, session)
    assert answer["session"]["ends_at"] == session["ends_at"] - 9 * 60_000
    assert answer["expires_at"] <= answer["session"]["ends_at"]
    outlive(unit, "10m")
    assert renew(holder, session)["session"]["ends_at"] == session["ends_at"] - 9 * 60_000


def test_who_has_been_gone_for_too_long_is_not_acted_for(unit: Harness, opened: tuple[Holder, dict[str, Any]]) -> None:
    """Their token ended two minutes ago, and the policy now gives one: no renewal."""
    holder, session = opened
    earlier = 7 * 60_000  # the token lived five minutes
    with unit.mint.db.write() as c:
        c.execute(SESSIONS.update().values(subject_until=session["ends_at"] - 10 * 60_000 - earlier))
    assert "token" in renew(holder, session)
    outlive(unit, "1m")
    assert renew(holder, session)["code"] == "session_ended"


def test_without_a_subject_nothing_is_shorter(unit: Harness) -> None:
    """A token without a subject ends no session of a subject."""
    holder, session = unit.session()
    outlive(unit, "0s")
    assert renew(holder, session)["session"]["ends_at"] == session["ends_at"]
